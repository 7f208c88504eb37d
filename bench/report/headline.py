"""The table in the manner of KOALA's figure 7: a line a model, a column a device, `latency | memory` or OOM."""

from collections.abc import Iterator

import pandas as pd

from bench.report.pareto import MEMORY_KINDS, device_of
from bench.report.table import STATUS_WORDS
from koala.harness.scores.headings import lines_of
from koala.harness.tables import Format, escape, gib, significant, to_markdown
from koala.sampling.profiles import EAGER

KEY = ("model", "resolution", "steps", "dtype")
MOST_LINES = 100
TARGETS = {"pipeline": "Whole images", "unet": "One denoising step"}
_READ = (*KEY, "device_name", "vram_bytes", "status", "latency_s", "started_at", *MEMORY_KINDS)
_SECONDS = significant(3)


def headline(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """One image a call, eager, the newest row of each cell; the largest images first. Empty: not measured."""
    cells: dict[tuple, dict[str, str]] = {}
    for line in sorted(_lines(frame, target), key=lambda line: line["started_at"] or ""):
        cells.setdefault(tuple(line[name] for name in KEY), {})[escape(device_of(line))] = cell(line)
    devices = sorted({device for of_one in cells.values() for device in of_one})
    order = sorted(cells, key=lambda key: (-key[1], key[3], key[0], key[2] or 0))
    return pd.DataFrame(
        [dict(zip(KEY, key, strict=True)) | {device: cells[key].get(device) for device in devices} for key in order]
    )


def cell(line: dict) -> str:
    """Seconds and GiB, or why there are none."""
    if line["status"] != "ok":
        return "OOM" if line["status"] == "oom" else STATUS_WORDS.get(line["status"], line["status"])
    memory = next((line[kind] for kind in MEMORY_KINDS if line[kind] is not None), None)
    return _SECONDS(line["latency_s"]) + (f" | {gib(memory)}" if memory else "")


def render_markdown(frame: pd.DataFrame) -> str:
    """The tables of whole images and of denoising steps, with what their cells are."""
    parts = []
    for target, title in TARGETS.items():
        if len(found := headline(frame, target)):
            formats: dict[str, Format] = {"resolution": str, "steps": lambda value: str(int(value))}
            parts += [f"## {title}", "", to_markdown(found[:MOST_LINES], formats), ""]
            more = len(found) - MOST_LINES
            parts += [f"The tables of the devices have {more} more.", ""] if more > 0 else []
    note = (
        "Cells are `latency [s] | memory [GiB]` of one image a call, eager: medians of synchronised wall time, and "
        "what torch reserved at most on a GPU, or the resident memory of the process on a processor. An empty cell "
        "was not measured."
    )
    return "\n".join([*parts, note, ""]) if parts else ""


def _lines(frame: pd.DataFrame, target: str) -> Iterator[dict]:
    if frame.empty:
        return
    eager = (frame["target"] == target) & (frame["batch_size"] == 1) & (frame["profile"] == EAGER.name)
    yield from lines_of(frame.loc[eager, list(_READ)])
