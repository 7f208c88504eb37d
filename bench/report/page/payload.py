"""Rows -> what the page's script reads: columns, samples and environments, as JSON that stays small."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.report.frame import STAGES
from koala.harness.records import Records, Row

MOST_WHOLE = 5000  # rows with their samples and environments; above, medians alone
DIGITS = 7  # significant, of what the page shows
CASE = ("model", "target", "device_name", "resolution", "batch_size", "dtype", "steps", "profile", "vram_bytes")
TEXTS = ("model", "target", "device_name", "dtype", "profile", "weights", "status")
NUMBERS = (
    *("resolution", "batch_size", "steps", "vram_bytes", "samples", "processes"),
    *("latency_s", "latency_low_s", "latency_high_s", "latency_min_s", "latency_max_s"),
    *("step_s", "images_per_s", "speedup_vs_sdxl", "first_image_s", "energy_j"),
    *(f"{stage}_s" for stage in STAGES),
    *("weights_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "process_peak_bytes", "rss_peak_bytes"),
    *("flops", "moved_bytes", "peak_flops_per_s", "peak_bytes_per_s", "params"),
)
NOTES = ("doubts", "reason", "pipeline", "emulation", "energy_method", "peak_source", "started_at")


def payload(cases: Sequence[Row], frame: pd.DataFrame, known: Records) -> dict[str, Any]:
    """Columns by name (texts as codes of a list), and for each row its samples and the place of its environment.

    The frame is that of `cases`, with their places as its index, and not empty.
    """
    if whole := len(frame) <= MOST_WHOLE:
        samples = [_samples(cases[place]) for place in frame.index]
        ids = [cases[place].get("environment", "") for place in frame.index]
        order = {id: place for place, id in enumerate(dict.fromkeys(ids))}
        environments = [known.environments.get(id, {}) for id in order]
        notes = {name: _coded(frame[name]) for name in NOTES}
    else:
        frame, samples, ids, order, environments, notes = _medians(frame), [], [], {}, [], {}
    return {
        "rows": len(frame),
        "of": len(cases),
        "whole": whole,
        "columns": {
            **{name: _coded(frame[name]) for name in TEXTS},
            **{name: _numbers(frame[name]) for name in NUMBERS},
            **notes,
        },
        "samples": samples,
        "environment": [order[id] for id in ids],
        "environments": environments,
    }


def _medians(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a case and device: the median over software and runs, where any of them ended well."""
    ended = frame.assign(bad=frame["status"] != "ok").sort_values("bad", kind="stable")
    numbers = [name for name in NUMBERS if name not in CASE]
    ended[numbers] = ended[numbers].apply(pd.to_numeric)
    groups = ended.groupby(list(CASE), dropna=False, sort=False)
    texts = [name for name in TEXTS if name not in CASE]
    found = groups[numbers].median().join(groups[texts].first()).reset_index()
    found["samples"] = groups["samples"].sum().to_numpy()
    return found


def _samples(case: Row) -> list[float | None]:
    return _numbers(case.get("samples_s", {}).get("total", []))


def _coded(texts: Iterable[Any]) -> dict[str, list]:
    """A column of texts as the different ones and the place of each row's among them; -1 where there is none."""
    places: dict[str, int] = {}
    codes = [-1 if _missing(text) else places.setdefault(str(text), len(places)) for text in texts]
    return {"texts": list(places), "codes": codes}


def _numbers(values: Iterable[Any]) -> list[float | int | None]:
    """Whole numbers as they are, others in seven digits, null where there is none."""
    given = pd.to_numeric(pd.Series(values, dtype=object)).to_numpy(float, na_value=math.nan)
    known = np.isfinite(given)
    whole = known & (given == np.floor(given))
    broken = np.where(known & ~whole, given, 1.0)
    digits = DIGITS - 1 - np.floor(np.log10(np.abs(broken)))  # after the point; whole numbers are all that has none
    scale = 10.0 ** np.clip(digits, 0, 300)
    shown = np.round(broken * scale) / scale
    return [
        None if not is_known else int(exact) if is_whole else short
        for exact, short, is_known, is_whole in zip(*(a.tolist() for a in (given, shown, known, whole)), strict=True)
    ]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value)) or value is pd.NA
