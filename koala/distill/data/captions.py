"""The captions of an example out of its columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any, Literal

from koala.distill.data.example import Example
from koala.errors import KoalaError, first_few

Mode = Literal["each", "append", "replace"]
MOST_READ = 1000


def num_words(caption: str) -> int:
    """Words between white space: what the captions' lengths in the papers are taken to count."""
    return len(caption.split())


@dataclass(frozen=True)
class Captions:
    """Which columns hold captions, and what several make: each its own, all of them joined in order, or the last.

    KOALA appends rich captions to the original one, PixArt-alpha puts them in its place (KOALA, section 3.3). What
    stands between the joined ones is not published; here it is a space.
    """

    columns: tuple[str, ...] = ("text",)
    mode: Mode = "each"

    def __post_init__(self) -> None:
        if not self.columns:
            raise KoalaError("captions need at least one column: give --caption-columns")

    def __call__(self, columns: Mapping[str, Any]) -> list[str]:
        """The captions that are not empty; a column may hold one text or a list of them."""
        texts = [found for name in self.columns if (found := _texts(columns.get(name)))]
        if self.mode == "append":
            return [" ".join(parts) for parts in product(*texts)] if texts else []
        if self.mode == "replace":
            return texts[-1] if texts else []
        return list(chain(*texts))


def _texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, int) and not isinstance(value, bool):  # the number of a class
        value = str(value)
    if not isinstance(value, str):
        return []
    text = value.encode("utf-8", "replace").decode().strip()  # halves of surrogate pairs are no text to a tokenizer
    return [text] if text else []


def check_columns(examples: Iterable[Example], wanted: Sequence[str]) -> None:
    """A `KoalaError` for a wanted column that none of the first examples has; no more are read than it takes."""
    seen: dict[str, None] = {}
    for example in islice(examples, MOST_READ):
        seen.update(dict.fromkeys(example.columns))
        if seen.keys() >= set(wanted):
            return
    if seen:  # else all of them are lost, which says nothing
        missing = first_few([name for name in wanted if name not in seen])
        raise KoalaError(f"none of the first examples has the column {missing}; there are: {first_few(seen, 30)}")
