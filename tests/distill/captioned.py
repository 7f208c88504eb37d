"""Small sets of captioned images of every kind that is read; each function writes one and returns its path."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220), "yellow": (230, 210, 50)}


def picture(number: int, height: int = 64, width: int = 64) -> Image.Image:
    """A square of one colour on a slope of another; unlike numbers give unlike pictures."""
    names = list(COLOURS)
    colour, ground = (np.array(COLOURS[names[i % 4]]) for i in (number, number // 4 + number + 1))
    slope = np.linspace(0.4, 1, width)[None, :, None] * np.ones((height, 1, 1))
    pixels = slope * ground
    top, left = number * 7 % (height // 2 + 1), number * 5 % (width // 2 + 1)
    pixels[top : top + height // 2, left : left + width // 2] = colour
    return Image.fromarray(pixels.astype(np.uint8))


def columns(number: int) -> dict:
    """A short caption, a rich one and an aesthetic score."""
    names = list(COLOURS)
    colour, ground = names[number % 4], names[(number // 4 + number + 1) % 4]
    return {
        "text": f"a {colour} square, picture {number}",
        "llava": f"The picture shows a {colour} square in front of a smooth slope of {ground} that grows to the right",
        "aesthetic": 4 + number % 4,
    }


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def folder(path: Path, n: int, side: int = 64) -> Path:
    """`n` pictures of `side` x `side` pixels with a metadata.jsonl of `file_name` and `columns`."""
    (path / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number:04d}.png" for number in range(n)]
    for number, name in enumerate(names):
        picture(number, side, side).save(path / name)
    write_rows(path / "metadata.jsonl", [{"file_name": name, **columns(i)} for i, name in enumerate(names)])
    return path


def tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of files of these names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as written:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            written.addfile(member, io.BytesIO(data))
    return path


def tars(path: Path, n: int, shards: int = 2, side: int = 64) -> Path:
    """A folder of WebDataset shards with `n` pictures altogether: png, txt and json."""
    for shard in range(shards):
        files = {}
        for number in range(shard, n, shards):
            row = columns(number)
            files[f"{number:06d}.png"] = encoded(picture(number, side, side))
            files[f"{number:06d}.txt"] = row.pop("text").encode()
            files[f"{number:06d}.json"] = json.dumps(row).encode()
        tar(path / f"train-{shard:04d}.tar", files)
    return path


def parquet(path: Path, n: int, side: int = 64, row_group: int = 1000) -> Path:
    """A parquet file of `n` pictures as the datasets library stores them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(picture(number, side, side)), "path": f"{number}.png"} for number in range(n)]
    rows = [{"image": image, **columns(number)} for number, image in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group)
    return path
