"""What distillation does with its two networks, beside the values of its losses."""

from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from distilled import BK, CASES, SEED, distillation, near, unet_of
from random_batch import random_batch, some_rows
from torch import nn

from koala.distill.kd import Distillation, Weights, check_teacher
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.spec import ClassLabels


def test_the_loss_of_a_batch_is_the_mean_of_its_halves():
    objective = distillation("bk-sdm-tiny", min_snr_gamma=5.0)
    batch = random_batch(CASES["bk-sdm-tiny"][0], n=4, positions=(11, 40, 5, 6))
    rows = (slice(0, 4), slice(0, 2), slice(2, 4))
    whole, *halves = (objective.terms("unet", some_rows(batch, chosen)) for chosen in rows)
    for part, value in whole.parts.items():
        near(sum(half.parts[part] for half in halves) / 2, value, 1e-5)
    near(sum(half.total.detach() for half in halves) / 2, whole.total.detach(), 1e-5)


def test_noise_follows_the_position_and_not_the_place_in_the_batch():
    objective = distillation("bk-sdm-tiny", features=())
    batch = random_batch(CASES["bk-sdm-tiny"][0], n=2)
    here, there, again = (
        objective.terms("unet", replace(some_rows(batch, slice(1)), positions=(position,))).total
        for position in (7, 8, 7)
    )
    assert here == again and here != there


# What is not asked for is not done -----------------------------------------------------------------------------------


class Silent(nn.Module):
    """A teacher that must not be asked."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *_, **__):
        raise AssertionError("the teacher ran")


def test_without_output_and_feature_term_the_teacher_does_not_run():
    spec, teacher, features, _ = CASES["bk-sdm-tiny"]
    silent = Silent(unet_of(teacher, 1))
    weights = Weights(1.0, 0.0, 0.0)
    objective = Distillation(spec, unet_of(spec, 0), teacher, silent, features, weights=weights, seed=SEED)
    terms = objective.terms("unet", random_batch(spec))
    assert terms.parts.keys() == {"task"} and torch.equal(terms.total.detach(), terms.parts["task"])
    assert not objective.pairs


def test_without_features_nothing_is_tapped():
    for options in ({"features": ()}, {"weights": Weights(1.0, 1.0, 0.0)}):
        objective = distillation("bk-sdm-tiny", **options)
        networks = (objective.trained["unet"], objective.teacher)
        assert not any(module._forward_hooks for network in networks for module in network.modules())
        terms = objective.terms("unet", random_batch(CASES["bk-sdm-tiny"][0]))
        assert terms.parts.keys() == {"task", "output"}


def test_each_term_can_stand_alone():
    batch = random_batch(CASES["bk-sdm-tiny"][0])
    whole = distillation("bk-sdm-tiny").terms("unet", batch).parts
    for part in ("task", "output", "feature"):
        weights = Weights(**{name: float(name == part) for name in ("task", "output", "feature")})
        alone = distillation("bk-sdm-tiny", weights=weights).terms("unet", batch)
        assert {name.partition("/")[0] for name in alone.parts} == {part}
        near(alone.total.detach(), whole[part])


@pytest.mark.parametrize(
    "options", [{"weights": Weights(0.0, 0.0, 0.0)}, {"features": (), "weights": Weights(0.0, 0.0)}]
)
def test_learning_nothing_is_refused(options):
    with pytest.raises(KoalaError, match="nothing is learnt"):
        distillation("bk-sdm-tiny", **options)


@pytest.mark.parametrize(("processes", "refused"), [(1, False), (2, True)])
def test_features_alone_are_refused_on_several_processes_which_wait_for_every_weight(monkeypatch, processes, refused):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    student, teacher, features, _ = CASES["bk-sdm-tiny"]
    with pytest.raises(KoalaError, match="--task-weight, --output-weight") if refused else nullcontext():
        Distillation(
            student, unet_of(student, 0), teacher, unet_of(teacher, 1), features, weights=Weights(0.0, 0.0, 1.0)
        )


# The two networks ----------------------------------------------------------------------------------------------------


def test_the_teacher_is_frozen_and_the_student_trains():
    objective = distillation("bk-sdm-tiny")
    before = deepcopy(objective.teacher.state_dict())
    objective.trained["unet"].zero_grad()
    objective.terms("unet", random_batch(CASES["bk-sdm-tiny"][0])).total.backward()
    assert not objective.teacher.training and objective.trained["unet"].training
    assert not any(p.requires_grad or p.grad is not None for p in objective.teacher.parameters())
    assert all(p.grad is not None for p in objective.trained["unet"].parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in objective.teacher.state_dict().items())
    assert objective.trained.keys() == {"unet"} and list(objective.turns(0)) == ["unet"]


def test_bf16_is_near_fp32_with_the_teacher_in_its_own_precision():
    batch = random_batch(CASES["velocity"][0])
    exact = distillation("velocity").terms("unet", batch)
    objective = distillation("velocity", dtype="bf16")
    inputs = []
    objective.teacher.conv_in.register_forward_hook(lambda _, given, out: inputs.append((given[0].dtype, out.dtype)))
    objective.trained["unet"].zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.terms("unet", batch)
    assert inputs == [(torch.bfloat16, torch.bfloat16)]
    assert terms.total.dtype == torch.float32
    for part, value in exact.parts.items():
        torch.testing.assert_close(terms.parts[part], value, rtol=0.05, atol=0.0)
    terms.total.backward()
    gradients_ = [p.grad for p in objective.trained["unet"].parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients_)


def test_an_fp32_teacher_stays_in_fp32_while_the_student_is_autocast():
    objective = distillation("bk-sdm-tiny")
    kinds = []
    networks = (objective.teacher, objective.trained["unet"])
    handles = [n.conv_in.register_forward_hook(lambda *call: kinds.append(call[-1].dtype)) for n in networks]
    with torch.autocast("cpu", torch.bfloat16):
        objective.terms("unet", random_batch(CASES["bk-sdm-tiny"][0]))
    for handle in handles:
        handle.remove()
    assert kinds == [torch.float32, torch.bfloat16]


def test_sizes_in_pixels_are_not_rounded_for_a_teacher_in_bf16():
    objective = distillation("koala-700m", dtype="bf16", features=())
    told = []

    def keep(module, given, arguments, output):
        told.append(arguments["added_cond_kwargs"]["time_ids"])

    objective.teacher.register_forward_hook(keep, with_kwargs=True)
    batch = random_batch(CASES["koala-700m"][0])  # 1023 pixels, which bf16 does not have
    objective.terms("unet", batch)
    assert torch.equal(told[0].float(), batch.sizes)


class Wrapper(nn.Module):
    """As DDP wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_the_network_that_the_trainer_has_wrapped_is_the_one_that_runs():
    objective = distillation("bk-sdm-tiny")
    batch = random_batch(CASES["bk-sdm-tiny"][0])
    expected = objective.terms("unet", batch).parts
    calls, bare = [], objective.trained["unet"]
    objective.trained["unet"] = wrapped = Wrapper(bare)
    wrapped.register_forward_hook(lambda *_: calls.append(1))
    found = objective.terms("unet", batch).parts
    objective.trained["unet"] = bare
    assert calls == [1] and found.keys() == expected.keys()
    assert all(torch.equal(found[part], expected[part]) for part in expected)


def test_the_time_of_both_networks_is_taken():
    names = []

    @contextmanager
    def watch(name):
        names.append(name)
        yield

    distillation("bk-sdm-tiny", watch=watch).terms("unet", random_batch(CASES["bk-sdm-tiny"][0]))
    assert names == ["teacher", "student"]


class AsVelocity(nn.Module):
    """A network that predicts noise, retold as velocity."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, samples, timesteps, **told):
        noise = self.network(samples, timesteps, **told)[0]
        alphas = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").alphas_cumprod[timesteps][:, None, None, None]
        clean = (samples - (1 - alphas).sqrt() * noise) / alphas.sqrt()
        return (alphas.sqrt() * noise - (1 - alphas).sqrt() * clean,)


def test_a_teacher_of_another_kind_of_prediction_teaches_what_it_means():
    spec = CASES["bk-sdm-base"][0]
    unet, batch = unet_of(spec, 0), random_batch(spec)
    other = replace(spec, prediction="v_prediction")
    told = Distillation(spec, unet, other, AsVelocity(deepcopy(unet)), seed=SEED).terms("unet", batch)
    assert told.parts["output"] < 1e-8
    mistaken = Distillation(spec, unet, spec, AsVelocity(deepcopy(unet)), seed=SEED).terms("unet", batch)
    assert mistaken.parts["output"] > 1e-2


CLASSES = replace(
    zoo.get("tiny-bk-sdm-tiny"),
    unet=replace(
        zoo.get("tiny-bk-sdm-tiny").unet,
        transformer_depths=(0, 0, 0),
        context_dim=None,
        class_labels=4,
        sample_channels=3,
    ),
    conditioning=ClassLabels(("goldfish", "heron", "lighthouse")),
    autoencoder=None,
)


def test_models_of_classes_in_pixel_space_are_distilled_too():
    teacher = replace(CLASSES, unet=replace(CLASSES.unet, layers_per_block=2, mid_depth=0))
    objective = Distillation(CLASSES, unet_of(CLASSES, 0), teacher, unet_of(teacher, 1), BK, seed=SEED)
    terms = objective.terms("unet", random_batch(CLASSES))
    terms.total.backward()
    assert {"task", "output", "feature", "feature/DW-1", "feature/UP-3"} <= terms.parts.keys()
    assert objective.trained["unet"].class_embedding.weight.grad.abs().sum() > 0


# Who may teach whom --------------------------------------------------------------------------------------------------

STUDENT = zoo.get("tiny-bk-sdm-tiny")
WIDE = replace(STUDENT.conditioning, encoders=tuple(replace(e, width=48) for e in STUDENT.text_encoders))
REFUSED = {
    "the width of the text states": replace(STUDENT, unet=replace(STUDENT.unet, context_dim=48), conditioning=WIDE),
    "the width of the pooled text": replace(STUDENT, unet=replace(STUDENT.unet, pooled_dim=32)),
    "the number of classes": replace(STUDENT, unet=replace(STUDENT.unet, class_labels=3)),
    "the channels of what they denoise": replace(STUDENT, unet=replace(STUDENT.unet, sample_channels=9)),
    "the pixels per latent pixel": replace(STUDENT, autoencoder=None),
    "the scale of the latents": replace(STUDENT, autoencoder=replace(STUDENT.autoencoder, scaling_factor=0.13025)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_teacher_that_is_told_otherwise_is_refused_before_anything_is_done(what):
    unet = unet_of(STUDENT, 0)
    teacher = replace(REFUSED[what], name="other")
    with pytest.raises(KoalaError, match=f"other cannot teach {STUDENT.name}.*{what}"):
        Distillation(STUDENT, unet, teacher, unet, BK)


def test_the_papers_teachers_may_teach_their_students():
    for student in (zoo.get(name) for name in zoo.names() if name.startswith(("koala", "bk-", "segmind"))):
        teacher = "sdxl" if student.unet.pooled_dim else "sdm-v2.1-base" if "v2" in student.name else "sdm-v1.5"
        check_teacher(zoo.get(teacher), student)
