"""What is said of the images of a folder, and which captions differ in one part alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.sources import Item
from koala.errors import KoalaError, UnknownName, first_few

SHORT = "text"  # what the short caption is called, whatever column of the table it is in
DEFAULT = (SHORT, "rich")
PARTS = ("role", "gender", "tone", "colour", "shape")  # the columns of combinations, as `koala data emoji` writes them


@dataclass(frozen=True)
class Caption:
    """A short caption, and the parts that it is a combination of, if it is one."""

    text: str
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Captioned:
    """One image: its short caption, and all captions to learn from."""

    short: Caption
    captions: tuple[str, ...]


def captioned(path: Path, items: Sequence[Item], columns: Sequence[str]) -> tuple[Captioned, ...]:
    """What the table in a folder says of each image; no `columns`: the short captions, and rich ones if there are any.

    A `KoalaError` names images without a short caption, or a column that no image has.
    """
    if bare := [item.file for item in items if not item.prompt]:
        raise KoalaError(
            f"{len(bare)} of the {len(items)} images of {path} have no caption: {first_few(bare)}; "
            "metadata.jsonl or metadata.csv gives them, with file_name and text"
        )
    there = {SHORT, *(name for item in items for name in item.tags)}
    for column in columns:
        if column not in there:
            raise UnknownName(f"column of captions in {path}", column, there)
    return tuple(_captioned(item, columns or DEFAULT) for item in items)


def _captioned(item: Item, columns: Sequence[str]) -> Captioned:
    assert item.prompt
    said = {**item.tags, SHORT: item.prompt}
    parts = {name: item.tags[name] for name in PARTS if name in item.tags}
    texts = tuple(dict.fromkeys(said[column] for column in columns if said.get(column)))
    return Captioned(Caption(item.prompt, parts), texts or (item.prompt,))


def unlike_in(part: str, captions: Sequence[Caption]) -> dict[str, list[int]]:
    """For each caption that has `part`, the places of those that differ from it in nothing else, its own among them.

    A caption that no other differs from so is not there.
    """
    groups: dict[tuple, list[int]] = {}
    for place, caption in enumerate(captions):
        if part in caption.parts:
            rest = {name: value for name, value in caption.parts.items() if name != part}
            groups.setdefault(tuple(sorted(rest.items())), []).append(place)
    return {captions[place].text: group for group in groups.values() if len(group) > 1 for place in group}
