"""Training without a cache: images are decoded and encoded when their batch is asked for."""

import warnings
from collections.abc import Sequence
from itertools import chain
from threading import Lock

from koala.distill.batch import Batch
from koala.distill.data.cache import batch_of, choice
from koala.distill.data.captions import check_columns
from koala.distill.data.encoding import Encoder, Preparation, Prepared
from koala.distill.data.example import Example
from koala.distill.data.filters import Refused
from koala.distill.data.shards import Drawn
from koala.errors import KoalaError
from koala.models.conditioning import Condition, PromptTruncated
from koala.models.load import Components


class LeftOut(UserWarning):
    """An image that training does not see."""


class OnTheFly:
    """The examples of a source (`source.indexed()`) as training `Examples`: a `Cache`'s, but for rounding.

    `components` are the model's text encoders and autoencoder. `seed` decides which caption and variant are shown, the
    preparation's seed what a variant is. The next one takes the place of an image that is broken or filtered out.
    Batches may be asked for in several threads, which decode at once and encode one after the other.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        preparation: Preparation,
        components: Components,
        seed: int = 0,
        batch_size: int = 8,
    ):
        self._examples, self._preparation, self._seed = examples, preparation, seed
        self._encoder = Encoder(components, preparation.seed, batch_size)
        self._sized = components.spec.unet.pooled_dim is not None
        self._lock = Lock()  # tokenizers are not safe in threads
        self._refused: dict[int, Refused] = {}
        self._empty = self._encoder.empty()
        if not len(examples):
            raise KoalaError("the source has no images")
        check_columns(examples, preparation.columns)
        warnings.simplefilter("ignore", PromptTruncated)  # or every long caption of every epoch is a line

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def refused(self) -> list[Refused]:
        """What was left out until now, and why."""
        return list(self._refused.values())

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        """The images with these numbers, in the order of the source."""
        prepared = [self._prepared(index, position) for index, position in zip(indices, positions, strict=True)]
        with self._lock:
            encoded = self._encoder.encode(prepared)
        drawn = [Drawn(one.key, one.captions[0], one.clean[0], one.sizes[0], one.condition) for one in encoded]
        return batch_of(drawn, positions, self._sized)

    def empty(self) -> Condition:
        """One row that stands for no caption: zeros, the empty prompt or no class, as the model was trained."""
        return self._empty

    def _prepared(self, index: int, position: int) -> Prepared:
        """One caption and one variant of an image, or of the next one that can be used."""
        for number in chain(range(index, len(self)), range(index)):
            if number not in self._refused:
                outcome = self._chosen(self._examples[number], position)
                if isinstance(outcome, Prepared):
                    return outcome
                self._leave_out(number, outcome)
        first = next(iter(self._refused.values()))
        raise KoalaError(f"no image of the source can be used; the first: {first.key}: {first.reason} {first.detail}")

    def _chosen(self, example: Example, position: int) -> Prepared | Refused:
        admitted = self._preparation.admit(example)
        if isinstance(admitted, Refused):
            return admitted
        caption, variant = choice(self._seed, position, len(admitted.captions), self._preparation.variants)
        return self._preparation.cuts(admitted, (admitted.captions[caption],), [variant])

    def _leave_out(self, number: int, refused: Refused) -> None:
        if self._refused.setdefault(number, refused) is refused:
            because = f"{refused.reason} ({refused.detail})" if refused.detail else refused.reason
            warnings.warn(f"{refused.key} is left out: {because}", LeftOut, stacklevel=2)
