"""Contact sheets of scored sets, and the best and worst images of each image metric."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from koala.harness.files import write_bytes
from koala.harness.records import Row
from koala.harness.scores.collect import Score, Scored, SetKey
from koala.harness.scores.headings import SHORT, column_names, rounded, set_names
from koala.sampling.contact_sheet import Tile, arranged, contact_sheet

MOST_TILES = 60
EXTREMES = 6  # best and worst images shown of a set and metric
MOST_SETS = 20  # rows of one sheet of extremes
_JPEG_ABOVE = 24


def draw_sheets(scored: Scored, frame: pd.DataFrame, folder: Path) -> tuple[list[Path], list[str]]:
    """A sheet per set; the files, and a line for each set whose images are not here."""
    written, remarks = [], []
    for key, name in set_names(frame).items():
        rows = scored.images[key]
        if not rows:
            continue
        there = [(path, row) for row in rows if (path := image_path(scored.sets[key], row)) is not None]
        if not there:
            remarks.append(f"{name}: none of its {len(rows)} images is here, so it has no contact sheet")
            continue
        if len(there) < len(rows):
            remarks.append(f"{name}: {len(rows) - len(there)} of {len(rows)} images are not here, or have changed")
        first_seen = {row.get("prompt"): -place for place, (_, row) in reversed(list(enumerate(there)))}
        there.sort(key=lambda item: (-first_seen[item[1].get("prompt")], item[1].get("seed") or 0))
        tiles = [_tile(path, row, _seed_text(row)) for path, row in there[:MOST_TILES]]
        count = f"the first {len(tiles)} of {len(there)} images" if len(tiles) < len(there) else f"{len(tiles)} images"
        written.append(_write(arranged(tiles), f"{name}  ·  {count}", folder / f"set-{_slug(name)}-{_of(key)}"))
    return written, remarks


def draw_extremes(scored: Scored, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """A sheet per image metric that has a better direction: each set's best images, then its worst."""
    sets, columns = set_names(frame), column_names(frame)
    written = []
    for column, title in columns.items():
        metric = scored.metrics[column.metric]
        if metric.get("level") != "image" or metric.get("higher_is_better") is None:
            continue
        rows: list[list[Tile]] = []
        for key in list(sets)[:MOST_SETS]:
            scores = scored.scores.get((key, column.metric), [])
            rows += _extremes(scored.sets[key], scores, sets[key], metric["higher_is_better"])
        if rows:
            path = folder / f"extremes-{_slug(title)}-{column.metric[:SHORT]}"
            written.append(_write(rows, f"{title}  ·  best and worst images", path))
    return written


def image_path(about: Row, row: Row) -> Path | None:
    """Where an image lies; None where it is gone or of another size, or where the row names a file outside its set."""
    folder, file = about.get("path"), row.get("file")
    if not isinstance(folder, str) or not isinstance(file, str) or "\0" in folder + file:
        return None
    root, path = Path(folder).resolve(), (Path(folder) / file).resolve()
    there = path.is_relative_to(root) and path.is_file() and row.get("bytes") in (None, path.stat().st_size)
    return path if there else None


def _extremes(about: Row, scores: Sequence[Score], name: str, higher_is_better: bool) -> list[list[Tile]]:
    """A row of the best images and one of the worst, the worst first; of few images each stands in one row only."""
    known = [(path, s) for s in scores if s.value is not None and (path := image_path(about, s.row)) is not None]
    known.sort(key=lambda item: item[1].value or 0.0, reverse=higher_is_better)
    shown = min(EXTREMES, len(known) // 2)
    parts = [("best", known[:shown]), ("worst", known[::-1][:shown])]
    return [
        [
            _tile(path, s.row, f"{rank + 1}. {word}: {rounded(s.value or 0.0)}  ·  {name}")
            for rank, (path, s) in enumerate(part)
        ]
        for word, part in parts
        if part
    ]


def _tile(path: Path, row: Row, note: str) -> Tile:
    return Tile(path, row.get("prompt") or str(row.get("file")), note)


def _seed_text(row: Row) -> str:
    return "" if row.get("seed") is None else f"seed {row['seed']}"


def _of(key: SetKey) -> str:
    return "-".join(filter(None, (_slug(key.set[:SHORT]), _slug(str(key.content or "")[:SHORT]))))


def _slug(text: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "unnamed"


def _write(rows: Sequence[Sequence[Tile]], title: str, base: Path) -> Path:
    sheet = contact_sheet(rows, title)
    buffer, is_jpeg = io.BytesIO(), sum(map(len, rows)) > _JPEG_ABOVE
    if is_jpeg:
        sheet.save(buffer, "jpeg", quality=90)
    else:
        sheet.save(buffer, "png")
    path = base.with_name(base.name + (".jpg" if is_jpeg else ".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path
