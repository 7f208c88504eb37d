"""Where captioned images come from: one door to folders, tars, parquet files and datasets by their id."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from koala.distill.data.example import Source
from koala.distill.data.folder import METADATA, Drawn, Folder, metadata_files
from koala.distill.data.tars import Tars
from koala.errors import KoalaError, first_few
from koala.sampling.gallery import MANIFEST

UNDERSTOOD = (
    f"a folder of images with {' or '.join(METADATA)} (columns file_name and text, or others), "
    "a gallery of `koala sample`, "
    "WebDataset shards (a .tar, a folder of them, a pattern 'data/*.tar' or a range 'train-{0000..0099}.tar'), "
    "parquet files with a column of images (a .parquet, a folder of them or a pattern), "
    "or a dataset by its id: owner/name or owner/name:split"
)
_SUFFIXES = (".tar", ".parquet", ".jsonl", ".csv", ".gz", ".zip")  # of a file that is missing, not of a dataset's id
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SPLIT = re.compile(rf"(?<![a-z])(?:{'|'.join(_SPLITS)})(?![a-z])")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_source(text: str) -> Source:
    """The images that `text` names; a `KoalaError` that lists what is understood where it names none."""
    try:
        return _opened(text)
    except OSError as error:
        raise KoalaError(f"cannot read {error.filename or text}: {error.strerror or error}") from error


def _opened(text: str) -> Source:
    path = Path(text)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return _files([path], path.name)
    if _RANGE.search(text):
        return _files([Path(one) for one in _expanded(text)], path.name)
    if glob.has_magic(text):
        if found := sorted(map(Path, glob.glob(text, recursive=True))):  # noqa: PTH207, absolute patterns too
            return _files(found, path.name)
        raise KoalaError(f"no file is like {text!r}")
    from koala.distill.data.tables import Hub, hub_id

    if (named := hub_id(text)) and path.suffix not in _SUFFIXES:
        return Hub(*named)
    raise KoalaError(f"{text!r} does not exist; what is read: {UNDERSTOOD}")


def _folder(path: Path) -> Source:
    if found := metadata_files(path):
        _refuse_splits(path, found)
        return Folder(path)
    if (path / MANIFEST).exists() or any(path.glob("manifest.rank-*.jsonl")):
        return Drawn(path)
    below = sorted(file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in (".tar", ".parquet"))
    shown = [path / file for file in below if not any(part.startswith(".") for part in file.parts)]
    for suffix in (".tar", ".parquet"):
        if found := [file for file in shown if file.suffix.lower() == suffix]:
            _refuse_splits(path, found)
            return _files(found, path.resolve().name)
    raise KoalaError(f"{path} holds nothing that is understood; what is read: {UNDERSTOOD}")


def _refuse_splits(folder: Path, files: Sequence[Path]) -> None:
    """A `KoalaError` for a folder of files to train and to test on; split names are those of the datasets library."""
    splits: dict[str, Path] = {}
    for file in files:
        words = _SPLIT.findall(file.relative_to(folder).as_posix().lower())
        splits.setdefault(_SPLITS[words[-1]] if words else "train", file)  # the word next to the end counts
    if len(splits) > 1:
        found = "; ".join(f"{split}: {file}" for split, file in sorted(splits.items()))
        raise KoalaError(
            f"{folder} holds files of several splits ({found}); give those to train on alone, by their folder or, "
            f"if they are tars or parquet files, by a pattern"
        )


def _files(files: Sequence[Path], name: str) -> Source:
    if missing := [str(file) for file in files if not file.is_file()]:
        raise KoalaError(f"not there: {first_few(missing)}")
    kinds = {file.suffix.lower() for file in files}
    if kinds == {".tar"}:
        return Tars(files, name)
    if kinds == {".parquet"}:
        from koala.distill.data.tables import Parquet

        return Parquet(files, name)
    raise KoalaError(
        f"{name} is no .tar and no .parquet alone, but {first_few(sorted(kinds))}; what is read: {UNDERSTOOD}"
    )


def _expanded(text: str) -> list[str]:
    """Every text that ranges such as {000..123} stand for; numbers are as wide as the first of their range."""
    match = _RANGE.search(text)
    if not match:
        return [text]
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise KoalaError(f"the range {match[0]} runs backwards")
    numbers = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
    return [one for number in numbers for one in _expanded(text[: match.start()] + number + text[match.end() :])]
