"""Examples without some of their captions: a model that saw such can be guided away from no caption."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from koala.distill.batch import Batch, Examples
from koala.distill.noise import generator
from koala.models.conditioning import Condition


def without_captions(examples: Examples, rate: float, seed: int) -> Examples:
    """`examples` in which a share `rate` of the rows has lost its caption; which ones, their positions decide."""
    return _Dropped(examples, rate, seed) if rate else examples


@dataclass(frozen=True)
class _Dropped:
    examples: Examples
    rate: float
    seed: int

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        """As the examples give it, but for the captions that are dropped: those are empty."""
        batch = self.examples.batch(indices, positions)
        lost = [self._loses(position) for position in positions]
        captions = tuple("" if gone else text for gone, text in zip(lost, batch.captions, strict=True))
        return replace(batch, condition=replaced(batch.condition, self.empty(), lost), captions=captions)

    def empty(self) -> Condition:
        """One row that stands for no caption."""
        return self.examples.empty()

    def _loses(self, position: int) -> bool:
        return torch.rand((), generator=generator(self.seed, position, "dropout")).item() < self.rate


def replaced(condition: Condition, empty: Condition, rows: Sequence[bool]) -> Condition:
    """`condition` with the one row of `empty` in the place of the rows that are marked."""
    fields = {name: value for name, value in vars(condition).items() if value is not None}
    for name, value in fields.items():
        marked = torch.tensor(rows, device=value.device).reshape(-1, *[1] * (value.ndim - 1))
        fields[name] = torch.where(marked, getattr(empty, name).to(value), value)
    return Condition(**fields)
