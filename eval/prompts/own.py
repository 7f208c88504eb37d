"""A user's own prompts: .txt with one a line, a .csv, .tsv or .jsonl with a column of them, or a suite in .toml."""

import re
from collections.abc import Iterator
from pathlib import Path

from eval.prompts.entry import File
from eval.prompts.formats import COLUMNS, ID, column_of, prompt_text, read, require_printable, table_rows
from eval.suite import Prompt, Suite
from koala.errors import KoalaError
from koala.harness.files import read_text

ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".toml")


def own_suite(path: Path) -> Suite:
    """The suite in a user's file, named as the file is."""
    if path.is_dir():
        raise KoalaError(f"{path} is a folder; a suite is a file: {', '.join(ENDINGS)}")
    if not path.is_file():
        raise KoalaError(f"there is no file {path}; a suite is a name (`python -m eval suites`) or a file of prompts")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise KoalaError(f"{path} is no file of prompts; known: {', '.join(ENDINGS)}")
    readers = {".txt": _lines, ".csv": _table, ".tsv": _table, ".jsonl": _objects}
    numbered = enumerate(readers[ending](path), start=1)
    prompts = tuple(require_printable(prompt, f"{path}, prompt {number}") for number, prompt in numbered)
    if not prompts:
        raise KoalaError(f"{path} holds no prompt")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "prompts"
    return Suite(name, path.name, None, str(path), prompts)


def _lines(path: Path) -> Iterator[Prompt]:
    for line in read_text(path).split("\n"):
        if line.strip():
            yield Prompt(prompt_text(line, str(path)))


def _table(path: Path) -> Iterator[Prompt]:
    header = [cell.strip() for cell in next(table_rows(path), ("", []))[1]]
    column = column_of(header)
    if column is None:
        there = ", ".join(header) or "none"
        raise KoalaError(f"{path} has no column {', '.join(COLUMNS[:3])}; its columns: {there}")
    tags = tuple(name for name in header if name not in (column, ID) and name)
    id = ID if ID in header else None
    yield from read(path, File(str(path), "table", prompt_column=column, tag_columns=tags, id_column=id, strict=True))


def _objects(path: Path) -> Iterator[Prompt]:
    yield from read(path, File(str(path), "json-lines"))
