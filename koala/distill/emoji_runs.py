"""The runs of the family that is trained here, one function each, at 32 px and at 64 px. Needs no torch."""

from collections.abc import Callable
from functools import partial

from koala.distill.config import FOLDER, Run
from koala.models import zoo
from koala.models.zoo.emoji import GPU

DATA, PAIRS = "runs/cache/emoji", "runs/cache/emoji-pairs"
_PROMPTS = ("a red heart", "woman astronaut with dark skin", "a slice of pizza", "grinning face", "blue car", "a panda")
_NOTES = (
    "not of any paper: sizes, rates and lengths are those that suit these small models",
    "data: `python scripts/emoji_family.py` makes it and the whole family; runs/cache/emoji is its cache at 32 px",
)


def _run(name: str, size: str, steps: tuple[int, int], **values: object) -> Run:
    """The run called `name` at a size: lengths and precision for a processor, or for a GPU."""
    gpu = size == GPU
    common: dict = {
        "data": DATA + size,
        "batch_size": 128 if gpu else 32,
        "precision": "bf16" if gpu else "fp32",
        "schedule": "cosine",
        "warmup": 100,
        "ema_decay": 0.999,
        "save_every": 250,
        "sample_every": 500,
        "sample_prompts": _PROMPTS,
        "notes": _NOTES,
    }
    return Run(name=name + size, steps=steps[gpu], **(common | values))


def teacher(size: str) -> Run:
    """The teacher of 25 steps, trained from nothing."""
    return _run(
        "emoji-teacher",
        size,
        (3000, 20_000),
        student=f"emoji-teacher{size}",
        student_weights="random",
        learning_rate=1e-3,
        caption_dropout=0.1,
    )


def koala(size: str) -> Run:
    """A student cut as KOALA-700M: self-attention and the outermost stages as features."""
    return _distilled("emoji-koala", size, ("SA", "LF@DW-1", "LF@UP-3"))


def bk(size: str) -> Run:
    """A student cut as BK-SDXL: the outputs of the stages as features."""
    return _distilled("emoji-bk", size, ("LF@DW", "LF@UP"))


def few_steps(base: str, steps: int, size: str) -> Run:
    """DMD2 of the teacher, or of its student, in four steps or one."""
    many, few = f"{base}{size}", f"{base}-{steps}step{size}"
    return _run(
        f"{base}-{steps}step",
        size,
        (600, 4000),
        student=few,
        student_weights=_made(many if steps > 1 else f"{base}-1step-pretrain{size}"),
        teacher=f"emoji-teacher{size}",
        critic=many,
        timesteps=zoo.get(few).recipe.timesteps,
        guidance=3.0,
        learning_rate=1e-4,
        clip_norm=10.0,
        ema_decay=0.0,
    )


def beginning(base: str, size: str) -> Run:
    """What one step begins with: the teacher's own pairs of noise and image (DMD2's appendix)."""
    few = f"{base}-1step{size}"
    return _run(
        f"{base}-1step-pretrain",
        size,
        (600, 4000),
        student=few,
        student_weights=_made(f"{base}{size}"),
        teacher=f"emoji-teacher{size}",
        data=PAIRS + size,
        timesteps=zoo.get(few).recipe.timesteps,
        matching_weight=0.0,
        gan_weight=0.0,
        critic_gan_weight=0.0,
        regression_weight=1.0,
        learning_rate=3e-4,
    )


def _distilled(name: str, size: str, features: tuple[str, ...]) -> Run:
    return _run(
        name,
        size,
        (1000, 6000),
        student=f"{name}{size}",
        teacher=f"emoji-teacher{size}",
        features=features,
        learning_rate=3e-4,
        caption_dropout=0.1,
    )


def _made(model: str) -> str:
    """Where the run of a model leaves it."""
    return str(FOLDER / model / "final")


_FEW = (("emoji-teacher", 4), ("emoji-koala", 4), ("emoji-koala", 1))
_FUNCTIONS: dict[str, Callable[[str], Run]] = {
    "emoji-teacher": teacher,
    "emoji-koala": koala,
    "emoji-bk": bk,
    "emoji-koala-1step-pretrain": partial(beginning, "emoji-koala"),
    **{f"{base}-{steps}step": partial(few_steps, base, steps) for base, steps in _FEW},
}
RUNS: dict[str, Callable[[], Run]] = {
    f"{name}{size}": partial(function, size) for size in ("", GPU) for name, function in _FUNCTIONS.items()
}
