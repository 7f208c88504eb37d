"""The lessons that the emoji family can teach, as data: what is trained, and what the papers say comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way to train: the run's fields that differ, and what the paper measured."""

    name: str
    changes: Mapping[str, Any]
    published: float | None = None


@dataclass(frozen=True)
class Claim:
    """That one variant is better than another."""

    better: str
    worse: str
    source: str


@dataclass(frozen=True)
class Lesson:
    """Variants of one run, in the order of the table."""

    title: str
    run: str
    about: str
    common: Mapping[str, Any]
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    published: str = ""  # what the variants' numbers are
    names: Mapping[str, Variant] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {variant.name: variant for variant in self.variants})
        for claim in self.claims:
            assert {claim.better, claim.worse} <= self.names.keys(), claim


_TABLE_3, _TABLE_3B = "KOALA, table 3 (a)", "KOALA, table 3 (b)"
_NONE, _SA = "task alone", "SA"

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
    ),
}
