"""The formats that suites are published in -> prompts. A new one is one function and one line of `FORMATS`."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.prompts.entry import File
from eval.prompts.expects import expectations
from eval.suite import Prompt, counted
from koala.errors import KoalaError, UnknownName
from koala.harness.files import read_text

COLUMNS = ("prompt", "text", "caption", "prompts")  # of a prompt, whatever the case of their letters
ID = "id"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read(path: Path, file: File) -> list[Prompt]:
    """The prompts of an official file, with its tags; a `KoalaError` names the line that is wrong."""
    if file.format not in FORMATS:
        raise UnknownName("format of prompts", file.format, FORMATS)
    return [_tagged(prompt, file) for prompt in FORMATS[file.format](path, file)]


def _tagged(prompt: Prompt, file: File) -> Prompt:
    return Prompt(prompt.text, {**file.tags, **prompt.tags, **counted(prompt.expects)}, prompt.expects, prompt.id)


def prompt_text(value: Any, where: str) -> str:
    """A prompt that is not empty and that every file can hold."""
    if not isinstance(value, str):
        raise KoalaError(f"{where}: the prompt is no text: {json.dumps(value)[:80]}")
    text = value.strip()
    if not text:
        raise KoalaError(f"{where}: the prompt is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise KoalaError(f"{where}: the prompt holds half a character: {text[:80]!a}") from error
    return text


def require_printable(prompt: Prompt, where: str) -> Prompt:
    """The prompt, which holds no character that steers a terminal; tabs and line ends may be in it."""
    if found := _CONTROL.search(prompt.text):
        raise KoalaError(f"{where}: the prompt holds the control character {found.group()!a}: {prompt.text[:80]!a}")
    return prompt


def _lines(path: Path, file: File) -> Iterator[Prompt]:
    """One prompt a line; the last line may be empty."""
    lines = read_text(path).rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        yield Prompt(prompt_text(line, f"{path}, line {number}"))


def table_rows(path: Path, quoted: bool = True, strict: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The rows of a table, its header first, each with its place for an error; tabs or commas by the file's ending."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = io.StringIO(read_text(path), newline="")
    split = partial(csv.reader, lines, delimiter=separator, strict=strict)
    reader = split() if quoted else split(quoting=csv.QUOTE_NONE)
    try:
        for row in reader:
            if row:
                yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        fix = "; a cell that begins with a quote ends with one, and quotes inside of it are doubled" if strict else ""
        raise KoalaError(f"{path}, line {reader.line_num}: {error}{fix}") from error


def _table(path: Path, file: File) -> Iterator[Prompt]:
    """A table with a header."""
    rows = table_rows(path, file.quoted, file.strict)
    header = [cell.strip() for cell in next(rows, ("", []))[1]]
    prompt, id = (_place(header, name, path) for name in (file.prompt_column, file.id_column))
    tags = {name.lower(): _place(header, name, path) for name in file.tag_columns}
    for where, row in rows:
        if len(row) > len(header):
            raise KoalaError(f"{where}: more cells than the header names")
        cells = {place: cell.strip() for place, cell in enumerate(row)}
        found = {tag: cells[place] for tag, place in tags.items() if cells.get(place)}
        name = f"{file.id_prefix}{cells[id]}" if cells.get(id) else None
        yield Prompt(prompt_text(cells.get(prompt, ""), where), found, id=name)


def _place(header: Sequence[str], column: str | int | None, path: Path) -> int:
    """Where a column is; -1 where none is wanted."""
    if column is None:
        return -1
    if isinstance(column, int) and column < len(header):
        return column
    if column not in header:
        raise KoalaError(f"{path} has no column {column!r}; its columns: {', '.join(header) or 'none'}")
    return header.index(str(column))


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place for an error."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _object(_parsed(line, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KoalaError(f"{where}: not JSON ({error})") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KoalaError(f"{where}: not a JSON object")
    return value


def _json_list(path: Path, file: File) -> Iterator[Prompt]:
    """HPSv2's: a list of texts; image i of a style is called 0000i there."""
    found = _parsed(read_text(path), str(path))
    if not isinstance(found, list):
        raise KoalaError(f"{path} holds no JSON list")
    for place, value in enumerate(found):
        yield Prompt(prompt_text(value, f"{path}, item {place}"), id=f"{file.id_prefix}{place:05d}")


def _geneval(path: Path, file: File) -> Iterator[Prompt]:
    """GenEval's metadata, a JSON object a line: `tag` (the task), `include`, `exclude`, `prompt`."""
    for place, (where, row) in enumerate(json_lines(path)):
        if not isinstance(row.get("tag"), str) or not isinstance(row.get("include"), list):
            raise KoalaError(f"{where}: no tag and include, as GenEval's metadata has them")
        named = {name: row[name] for name in ("tag", "include", "exclude") if name in row}
        expects = expectations(named, where)
        yield Prompt(prompt_text(row.get("prompt"), where), {"task": row["tag"]}, expects, f"{place:05d}")


def _coco_captions(path: Path, file: File) -> Iterator[Prompt]:
    """COCO's captions, the first one of an image; of `sample` images, chosen and ordered by the hash of their ids.

    Those with the smallest sha256 of "koala-bench COCO ID", in the order of ids.
    """
    found = _object(_parsed(read_text(path), str(path)), str(path))
    first: dict[int, Any] = {}
    try:
        for caption in sorted(found["annotations"], key=lambda caption: caption["id"]):
            first.setdefault(caption["image_id"], caption["caption"])
        names = {image["id"]: Path(image["file_name"]).stem for image in found["images"]}
    except (KeyError, TypeError) as error:
        raise KoalaError(f"{path} is no file of COCO's captions: it lacks {error}") from error
    for image in sorted(sorted(first, key=_lot)[: file.sample or len(first)]):
        yield Prompt(prompt_text(first[image], f"{path}, image {image}"), id=names.get(image, str(image)))


def _lot(image: int) -> str:
    return hashlib.sha256(f"koala-bench COCO {image}".encode()).hexdigest()


def _text_folder(path: Path, file: File) -> Iterator[Prompt]:
    """DPG-Bench's: a folder with a file a prompt, by name."""
    if not path.is_dir():
        raise KoalaError(f"{path} is a file and should be a folder of .txt files")
    for text in sorted(path.glob("*.txt"), key=lambda text: (len(text.stem), text.stem)):
        yield Prompt(prompt_text(read_text(text), str(text)), id=text.stem)


def column_of(there: Iterable[str]) -> str | None:
    """Which of the names there is the prompt's."""
    by_name = {name.lower(): name for name in there}
    return next((by_name[name] for name in COLUMNS if name in by_name), None)


def _json_lines(path: Path, file: File) -> Iterator[Prompt]:
    """An object a line: the prompt, its `id`, what it `expects` and `tags` where there are any; all else is tags."""
    for where, row in json_lines(path):
        column = column_of(row)
        if column is None:
            raise KoalaError(f"{where}: no {', '.join(COLUMNS[:3])}; it has {', '.join(row) or 'nothing'}")
        expects = expectations(row["expects"], where) if row.get("expects") else {}
        tags = row.get("tags") or {}
        if not isinstance(tags, dict):
            raise KoalaError(f"{where}: tags is no object")
        others = {name: value for name, value in row.items() if name not in (column, ID, "expects", "tags")}
        words = {name: str(value) for name, value in {**others, **tags}.items() if value is not None}
        id = str(row[ID]) if row.get(ID) is not None else None
        yield Prompt(prompt_text(row[column], where), words, expects, id)


FORMATS: dict[str, Callable[[Path, File], Iterator[Prompt]]] = {
    "lines": _lines,
    "table": _table,
    "json-list": _json_list,
    "json-lines": _json_lines,
    "geneval": _geneval,
    "coco-captions": _coco_captions,
    "text-folder": _text_folder,
}
