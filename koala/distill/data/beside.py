"""Further training data beside the first: a batch of each at every step, in an order of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from koala.distill.batch import Batch, Examples
from koala.distill.data.order import index_of
from koala.models.conditioning import Condition


def beside(examples: Examples, others: Mapping[str, Examples], seed: int) -> Examples:
    """`examples` whose batches bring as many rows of each of `others` along, as `Batch.others`."""
    return _Beside(examples, others, seed) if others else examples


@dataclass(frozen=True)
class _Beside:
    examples: Examples
    others: Mapping[str, Examples]
    seed: int

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        """The images with these numbers, and of the others those whose turn it is at the positions."""
        found = {
            name: other.batch([index_of(place, len(other), self.seed) for place in positions], positions)
            for name, other in self.others.items()
        }
        return replace(self.examples.batch(indices, positions), others=found)

    def empty(self) -> Condition:
        """One row that stands for no caption."""
        return self.examples.empty()
