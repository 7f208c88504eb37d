"""All images of a gallery at a glance, each over its prompt, seed and model."""

import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from koala.harness.files import write_bytes
from koala.harness.records import Row
from koala.sampling.gallery import Gallery

NAME = "contact_sheet"
LIMIT = 100
_JPEG_ABOVE = 24  # tiles from which a PNG would be tens of megabytes

_TILE, _MARGIN, _GAP, _AROUND_TEXT = 256, 40, 24, 10  # pixels
_PAPER, _INK, _FAINT, _FRAME = "#fafaf8", "#262626", "#85857f", "#dcdcd6"
_TITLE_SIZE, _PROMPT_SIZE, _NOTE_SIZE = 22, 15, 13
_LEADING = 1.35
_PROMPT_LINES = 3
_WIDEST = 10  # tiles of a row
_LONGEST = 400  # characters of a prompt that are looked at
_PLAINER = str.maketrans("‘’“”–—‐‑−", "''\"\"-----")  # marks that the built-in font lacks


@dataclass(frozen=True)
class Tile:
    """An image and what stands below it: a prompt, wrapped, and a faint note."""

    image: Path
    prompt: str
    note: str


def contact_sheet(rows: Sequence[Sequence[Tile]], title: str = "") -> Image.Image:
    """Rows of tiles below a title."""
    captions = [[_wrapped(tile.prompt) for tile in row] for row in rows]
    line, note = _line_height(_PROMPT_SIZE), _line_height(_NOTE_SIZE)
    heights = [_TILE + _AROUND_TEXT + max(map(len, row)) * line + note for row in captions]
    head = _line_height(_TITLE_SIZE) + _GAP if title else 0
    inside = max(map(len, rows)) * (_TILE + _GAP) - _GAP
    size = inside + 2 * _MARGIN, head + sum(heights) + (len(rows) - 1) * _GAP + 2 * _MARGIN
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _fitted(title, _TITLE_SIZE, inside), _INK, _font(_TITLE_SIZE))
    top = _MARGIN + head
    for row, lines, height in zip(rows, captions, heights, strict=True):
        for column, (tile, caption) in enumerate(zip(row, lines, strict=True)):
            x, y = _MARGIN + column * (_TILE + _GAP), top + _TILE + _AROUND_TEXT
            _paste(sheet, draw, tile.image, (x, top))
            for place, text in enumerate(caption):
                draw.text((x, y + place * line), text, _INK, _font(_PROMPT_SIZE))
            draw.text((x, y + len(caption) * line), _fitted(tile.note, _NOTE_SIZE, _TILE), _FAINT, _font(_NOTE_SIZE))
        top += height + _GAP
    return sheet


def write_contact_sheet(gallery: Gallery, limit: int = LIMIT) -> Path | None:
    """Replace the sheet of a gallery by one of all its images, at most `limit`; its path, or None without images.

    Images of one prompt stand side by side, in the order of their seeds. Many images make a JPEG.
    """
    rows = gallery.rows()
    if not rows:
        return None
    first_seen = {prompt: place for place, prompt in reversed(list(enumerate(row["prompt"] for row in rows)))}
    rows.sort(key=lambda row: (first_seen[row["prompt"]], row.get("seed") or 0))
    tiles = [Tile(gallery.folder / row["file"], row["prompt"], _note(row)) for row in rows[:limit]]
    sheet = contact_sheet(arranged(tiles), _title(rows, len(tiles)))
    buffer, suffix = io.BytesIO(), ".jpg" if len(tiles) > _JPEG_ABOVE else ".png"
    if suffix == ".jpg":
        sheet.save(buffer, "jpeg", quality=90)
    else:
        sheet.save(buffer, "png")
    path = gallery.folder / (NAME + suffix)
    write_bytes(path, buffer.getvalue())
    (gallery.folder / (NAME + (".png" if suffix == ".jpg" else ".jpg"))).unlink(missing_ok=True)
    return path


def _note(row: Row) -> str:
    return f"seed {row.get('seed')}  ·  {row.get('model') or 'unknown model'}"


def _title(rows: Sequence[Row], shown: int) -> str:
    """What all images have in common, and how many there are."""

    def shared(name: str) -> Any:
        values = [row.get(name) for row in rows]
        return values[0] if all(value == values[0] for value in values) else None

    count = f"{len(rows)} image{'s' if len(rows) > 1 else ''}"
    parts = [shared("model"), f"the first {shown} of {count}" if shown < len(rows) else count]
    if recipe := shared("recipe"):
        steps = f"{recipe['steps']} step{'s' if recipe['steps'] > 1 else ''}"
        parts.append(f"{recipe['scheduler']}, {steps}, guidance {recipe['guidance']:g}")
    if shared("weights") == "random":
        parts.append("random weights")
    return "  ·  ".join(filter(None, parts))


def arranged(tiles: Sequence[Tile]) -> list[list[Tile]]:
    """Rows of tiles, near a square; a row begins with a prompt's first image unless that wastes half of the sheet."""
    prompts = [list(group) for _, group in groupby(tiles, key=lambda tile: tile.prompt)]
    square = _square(len(tiles))
    longest, shortest = max(map(len, prompts)), min(map(len, prompts))
    if len(prompts) > 1 and longest <= _WIDEST:
        if longest == shortest:
            square = longest * max(1, square // longest)
        elif 2 * len(tiles) >= longest * len(prompts):
            return prompts
    return [list(tiles[start : start + square]) for start in range(0, len(tiles), square)]


def _square(n: int) -> int:
    """Columns for `n` tiles: few in one row, more near a square with few empty places at the end."""
    root = math.ceil(math.sqrt(n))
    return n if n <= 4 else min(_WIDEST, min((root, root + 1), key=lambda columns: -n % columns))


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, path: Path, corner: tuple[int, int]) -> None:
    """An image in the middle of its square, in a thin frame; small ones are enlarged without smoothing."""
    x, y = corner
    try:
        with Image.open(path) as image:
            small = max(image.size) < _TILE
            method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
            picture = ImageOps.contain(image.convert("RGB"), (_TILE, _TILE), method)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        draw.rectangle((x, y, x + _TILE - 1, y + _TILE - 1), outline=_FRAME)
        draw.text((x + 12, y + 12), "not readable", _FAINT, _font(_NOTE_SIZE))
        return
    at = x + (_TILE - picture.width) // 2, y + (_TILE - picture.height) // 2
    sheet.paste(picture, at)
    draw.rectangle((at[0] - 1, at[1] - 1, at[0] + picture.width, at[1] + picture.height), outline=_FRAME)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _line_height(size: int) -> int:
    return round(size * _LEADING)


def _plain(text: str) -> str:
    """Text on one line in characters that the font can be asked to draw; accents that it lacks are left out."""
    words = " ".join(text[:_LONGEST].translate(_PLAINER).split())
    known = "".join(c if _in_font(c) else unicodedata.normalize("NFKD", c)[0] for c in words if c.isprintable())
    return known + ("…" if len(text) > _LONGEST else "")


@cache
def _in_font(character: str) -> bool:
    """Whether the font draws it as anything but the box of a missing character."""
    font = _font(_PROMPT_SIZE)
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _wrapped(prompt: str) -> list[str]:
    """At most `_PROMPT_LINES` lines that are as wide as a tile; words longer than that are broken."""
    lines: list[str] = []
    rest = _plain(prompt)
    while rest:
        if len(lines) == _PROMPT_LINES - 1:
            return [*lines, _fitted(rest, _PROMPT_SIZE, _TILE)]
        end = _fitting(rest, _PROMPT_SIZE, _TILE)
        space = rest.rfind(" ", 0, end + 1) if end < len(rest) else -1
        end = space if space > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _fitted(text: str, size: int, width: int) -> str:
    """`text`, shortened with an ellipsis to `width` pixels."""
    text = _plain(text)
    end = _fitting(text, size, width)
    if end >= len(text):
        return text
    end = _fitting(text, size, width - math.ceil(_font(size).getlength("…")))
    space = text.rfind(" ", 0, end + 1)
    return text[: space if space > 0.6 * end else end].rstrip(" ,.;:") + "…"


def _fitting(text: str, size: int, width: int) -> int:
    """How many characters from the beginning fit into `width` pixels; at least one."""
    font, low, high = _font(size), 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low
