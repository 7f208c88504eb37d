"""Folders of small captioned pictures."""

import csv
import json

import numpy as np
from PIL import Image

SHAPES = [(40, 30), (30, 90), (28, 28), (100, 30), (64, 64)]


def picture(i):
    height, width = SHAPES[i % len(SHAPES)]
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8))


def write_pictures(folder, n, metadata="metadata.jsonl"):
    """A folder of n captioned images; without `metadata` only images."""
    folder.mkdir(parents=True)
    rows = [{"file_name": f"{i}.png", "score": i + 0.5, "text": f"picture, n°{i}"} for i in range(n)]
    for i in range(n):
        picture(i).save(folder / f"{i}.png")
    if metadata.endswith(".jsonl"):
        (folder / metadata).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif metadata:
        with open(folder / metadata, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def rows_of(folder, metadata="metadata.jsonl"):
    text = (folder / metadata).read_text()
    if metadata.endswith(".csv"):
        return list(csv.DictReader(text.splitlines()))
    return [json.loads(line) for line in text.splitlines()]


def by_file(folder, column="llava"):
    """The column of the rows that have it."""
    return {row["file_name"]: row[column] for row in rows_of(folder) if column in row}
