"""Run -> the networks that it trains and learns from, the objective and the data; mistakes come before any weights."""

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch

from koala.distill import few_steps
from koala.distill.batch import Examples
from koala.distill.config import INHERIT, Run
from koala.distill.data.beside import beside
from koala.distill.data.cache import Cache
from koala.distill.data.captions import Captions
from koala.distill.data.encoding import Preparation, preparation_for
from koala.distill.data.on_the_fly import OnTheFly
from koala.distill.data.pairs import KIND
from koala.distill.data.sources import open_source
from koala.distill.dmd2 import PAIRS, REAL
from koala.distill.dropout import without_captions
from koala.distill.finetune import FineTuning, Watch
from koala.distill.kd import Distillation, Weights, check_teacher
from koala.distill.lora import TEXT_TARGETS, CaptionFineTuning, add_adapters
from koala.distill.matching import Pair, pairs
from koala.distill.objective import Objective
from koala.distill.regression import Regression
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.conditioning import ClipConditioner
from koala.models.inherit import inherit
from koala.models.load import RANDOM, load
from koala.models.networks import meta_networks
from koala.models.spec import ClassLabels, ClipText, ModelSpec
from koala.models.student import fresh, unet_weights
from koala.models.unet import UNet
from koala.models.weights.fill import fit

FROZEN = ("text", "autoencoder")
_RANDOM_CROPS = 2**62  # so many that no image is cut twice alike but by chance
_OWN_SEED = 100  # a random student has no tensor in common with a random teacher


@dataclass(frozen=True)
class Models:
    """What a run names, looked up: the student, at the run's resolution, and its teacher."""

    student: ModelSpec
    teacher: ModelSpec | None
    critic: ModelSpec | None = None  # of a generator of few steps
    pairs: tuple[Pair, ...] = ()  # of features that are compared

    @property
    def frozen(self) -> ModelSpec:
        """The model whose text encoders and autoencoder are used."""
        return self.teacher or self.student


@dataclass(frozen=True)
class Assembly:
    """A run, ready to be trained."""

    models: Models
    unet: UNet
    conditioner: ClipConditioner | None  # where text encoders are trained too
    objective: Objective
    examples: Examples
    data_digest: str  # of the cache, or of the source


def models_of(run: Run) -> Models:
    """The models of a run; a `KoalaError` says what in it does not go together."""
    student = zoo.get(run.student)
    student = replace(student, resolution=run.resolution or student.resolution)
    student.check_side(student.resolution)
    if run.timesteps:
        student = replace(student, recipe=few_steps.recipe(run))
    teacher = zoo.get(run.teacher) if run.teacher else None
    matched: tuple[Pair, ...] = ()
    critic = None
    if teacher:
        check_teacher(teacher, student)
        if run.student_weights == INHERIT:
            _check_inheritance(run, teacher, student)
        matched = pairs(run.features, run.location, teacher.unet, student.unet)
        if run.follows:
            critic = zoo.get(run.critic) if run.critic else teacher
            check_teacher(critic, student)
    elif run.features:
        raise KoalaError("there are --features to compare and no --teacher to compare them with")
    _check_contrast(run, student, critic)
    text = run.lora_rank and not teacher and run.on_the_fly and isinstance(student.conditioning, ClipText)
    if run.lora_text and not text:
        raise KoalaError("--lora-text needs --lora-rank, --on-the-fly, a model with CLIP text encoders and no teacher")
    return Models(student, teacher, critic, matched)


def _check_contrast(run: Run, student: ModelSpec, critic: ModelSpec | None) -> None:
    """Raise a `KoalaError` where a run needs images without a class and its model knows none."""
    plan = student.conditioning
    if not isinstance(plan, ClassLabels) or plan.droppable:
        return
    if run.caption_dropout or (critic and run.guidance != 1):
        raise KoalaError(
            f"{student.name} knows no image without a class: leave out --caption-dropout, and give --guidance 1"
        )


def _check_inheritance(run: Run, teacher: ModelSpec, student: ModelSpec) -> None:
    """Raise a `KoalaError` where the teacher's weights are no beginning for this student."""
    if run.lora_rank:
        raise KoalaError(
            "adapters go onto weights that others have too: name those by --student-weights, or give --lora-rank 0"
        )
    if teacher.prediction != student.prediction:
        raise KoalaError(
            f"{student.name} predicts {student.prediction} and cannot begin with the weights of {teacher.name}, which "
            f"predicts {teacher.prediction}: choose another --teacher or other --student-weights"
        )
    inherit(teacher.unet, student.unet)


def open_cache(run: Run, models: Models) -> Cache | None:
    """The run's encoded images, which fit its models; none where they are encoded on the fly."""
    if not run.data:
        raise KoalaError("there is no --data: a cache (`python -m koala encode`), or with --on-the-fly a source")
    if run.on_the_fly:
        return None
    cache = Cache(run.data, run.seed)
    cache.refuse_other(models.student, models.student.resolution)
    made = cache.index.settings.get("weights")
    if made is not None and (made == RANDOM) != (run.teacher_weights == RANDOM):
        raise KoalaError(
            f"{run.data} was encoded with the weights {made!r}, and this run has --teacher-weights "
            f"{run.teacher_weights!r}: one of them is random and the other is not"
        )
    return cache


def open_others(run: Run, models: Models, data: Cache | None) -> dict[str, Cache]:
    """Further caches that the run names, which fit its models: the GAN's real images, and pairs."""
    found = {}
    for name, folder in ((REAL, run.real), (PAIRS, run.pairs)):
        if folder:
            found[name] = cache = Cache(folder, run.seed)
            cache.refuse_other(models.student, models.student.resolution)
    learnt = found.get(PAIRS, data)
    if run.regression_weight and (learnt is None or learnt.index.settings.get("made") != KIND):
        raise KoalaError("regression learns from pairs: give a cache of `python -m koala pairs`, by --pairs or --data")
    if run.regression_weight and run.follows and data is not None:
        found.setdefault(PAIRS, data)
    return found


def assemble(run: Run, device: torch.device, watch: Watch) -> Assembly:
    """The networks of the run, the student in fp32 and the teacher in the run's precision, and what trains them."""
    models = models_of(run)
    cache, held = open_cache(run, models), None
    if cache is None:
        source = open_source(run.data)
        indexed, digest = source.indexed(), source.digest  # before any weights are read
        held = load(models.frozen, device, run.precision, run.teacher_weights, FROZEN)
        examples: Examples = OnTheFly(indexed, preparation(run, models), held, run.seed, run.batch_size)
    else:
        examples, digest = cache, data_digest(cache)
    distance = few_steps.distance(run, models.frozen, device)
    unet = student_unet(run, models)
    options: dict[str, Any] = {
        "seed": run.seed,
        "min_snr_gamma": run.min_snr_gamma,
        "noise_offset": run.noise_offset,
        "watch": watch,
    }
    conditioner = None
    objective: Objective
    if run.lora_text:
        assert held is not None and isinstance(held.conditioner, ClipConditioner)
        # With tokenizers of its own: those of `held` are at work in the threads that read ahead.
        conditioner = ClipConditioner(held.conditioner.plan, held.conditioner.encoders)
        for i, encoder in enumerate(conditioner.encoders):
            add_adapters(encoder, run.lora_rank, run.lora_alpha, TEXT_TARGETS, seed=run.seed + 1 + i)
        objective = CaptionFineTuning(models.student, unet, conditioner, **options)
    elif models.teacher is None:
        objective = FineTuning(models.student, unet, **options)
    elif run.timesteps and models.critic is None:
        objective = Regression(models.student, unet, run.timesteps[0], distance, watch)
    elif models.critic is not None:
        named = models.student, models.teacher, models.critic
        objective = few_steps.objective(run, *named, unet, examples.empty(), device, distance=distance, watch=watch)
    else:
        objective = _distillation(run, models, models.teacher, unet, device, options)
    examples = without_captions(examples, run.caption_dropout, run.seed)
    others = open_others(run, models, cache)
    examples = beside(examples, others, run.seed)
    digest = " ".join([digest, *map(data_digest, others.values())])
    return Assembly(models, unet, conditioner, objective, examples, digest)


def student_unet(run: Run, models: Models) -> UNet:
    """The U-Net that is trained, on the CPU in fp32; with fresh adapters on frozen weights where the run is LoRA."""
    student, teacher = models.student, models.teacher
    if run.student_weights == INHERIT:
        assert teacher is not None
        unet = inherited(teacher, student, run.teacher_weights, run.seed)
    else:
        seed = run.seed + (_OWN_SEED if teacher and not run.lora_rank else 0)
        unet = load(student, "cpu", "fp32", run.student_weights, ("unet",), seed).unet
    if run.lora_rank:
        add_adapters(unet, run.lora_rank, run.lora_alpha, run.lora_targets, seed=run.seed)
    return unet


@torch.no_grad()
def inherited(teacher: ModelSpec, student: ModelSpec, weights: str, seed: int) -> UNet:
    """The student's U-Net in fp32 with the teacher's tensors in their places; what has no place there is fresh."""
    places, source = inherit(teacher.unet, student.unet).inherited, unet_weights(teacher, weights, seed=seed)
    names = {ours: theirs for theirs, ours in fit(meta_networks(teacher, ("unet",))["unet"], source).items()}
    unet = meta_networks(student, ("unet",))["unet"].to_empty(device="cpu")
    for key, tensor in unet.state_dict().items():
        tensor.copy_(source.tensor(names[places[key]]) if key in places else fresh(unet, key, seed))
    assert isinstance(unet, UNet)
    return unet


def _distillation(
    run: Run, models: Models, teacher: ModelSpec, unet: UNet, device: torch.device, options: dict
) -> Distillation:
    taught_by = load(teacher, device, run.precision, run.teacher_weights, ("unet",), run.seed).unet
    assert taught_by is not None
    weights = Weights(run.task_weight, run.output_weight, run.feature_weight)
    return Distillation(models.student, unet, teacher, taught_by, run.features, run.location, weights, **options)


def preparation(run: Run, models: Models) -> Preparation:
    """How images are let in and cut on the fly: in the centre, or one of more random ways than there are steps."""
    captions, crops = Captions(run.caption_columns, run.captions), _RANDOM_CROPS if run.random_crop else 1
    choices = {"captions": captions, "crops": crops, "flip": run.random_flip, "seed": run.seed}
    return preparation_for(models.student, models.student.resolution, **choices)


def data_digest(cache: Cache) -> str:
    """A digest of all that a cache holds, from those of its files."""
    shards = [shard["files"] for shard in cache.index.shards]
    return sha256(json.dumps([cache.index.settings, shards], sort_keys=True).encode()).hexdigest()
