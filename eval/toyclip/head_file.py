"""The one file of a trained pair of heads: tensors, and as JSON beside them all that decides what they say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save

from eval import feed as feeds
from eval.extractors import effnet_lite0
from eval.toyclip.captions import Caption
from eval.toyclip.heads import Heads
from eval.weights import Weights, table
from koala.errors import KoalaError
from koala.harness.files import write_bytes, write_folder
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import shapes_of

NAME = "toyclip"  # what `--weights NAME=FILE` calls it
COMMAND = table.get(NAME).made_by
_KEY = "koala_toyclip"  # one key: the order of several in a file is not the same twice
_ENDING = ".safetensors"


@dataclass(frozen=True)
class About:
    """What the heads were trained on and how, the captions that an image is told from, and how often they are right."""

    weights: Mapping[str, str]  # of the frozen networks: sha256 by the file's name
    trained_on: Mapping[str, str]  # a digest of images and captions, by the folder's name
    beside: Mapping[str, str]  # the same of folders whose captions are only retrieved among
    columns: Sequence[str]
    sides: Sequence[int]
    steps: int
    seed: int
    captions: Sequence[Caption]
    check: Sequence[Mapping[str, Any]]
    preparation: str = str(effnet_lite0.FEED.preparation)
    feed_version: int = feeds.VERSION


def refuse_existing(path: Path) -> None:
    """A `KoalaError` if a head file cannot be written to `path`."""
    if path.suffix != _ENDING:
        raise KoalaError(f"--out {path}: a head file ends in {_ENDING}")
    if path.exists():
        raise KoalaError(f"{path} exists; choose another name or remove it")


def write(path: Path, heads: Heads, about: About) -> None:
    """Write the file in one step; the same heads give the same bytes."""
    write_folder(path.parent)
    write_bytes(path, save(heads.state_dict(), {_KEY: json.dumps(asdict(about), sort_keys=True)}))


def read(path: Path) -> tuple[Heads, About]:
    """The heads and what is known of them; a `KoalaError` for any other file."""
    mistake = KoalaError(f"{path} is no head file; `{COMMAND}` makes one")
    if path.suffix != _ENDING:
        raise mistake
    checkpoint = Checkpoint((path,))
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get(_KEY)
    try:
        facts = json.loads(found or "")
        captions = tuple(Caption(**caption) for caption in facts.pop("captions"))
        about = About(captions=captions, **facts)
        heads = Heads(*(checkpoint.shapes[f"{side}.norm.weight"][0] for side in ("image", "text")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise mistake from error
    if shapes_of(heads) != checkpoint.shapes:
        raise mistake
    heads.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.shapes})
    return heads.eval().requires_grad_(False), about


def refuse_other_features(path: Path, about: About, weights: Weights) -> None:
    """A `KoalaError` where the heads read other features than those that are computed here."""
    for name, trained in about.weights.items():
        found = weights.find(name)
        if found.sha256 != trained:
            raise KoalaError(
                f"{path} was trained on {name} with sha256 {trained}, and {found.path} has sha256 {found.sha256}; "
                f"give the former by --weights {name}=PATH, or train again: `{COMMAND}`"
            )
    ours = str(effnet_lite0.FEED.preparation), feeds.VERSION
    if (about.preparation, about.feed_version) != ours:
        raise KoalaError(
            f"{path} was trained on images prepared by {about.preparation} (version {about.feed_version}), and here it "
            f"is {ours[0]} (version {ours[1]}); train again: `{COMMAND}`"
        )
