"""What the U-Net is told of the prompts of a list, each encoded once however many images are drawn of it."""

from collections.abc import Sequence

from torch import Tensor

from koala.models.conditioning import Condition
from koala.models.spec import Recipe
from koala.sampling.sampler import Sampler

GROUP = 16  # neighbours that are encoded together: the rounding of a prompt hangs on its group and on nothing else
MOST_BYTES = 2**31  # of encodings that are kept; beyond, a prompt is encoded again for each of its images


class Encodings:
    """Encodings of `prompts`, made when they are asked for and kept in main memory.

    Which prompts are encoded together is fixed by the list, so that neither resuming nor the number of processes
    changes an image.
    """

    def __init__(self, sampler: Sampler, prompts: Sequence[str], most_bytes: int = MOST_BYTES):
        self._sampler, self._most_bytes = sampler, most_bytes
        self._prompts = list(dict.fromkeys(prompts))
        self._places = {prompt: place for place, prompt in enumerate(self._prompts)}
        self._kept: dict[int, Condition] = {}
        self._bytes = 0
        self._latest: tuple[int, Condition | None] = (-1, None)  # the last group that found no room
        self._contrasts: dict[str | None, Condition] = {}

    def __call__(self, prompts: Sequence[str], recipe: Recipe) -> Condition:
        """A row per prompt on the model's device, the unconditional rows first where the recipe is guided."""
        rows = [self._row(prompt) for prompt in prompts]
        condition = Condition.stacked(rows).map(lambda field: field.to(self._sampler.components.device))
        if not recipe.guided:
            return condition
        contrast = self._contrast(recipe.negative)
        return condition.below(contrast.map(lambda field: field.expand(len(prompts), *field.shape[1:])))

    def _row(self, prompt: str) -> Condition:
        group, within = divmod(self._places[prompt], GROUP)
        encoded = self._latest[1] if self._latest[0] == group else self._kept.get(group)
        encoded = encoded or self._encode(group)
        return encoded.map(lambda field: field[within : within + 1])

    def _encode(self, group: int) -> Condition:
        """Encode a group, and keep it: for good while there is room, else until the next one that has none."""
        texts = self._prompts[group * GROUP : (group + 1) * GROUP]
        encoded = self._sampler.encode_prompts(texts).map(lambda field: field.cpu())
        size = sum(field.nbytes for field in vars(encoded).values() if isinstance(field, Tensor))
        if self._bytes + size <= self._most_bytes:
            self._kept[group], self._bytes = encoded, self._bytes + size
        else:
            self._latest = (group, encoded)
        return encoded

    def _contrast(self, negative: str | None) -> Condition:
        if negative not in self._contrasts:
            self._contrasts[negative] = self._sampler.encode_contrast(self._prompts[0], negative)
        return self._contrasts[negative]
