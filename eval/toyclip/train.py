"""Folders of captioned images into a head file: read, train, see how often the heads are right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.networks import Networks
from eval.passes import Reading
from eval.progress import ScoreProgress
from eval.toyclip.captions import DEFAULT, Caption
from eval.toyclip.features import IMAGE_FILES, TEXT_FILES, TEXTS, WHOLE, Folder, read_folder
from eval.toyclip.head_file import About
from eval.toyclip.heads import Heads, Pairs, trained
from eval.toyclip.retrieval import retrieval
from koala.errors import KoalaError
from koala.types import Features

LEARNT, UNSEEN = "trained on", "never seen"


@dataclass(frozen=True)
class Task:
    """What to train on, what else captions are retrieved among, and how."""

    paths: Sequence[Path]
    beside: Sequence[Path]
    columns: Sequence[str]  # of captions; none: `eval.toyclip.captions.DEFAULT`, as far as they are there
    sides: Sequence[int]  # pixels to which images are shrunk, beside being taken whole
    steps: int
    seed: int


def train(task: Task, networks: Networks, batch_size: int, workers: int, bar: ScoreProgress) -> tuple[Heads, About]:
    """The heads, and all that stands beside them in the file."""
    sides = (WHOLE, *dict.fromkeys(task.sides))

    def read(path: Path) -> Folder:
        return read_folder(path, task.columns, sides, networks, Reading(batch_size, workers), bar)

    learnt, beside = [read(path) for path in task.paths], [read(path) for path in task.beside]
    _refuse_seen(learnt, beside)
    bar.begin("steps", task.steps, 0)
    heads = trained(_pairs(learnt, sides, networks, bar), task.steps, task.seed, bar.advance)
    captions = _captions([*learnt, *beside])
    about = About(
        weights={name: networks.weights.find(name).sha256 for name in (*IMAGE_FILES, *TEXT_FILES)},
        trained_on={folder.name: folder.content for folder in learnt},
        beside={folder.name: folder.content for folder in beside},
        columns=tuple(task.columns or DEFAULT),
        sides=sides[1:],
        steps=task.steps,
        seed=task.seed,
        captions=captions,
        check=_check(heads, learnt, beside, captions, networks),
    )
    return heads, about


def _refuse_seen(learnt: Sequence[Folder], beside: Sequence[Folder]) -> None:
    """A `KoalaError` where two folders are called the same, or an image to check on is among those learnt from."""
    names = [folder.name for folder in (*learnt, *beside)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise KoalaError(f"several folders are called {', '.join(sorted(twice))}; give each once, under its own name")
    seen = {key for folder in learnt for key in folder.keys}
    for folder in beside:
        if both := sum(key in seen for key in folder.keys):
            raise KoalaError(f"{both} images of {folder.name} are among those trained on: it would check nothing")


def _pairs(folders: Sequence[Folder], sides: Sequence[int], networks: Networks, bar: ScoreProgress) -> Pairs:
    said = [image.captions for folder in folders for image in folder.images]
    if len(said) < 2:
        raise KoalaError("one image has no other to be told from; train on more")
    texts = list(dict.fromkeys(text for captions in said for text in captions))
    bar.stage(f"{len(texts)} captions")
    places = {text: place for place, text in enumerate(texts)}
    return Pairs(
        torch.stack([_images(folders, side) for side in sides]),
        networks.texts(TEXTS, texts),
        [[places[text] for text in captions] for captions in said],
    )


def _images(folders: Sequence[Folder], side: int) -> Features:
    return torch.cat([folder.features[side] for folder in folders])


def _captions(folders: Sequence[Folder]) -> tuple[Caption, ...]:
    """The short captions of all images, each once."""
    found = {image.short.text: image.short for folder in reversed(folders) for image in reversed(folder.images)}
    return tuple(reversed(found.values()))


def _check(
    heads: Heads, learnt: Sequence[Folder], beside: Sequence[Folder], captions: Sequence[Caption], networks: Networks
) -> list[Mapping[str, Any]]:
    """Shares of right answers by whether images and captions were trained on, and by the side of the images."""
    every = [image for folder in (*learnt, *beside) for image in folder.images]
    places = {caption.text: place for place, caption in enumerate(captions)}
    own = [places[image.short.text] for image in every]
    first = sum(len(folder.images) for folder in learnt)
    known = set(own[:first])
    asked = {UNSEEN: [i for i in range(first, len(own)) if own[i] not in known], LEARNT: list(range(first))}
    lines: list[Mapping[str, Any]] = []
    with torch.inference_mode():
        texts = heads.text(networks.texts(TEXTS, [caption.text for caption in captions]))
        for side in learnt[0].features:
            images = heads.image(_images([*learnt, *beside], side))
            for what, which in asked.items():
                if which:
                    found = retrieval(images, texts, own, which, captions)
                    lines.append({"images": what, "side": side, "n": len(which), **found})
    return lines
