"""The card of a trained model: what a reader of its folder has to know, from what is known of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from koala.distill import runs
from koala.distill.config import INHERIT, Run
from koala.models.spec import ADM, ClassLabels, ModelSpec
from koala.models.twin import TWIN_PREFIX
from koala.models.weights.source import HUB

LOSSES = "losses.png"
# What the hub calls a licence by; others are "other" with their name beside.
_LICENSES = ("openrail++", "creativeml-openrail-m", "apache-2.0", "mit")
_RANDOM = "random"
_OF_THIS_PLACE = {"data", "out", "device", "workers", "tracker", "accumulation", "name", "notes"}
_KEPT = {"save_every", "keep", "log_every", "sample_every", "sample_prompts"}


@dataclass(frozen=True)
class Ending:
    """How a training ended; None and empty are said to be unknown."""

    steps: int
    global_batch: int
    processes: int
    device: str = ""
    hours: float | None = None
    images: int | None = None  # in the data
    data_digest: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    averaged: bool = False  # the weights are the moving average


def model_card(
    run: Run, student: ModelSpec, teacher: ModelSpec | None, ending: Ending, missing: str = "", curve: bool = False
) -> str:
    """The text of README.md; `missing` says why the folder is less than a pipeline, `curve` that there is a picture."""
    sections = [_front(student, teacher, run), f"# {run.folder.name}", _summary(run, student, teacher)]
    if _is_random(run):
        sections.append(
            "**Random weights.** This model was trained to try the program out: its weights, or its teacher's, began "
            "at random, and its pictures are noise."
        )
    if missing:
        sections.append(f"**The U-Net only.** {missing}")
    sections += ["## How to draw with it", _usage(student, bool(missing), run)]
    sections += ["## How it was trained", _bullets(_training(run, student, teacher, ending))]
    if ending.losses:
        rows = "\n".join(f"| {term} | {value:.6g} |" for term, value in ending.losses.items())
        sections.append(
            f"What the log says last (unweighted terms; means over an interval):\n\n| term | value |\n|---|---|\n{rows}"
        )
        sections.append("Losses do not tell how good the pictures are, as BK-SDM's authors say of theirs.")
    if curve:
        sections.append(f"![losses over the steps]({LOSSES})")
    if run.notes:
        sections += [
            "What the settings are from, and what is unverified or disagrees between sources:",
            _bullets(run.notes),
        ]
    sections += ["## Intended use", _INTENDED, "## Limits", _bullets(_limits(run, teacher))]
    return "\n\n".join(sections) + "\n"


_INTENDED = (
    "Research on compressed text-to-image models: pictures from English prompts, comparison of speed, memory and "
    "quality. It is not made for statements of fact about people or events, nor for what the licence forbids."
)


def _front(student: ModelSpec, teacher: ModelSpec | None, run: Run) -> str:
    began_as = student if run.lora_rank else teacher or student
    license_, base = began_as.license, began_as.weights
    lines = ["---", "library_name: diffusers", "pipeline_tag: text-to-image"]
    if license_ in _LICENSES:
        lines.append(f"license: {license_}")
    else:
        lines += ["license: other", f'license_name: "{license_}"']
    if base and not _is_random(run):
        lines.append(f"base_model: {(base.unet or base.pipeline).repository}")
    tags = ["text-to-image", "lora" if run.lora_rank else "distillation" if teacher else "fine-tuning", "koala-bench"]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _summary(run: Run, student: ModelSpec, teacher: ModelSpec | None) -> str:
    if run.lora_rank:
        learnt = f", trained to imitate {teacher.title} ({teacher.name})" if teacher else ""
        return f"A LoRA adapter of rank {run.lora_rank} for {student.title} ({student.name}){learnt}."
    start = f"the U-Net of {student.title} ({student.name})"
    if teacher is None:
        return f"{start[0].upper()}{start[1:]}, fine-tuned."
    return f"{start[0].upper()}{start[1:]}, trained to imitate {teacher.title} ({teacher.name})."


def _usage(student: ModelSpec, unet_only: bool, run: Run) -> str:
    recipe = student.recipe
    steps = f"timesteps={list(recipe.timesteps)}" if recipe.timesteps else f"num_inference_steps={recipe.steps}"
    call = f"guidance_scale={recipe.guidance:g}, {steps}"
    if run.lora_rank:
        code = f'pipeline.load_lora_weights("PATH")  # into a pipeline of {student.name}\n'
        if run.timesteps:
            code += "pipeline.scheduler = diffusers.LCMScheduler.from_config(pipeline.scheduler.config)\n"
            return f'```python\n{code}pipeline("a red apple", {call})\n```'
        command = f'python -m koala sample {run.student} "a red apple" --lora PATH'
        return f'```python\n{code}pipeline("a red apple", {call})\n```\n\n`{command}`'
    if unet_only:
        kind = "UNet2DModel" if student.unet.blocks == ADM else "UNet2DConditionModel"
        code = f'import diffusers\n\nunet = diffusers.{kind}.from_pretrained("PATH")'
    else:
        code = 'import diffusers\n\npipeline = diffusers.DiffusionPipeline.from_pretrained("PATH")\n'
        code += f'pipeline("a red apple", {call})'
    what = "--classes 207" if isinstance(student.conditioning, ClassLabels) else '"a red apple"'
    return f"```python\n{code}\n```\n\n`python -m koala sample PATH {what}`, PATH being this folder."


def _training(run: Run, student: ModelSpec, teacher: ModelSpec | None, ending: Ending) -> list[str]:
    began = (
        f"inherited from {teacher.name}"
        if teacher and run.student_weights == INHERIT
        else _where(run.student_weights, student)
    )
    images = f"{ending.images:,} images" if ending.images else "images that were not counted"
    digest = f", digest {ending.data_digest}" if ending.data_digest else ""
    hours = "unknown hours" if ending.hours is None else f"{ending.hours:.3g} hours"
    split = f"{run.batch_size} x {run.accumulation} accumulated x {ending.processes} process"
    split += "es" if ending.processes > 1 else ""
    lines = [
        *_changes(run),
        f"Teacher: {teacher.name} ({_where(run.teacher_weights, teacher)})" if teacher else "Teacher: none",
        f"The student's weights began as: {began}" if teacher else f"The weights began as: {began}",
        *_beside(run, student, teacher),
        f"Data: {run.data} ({images}{digest}), {student.resolution} px",
        f"Steps: {ending.steps:,} with {ending.global_batch} images each ({split}), "
        f"{ending.steps * ending.global_batch:,} images seen",
        f"Machine: {ending.processes} x {ending.device or 'unknown device'}, {hours} of training",
        f"Optimizer: {run.optimizer}, {run.schedule} learning rate {run.learning_rate:g}, warm-up {run.warmup} steps, "
        f"betas {run.betas[0]:g} and {run.betas[1]:g}, decay {run.weight_decay:g}, clipped at {run.clip_norm:g}",
        f"Precision: {run.precision} over fp32 weights; seed {run.seed}",
        f"Weights here: the moving average (decay {run.ema_decay:g})"
        if ending.averaged
        else "Weights here: the last step's",
        f"Captions dropped: {run.caption_dropout:.0%}",
    ]
    return [*lines, _loss(run)] if teacher else lines


def _loss(run: Run) -> str:
    if run.timesteps:
        return (
            f"Loss: {run.matching_weight:g} x distribution matching (the teacher guided by {run.guidance:g}) + "
            f"{run.gan_weight:g} x GAN, every {run.ratio} steps; at each the critic ({run.critic or run.teacher}): "
            f"task + {run.critic_gan_weight:g} x GAN"
        )
    compared = f" of {', '.join(run.features)} (layers: {run.location})" if run.features else ""
    terms = f"{run.task_weight:g} x task + {run.output_weight:g} x output + {run.feature_weight:g} x features"
    return f"Loss: {terms}{compared}"


def _beside(run: Run, student: ModelSpec, teacher: ModelSpec | None) -> list[str]:
    """What there is beside the U-Net's own weights."""
    frozen = teacher or student
    if run.lora_rank:
        where = " and of the text encoders' attention" if run.lora_text else ""
        alpha = run.lora_alpha or run.lora_rank
        return [f"Adapters: rank {run.lora_rank}, alpha {alpha:g}, of the U-Net's {', '.join(run.lora_targets)}{where}"]
    if frozen.autoencoder is None:
        return []
    slower = "; an fp16 pipeline runs the autoencoder in fp32" if frozen.autoencoder.upcast_to_fp32 else ""
    return [f"Text encoders and autoencoder: those of {frozen.name}, unchanged{slower}"]


def _changes(run: Run) -> list[str]:
    """What differs from the named run that this one began as, but for where things are and how it is split."""
    if run.name.removeprefix(TWIN_PREFIX) not in runs.names():
        return []
    named = runs.get(run.name)
    differ = [
        f"{one.name} {_text(run, one.name)} (there {_text(named, one.name)})"
        for one in fields(Run)
        if one.name not in _OF_THIS_PLACE | _KEPT and getattr(run, one.name) != getattr(named, one.name)
    ]
    return [f"Run: {run.name}" + (f", with other {'; '.join(differ)}" if differ else "")]


def _text(run: Run, name: str) -> str:
    value = getattr(run, name)
    return (", ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"


def _limits(run: Run, teacher: ModelSpec | None) -> list[str]:
    lines = [
        "Legible text, hands, and prompts with several attributes or relations are weak, as KOALA's authors "
        "say of their models.",
        "It has learnt what its images, their captions and its teacher show, with their biases.",
    ]
    if teacher:
        lines.append("Which layers go is a heuristic found for SDXL and Stable Diffusion U-Nets.")
        lines.append(f"The teacher's licence holds for what is made of it: {teacher.license}.")
    if run.timesteps:
        lines.append("It draws by these steps alone, without guidance; negative prompts do nothing.")
    elif not run.caption_dropout and not run.lora_rank:
        lines.append("No caption was dropped in training: guidance rests on what the starting weights knew of it.")
    return [*lines, "It has not been evaluated by this card."]


def _is_random(run: Run) -> bool:
    return _RANDOM in (run.teacher_weights if run.teacher else "", run.student_weights)


def _where(weights: str, spec: ModelSpec) -> str:
    own = f"as trained here, {spec.home}" if spec.home else "its released weights"
    return {HUB: own, _RANDOM: "random weights"}.get(weights, weights)


def _bullets(lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in lines)
