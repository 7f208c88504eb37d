"""What came of the examples of a source: how many were let in, what they are like, and why the others were not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from koala.distill.data.captions import num_words
from koala.distill.data.filters import Admitted, Refused
from koala.harness.records import Row
from koala.harness.tables import Format, significant, to_markdown

MOST_LISTED = 5


@dataclass
class Tally:
    """Sums over the examples of a unit or of a whole source; two of them add up."""

    images: int = 0
    height: int = 0  # summed, in pixels
    width: int = 0
    captions: int = 0
    words: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    listed: dict[str, list[str]] = field(default_factory=dict)  # the first few of each reason

    def count(self, outcome: Admitted | Refused) -> None:
        """Take one example in."""
        if isinstance(outcome, Refused):
            told = f"{outcome.key}: {outcome.detail}" if outcome.detail else outcome.key
            self._refuse(outcome.reason, 1, [told])
        else:
            self.let_in((outcome.image.height, outcome.image.width), outcome.captions)

    def let_in(self, size: tuple[int, int], captions: Sequence[str]) -> None:
        """Take one example in that stays, of this height and width."""
        self.images += 1
        self.height += size[0]
        self.width += size[1]
        self.captions += len(captions)
        self.words += sum(map(num_words, captions))

    def _refuse(self, reason: str, times: int, told: list[str]) -> None:
        self.refused[reason] += times
        self.listed[reason] = [*self.listed.get(reason, []), *told][:MOST_LISTED]

    def __add__(self, other: "Tally") -> "Tally":
        """Both together; of the refused, those of the left one are listed first."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        both = Tally(**sums)
        for tally in (self, other):
            for reason, times in tally.refused.items():
                both._refuse(reason, times, tally.listed[reason])
        return both

    def row(self) -> Row:
        """As JSON: `Tally.of(row)` is this one again."""
        sums = {name: getattr(self, name) for name in _SUMS}
        return {
            **sums,
            "refused": dict(self.refused),
            "listed": {name: list(some) for name, some in self.listed.items()},
        }

    @classmethod
    def of(cls, row: Row) -> "Tally":
        """The tally that `row()` wrote."""
        return cls(**{name: row[name] for name in _SUMS}, refused=Counter(row["refused"]), listed=dict(row["listed"]))

    @property
    def means(self) -> dict[str, float]:
        """Of the images that were let in; empty if there are none. The size is that of the upright image in pixels."""
        if not self.images:
            return {}
        return {
            "height": self.height / self.images,
            "width": self.width / self.images,
            "captions per image": self.captions / self.images,
            "words per caption": self.words / self.captions,
        }

    def table(self) -> str:
        """Markdown: what was let in on average, and below it what was not, by reason."""
        means = {name: [value] for name, value in self.means.items()}
        let_in = to_markdown(pd.DataFrame({"images": [self.images], **means}), _FORMATS)
        if not self.refused:
            return let_in
        reasons = [(name, times, "; ".join(self.listed[name])) for name, times in self.refused.most_common()]
        left_out = pd.DataFrame(reasons, columns=["left out", "images", "the first of them"])
        return f"{let_in}\n\n{to_markdown(left_out, {'images': str})}"


_SUMS = ("images", "height", "width", "captions", "words")
_FORMATS: dict[str, Format] = {
    "images": str,
    **dict.fromkeys(("height", "width", "captions per image", "words per caption"), significant(4)),
}
