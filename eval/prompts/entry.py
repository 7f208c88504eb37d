"""What a suite's TOML file says; unknown keys, wrong types and missing ones are errors that name file and key."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from eval.prompts.expects import expectations
from eval.suite import Prompt
from koala.errors import KoalaError

PROMPTS, START_LATENTS = "prompts", "start_latents"  # what a file is for


@dataclass(frozen=True)
class File:
    """An official file of a suite, and how prompts are read from it."""

    path: str  # below the suite's folder
    format: str = ""  # a name of `eval.prompts.formats.FORMATS`
    url: str | None = None
    sha256: str | None = None  # None: nobody here has seen the file
    prompts: int | None = None  # how many it holds
    tags: Mapping[str, str] = field(default_factory=dict)  # of all of its prompts
    prompt_column: str | int = "prompt"  # of a table: its name, or its place where the file's own header is unknown
    id_column: str | int | None = None
    quoted: bool = True  # of a table: whether quotes around a cell are no part of it
    strict: bool = False  # of a table: whether a quote that is not closed is an error, where no count would show it
    id_prefix: str = ""
    tag_columns: tuple[str, ...] = ()
    sample: int | None = None  # only so many of its images' captions
    role: str = PROMPTS
    made_at: str | None = None  # a file of this project's own: where `made_by` leaves it
    made_by: str | None = None


@dataclass(frozen=True)
class Entry:
    """A suite as its TOML file describes it: prompts inline, or in official files."""

    name: str
    title: str
    license: str | None
    source: str
    count: int
    notes: str
    files: tuple[File, ...]
    inline: tuple[Prompt, ...]
    folder: Path | None = None  # of a user's own TOML file: its files may lie beside it


_TOP = {"title": str, "license": str, "source": str, "prompts": int, "notes": str, "file": list, "prompt": list}
_NEEDED = ("title", "source", "prompts")
_FILE = {
    **dict.fromkeys(("path", "format", "url", "sha256", "id_prefix", "role", "made_at", "made_by"), str),
    **dict.fromkeys(("prompts", "sample"), int),
    "quoted": bool,
    **dict.fromkeys(("prompt_column", "id_column"), (str, int)),
    "tags": dict,
    "tag_columns": list,
}
_PROMPT = {"text": str, "tags": dict, "expects": dict, "id": str}


def read_entry(path: Path) -> Entry:
    """The entry in a TOML file; a `KoalaError` says what is wrong and where."""
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KoalaError(f"{path} is no TOML: {error}") from error
    _check(table, _TOP, _NEEDED, str(path))
    files = tuple(_file(item, f"{path}, file {place}") for place, item in enumerate(table.get("file", []), start=1))
    inline = tuple(_prompt(item, f"{path}, prompt {place}") for place, item in enumerate(table.get("prompt", []), 1))
    if bool(inline) == bool(files):
        raise KoalaError(f"{path}: a suite has its prompts in [[prompt]] tables, or in the files of [[file]] tables")
    return Entry(
        name=path.stem,
        title=table["title"],
        license=table.get("license"),
        source=table["source"],
        count=table["prompts"],
        notes=table.get("notes", ""),
        files=files,
        inline=inline,
    )


def _file(item: Any, where: str) -> File:
    _check(item, _FILE, ("path",), where)
    if item.get("role", PROMPTS) not in (PROMPTS, START_LATENTS):
        raise KoalaError(f"{where}: role is {item['role']!r}; known: {PROMPTS}, {START_LATENTS}")
    if item.get("role", PROMPTS) == PROMPTS and not item.get("format"):
        raise KoalaError(f"{where}: a file of prompts has a format")
    path, digest = PurePosixPath(item["path"]), item.get("sha256")
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath():
        raise KoalaError(f"{where}: path is {item['path']!r}; it leads to a file below the suite's folder")
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise KoalaError(f"{where}: sha256 is {digest!r}, and should be 64 hexadecimal digits in lower case")
    _check_tags(item, where)
    if strange := [name for name in item.get("tag_columns", ()) if not isinstance(name, str)]:
        raise KoalaError(f"{where}: tag_columns holds {strange[0]!r}, which is no name")
    return File(**{**item, "tag_columns": tuple(item.get("tag_columns", ()))})


def _prompt(item: Any, where: str) -> Prompt:
    _check(item, _PROMPT, ("text",), where)
    _check_tags(item, where)
    return Prompt(**{**item, "expects": expectations(item.get("expects", {}), where)})


def _check_tags(item: Mapping[str, Any], where: str) -> None:
    if strange := [name for name, value in item.get("tags", {}).items() if not isinstance(value, str)]:
        raise KoalaError(f"{where}: the tag {strange[0]} is no text")


def _check(table: Any, known: Mapping[str, Any], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(table, dict):
        raise KoalaError(f"{where} is no table")
    if unknown := [name for name in table if name not in known]:
        raise KoalaError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    if missing := [name for name in needed if name not in table]:
        raise KoalaError(f"{where}: {missing[0]!r} is missing")
    for name, value in table.items():
        if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is not bool):
            raise KoalaError(f"{where}: {name} is {value!r}, which is of another type than it should be")
