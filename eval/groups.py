"""Scores of the images of one prompt together: features are held until a prompt's last image has come."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from eval.feed import Feed
from eval.known import known_groups
from eval.metric import GroupMetric
from eval.passes import Batch
from eval.plan import Planned
from eval.run import Run, finite
from eval.sources import ImageSet
from koala.types import Features


class _Image(NamedTuple):
    """An image that waits for the others of its prompt."""

    sha256: str
    features: Mapping[Feed, Features]


class Groups:
    """The prompts of a set that have several images, and what is still to come of each."""

    def __init__(self, images: ImageSet, planned: Sequence[Planned], run: Run):
        self._images, self._planned, self._run = images, planned, run
        self.feeds = list(dict.fromkeys(p.feed for p in planned if p.feed))
        members: dict[str, list[int]] = {}
        for place, item in enumerate(images.items):
            if item.prompt is not None:
                members.setdefault(item.prompt, []).append(place)
        self._first = {place: places[0] for places in members.values() for place in places}
        self._scored = {
            prompt: row["files"]
            for prompt, row in known_groups(run.done, images).items()
            if all(p.id in row["scores"] for p in planned)
        }
        self._awaited = {
            prompt: set(places)
            for prompt, places in members.items()
            if planned and len(places) > 1 and self._scored.get(prompt) != self._files(places)
        }
        self._held: dict[str, dict[int, _Image]] = {}

    def order(self, place: int) -> tuple[int, int]:
        """A key that puts the images of a prompt next to each other where there are groups to score."""
        return (self._first.get(place, place), place) if self._awaited else (0, place)

    def wants(self, place: int) -> bool:
        """Whether the image at `place` belongs to a group without a score."""
        prompt = self._images.items[place].prompt
        return prompt is not None and place in self._awaited.get(prompt, ())

    def add(self, batch: Batch, features: Mapping[Feed, Features]) -> None:
        """Take a batch in, and score the groups that it completes."""
        for row, place in enumerate(batch.places):
            if self.wants(place):
                prompt = self._images.items[place].prompt or ""
                held = self._held.setdefault(prompt, {})
                own = {feed: features[feed][row : row + 1].cpu() for feed in self.feeds}
                held[place] = _Image(batch.pictures[row].sha256, own)
                if held.keys() == self._awaited[prompt]:
                    self._finish(prompt)

    def flush(self) -> None:
        """Score the groups of which some images could not be read."""
        for prompt in list(self._held):
            self._finish(prompt)

    def _finish(self, prompt: str) -> None:
        places, held = zip(*sorted(self._held.pop(prompt).items()), strict=True)
        files = self._files(places)
        if len(files) < 2 or self._scored.get(prompt) == files:  # the others cannot be read, now as then
            return
        row = {"level": "group", "set": self._images.id, "prompt": prompt, "files": files}
        scores = {p.id: self._score(p, held) for p in self._planned}
        hashes = [image.sha256 for image in held]
        self._run.append(self._images, self._run.row("eval", **row, sha256=hashes, scores=scores))

    def _score(self, planned: Planned, held: Sequence["_Image"]) -> float | None:
        metric = self._run.metric(planned)
        assert isinstance(metric, GroupMetric) and planned.feed
        return finite(float(metric.score_group(torch.cat([image.features[planned.feed] for image in held]))))

    def _files(self, places: Sequence[int]) -> list[str]:
        return [self._images.items[place].file for place in places]
