"""What the numbered classes of a dataset show, in words; nothing that is drawn depends on them."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

IMAGENET = "imagenet"


def shown(dataset: str, number: int) -> str | None:
    """The class `number` of `dataset` in words; None where no package here names it."""
    names = _imagenet() if dataset == IMAGENET else ()
    return names[number] if number < len(names) else None


@cache
def _imagenet() -> tuple[str, ...]:
    """WordNet's lemmas of ImageNet's synsets in their order, from timm's data files; timm itself is not imported."""
    found = find_spec("timm")
    folder = Path(found.origin if found and found.origin else "").parent / "data" / "_info"
    try:
        synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(lemmas.get(synset, synset) for synset in synsets)
