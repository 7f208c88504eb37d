"""The lessons that the emoji family can teach, as data: what is trained, and what the papers say comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from koala.distill.emoji_runs import PAIRS


def counted(steps: int) -> str:
    """A number of steps in words."""
    return f"{steps} step{'s' if steps != 1 else ''}"


@dataclass(frozen=True)
class Variant:
    """One way to train: the run's fields that differ, and what the paper measured."""

    name: str
    changes: Mapping[str, Any]  # `{size}` in a text stands for the ending of the names of the larger size
    published: float | None = None
    run: str = ""  # another than the lesson's


@dataclass(frozen=True)
class Claim:
    """That one line of the table is better than another."""

    better: str
    worse: str
    source: str


@dataclass(frozen=True)
class Captions:
    """A cache of the training images: which captions, and of how many images."""

    columns: str
    joined: str = "each"  # `encode --captions`
    images: int = 0  # that many by lot; 0: all


@dataclass(frozen=True)
class Lesson:
    """Variants of one run, in the order of the table; a line of it is a variant at a number of sampling steps."""

    title: str
    run: str
    about: str
    common: Mapping[str, Any]
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    published: str = ""  # what the variants' numbers are
    sampled: tuple[int, ...] = ()  # steps in which students draw; none: those of their recipes
    compared: bool = True  # whether the students' predictions are comparable with one teacher's
    caches: Mapping[str, Captions] = field(default_factory=dict)  # what the variants read, by folder
    names: Mapping[str, Variant] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {variant.name: variant for variant in self.variants})
        for claim in self.claims:
            assert {claim.better, claim.worse} <= set(self.lines), claim

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the table, in order."""
        return tuple(self.line(name, steps) for name in self.names for steps in self.sampled or (0,))

    def line(self, variant: str, steps: int) -> str:
        """The line of what a variant draws in so many steps."""
        return f"{variant}, {counted(steps)}" if len(self.sampled) > 1 else variant


_TABLE_3, _TABLE_3B = "KOALA, table 3 (a)", "KOALA, table 3 (b)"
_NONE, _SA = "task alone", "SA"
_SHORT, _RICH, _FEW = "all images, short captions", "all images, rich captions", "a tenth of them, rich captions"
_MANY, _DISTILLED = "teacher of 25 steps", "teacher of 4 steps"
_COMPARED = (1, 2, 4, 10, 25)
_DATA = "runs/cache/emoji-lesson"
_PAIRS, _ALONE = "1 step: matching and regression", "1 step: matching"
_TTUR, _GAN = "1 step: matching, TTUR", "1 step: matching, TTUR, GAN"
_FOUR, _NO_GAN, _FORWARD = "4 steps: all", "4 steps: without GAN", "4 steps: without backward simulation"
_NO_GAN_AT_ALL = {"gan_weight": 0.0, "critic_gan_weight": 0.0}
_ABLATED = "DMD2, ablations on ImageNet-64"

LESSONS = {
    "features": Lesson(
        title="Which feature to distil",
        run="emoji-koala",
        about="As in KOALA's table 3 features are added to the task loss alone, without the teacher's predictions, and "
        "the student inherits its weights, but in one line.",
        common={"output_weight": 0.0},
        variants=(
            Variant(_NONE, {"features": ()}, 25.53),
            Variant(_SA, {"features": ("SA",)}, 26.74),
            Variant("LF", {"features": ("LF",)}, 26.63),
            Variant("FFN", {"features": ("FFN",)}, 26.48),
            Variant("Res", {"features": ("Res",)}, 26.27),
            Variant("CA", {"features": ("CA",)}, 26.11),
            Variant("SA, and LF at the ends", {"features": ("SA", "LF@DW-1", "LF@UP-3")}),
            Variant("SA at DW-2", {"features": ("SA@DW-2",)}, 25.32),
            Variant("SA at DW-3", {"features": ("SA@DW-3",)}, 25.57),
            Variant("SA at UP-1", {"features": ("SA@UP-1",)}, 26.52),
            Variant("SA at UP-2", {"features": ("SA@UP-2",)}, 26.05),
            Variant("SA, interleaved", {"features": ("SA",), "location": "interleave"}),
            Variant("SA, from the top", {"features": ("SA",), "location": "up"}),
            Variant("SA, fresh weights", {"features": ("SA",), "student_weights": "random"}),
            Variant("task and output", {"features": (), "output_weight": 1.0}),
        ),
        claims=(
            *(Claim(_SA, other, _TABLE_3) for other in (_NONE, "LF", "FFN", "Res", "CA")),
            *(Claim("SA at UP-1", f"SA at {stage}", _TABLE_3B) for stage in ("DW-2", "DW-3", "UP-2")),
            *(Claim(_SA, f"SA, {place}", "KOALA, table 11 (c)") for place in ("interleaved", "from the top")),
            Claim("SA, and LF at the ends", _SA, "KOALA, appendix B.1"),
            Claim(_SA, "SA, fresh weights", "KOALA and BK-SDM begin with the teacher's weights"),
        ),
        published="HPSv2 of KOALA-1B from SDXL",
        sampled=(10,),
    ),
    "data": Lesson(
        title="Which images and captions",
        run="emoji-koala",
        about="Rich captions follow the short ones in one text, as KOALA's synthetic captions do. KOALA's fewer images "
        "are also larger and better ones; here they are a tenth of the same images, by lot.",
        common={},
        variants=(
            Variant(_SHORT, {"data": f"{_DATA}-short{{size}}"}),
            Variant(_RICH, {"data": f"{_DATA}-rich{{size}}"}),
            Variant(_FEW, {"data": f"{_DATA}-few{{size}}"}),
        ),
        claims=(
            Claim(_RICH, _SHORT, "KOALA, lesson 2: synthetic captions"),
            Claim(_FEW, _SHORT, "KOALA, lesson 2: LAION-POP for LAION-Aesthetics"),
            Claim(_FEW, _RICH, "KOALA, lesson 2: LAION-POP for LAION-Aesthetics with synthetic captions"),
        ),
        sampled=(10,),
        caches={
            f"{_DATA}-short": Captions("text"),
            f"{_DATA}-rich": Captions("text,rich", "append"),
            f"{_DATA}-few": Captions("text,rich", "append", images=294),
        },
    ),
    "teacher": Lesson(
        title="A teacher of many steps or a step-distilled one",
        run="emoji-koala",
        about="Both students inherit their teacher's weights and are distilled by the same run; both draw with the "
        "same Euler steps and guidance. The step-distilled teacher has learnt for longer: what DMD2 added.",
        common={},
        variants=(Variant(_MANY, {}), Variant(_DISTILLED, {"teacher": "emoji-teacher-4step{size}"})),
        claims=(
            *(
                Claim(f"{_DISTILLED}, {counted(steps)}", f"{_MANY}, {counted(steps)}", "KOALA, lesson 3")
                for steps in _COMPARED
            ),
            Claim(f"{_DISTILLED}, 10 steps", f"{_MANY}, 25 steps", "KOALA, lesson 3: 10 steps for 25"),
        ),
        sampled=_COMPARED,
        compared=False,
    ),
    "few-steps": Lesson(
        title="What distribution matching needs",
        run="emoji-koala-1step",
        about="One step begins with a student that has learnt the teacher's pairs of noise and image, four with the "
        "distilled student. All take the same number of steps, in which the generator learns at every step, or at "
        "every fifth with TTUR, as with all of those of four steps.",
        common={},
        variants=(
            Variant(
                _PAIRS, {"ratio": 1, **_NO_GAN_AT_ALL, "regression_weight": 1.0, "pairs": f"{PAIRS}{{size}}"}, 2.62
            ),
            Variant(_ALONE, {"ratio": 1, **_NO_GAN_AT_ALL}, 3.48),
            Variant(_TTUR, _NO_GAN_AT_ALL, 2.61),
            Variant(_GAN, {}, 1.51),
            Variant(_FOUR, {}, 19.32, run="emoji-koala-4step"),
            Variant(_NO_GAN, _NO_GAN_AT_ALL, 26.90, run="emoji-koala-4step"),
            Variant(_FORWARD, {"simulate": False}, 20.66, run="emoji-koala-4step"),
        ),
        claims=(
            Claim(_PAIRS, _ALONE, _ABLATED),
            Claim(_TTUR, _ALONE, _ABLATED),
            Claim(_GAN, _TTUR, _ABLATED),
            Claim(_GAN, _PAIRS, _ABLATED),
            Claim(_FOUR, _NO_GAN, "DMD2, ablations on SDXL: FID"),
            Claim(_FOUR, _FORWARD, "DMD2, ablations on SDXL: FID"),
            Claim(_FOUR, _GAN, "DMD2 on SDXL: patch-FID, not FID"),
        ),
        published="FID of DMD2: ImageNet-64 in one step, SDXL in four",
        compared=False,
    ),
}
