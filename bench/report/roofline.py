"""How near to its device's limits a model runs: operations per byte moved against operations per second, as a table."""

import math
from typing import Any

import pandas as pd

from bench.report.frame import add_rates
from koala.harness.tables import Format, escape, significant, to_markdown
from koala.sampling.profiles import EAGER

NEEDED = ("latency_s", "flops", "moved_bytes", "peak_flops_per_s", "peak_bytes_per_s")
COMPUTE, BANDWIDTH = "compute", "bandwidth"
BYTES_NOTE = (
    "Bytes are what the operators of one call read and write in eager mode, weights each time: an upper bound of the "
    "traffic to the device's memory, for caches keep part of it. So a point may lie left of the truth, and a share of "
    "bandwidth may exceed 100%."
)
BOUND_NOTE = (
    "`bound by` is the lower of the two roofs over the point; what stays far below it waits for something else, such "
    "as the launch of many small operators."
)
_THREE = significant(3)


def placed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that a roofline has a place for, with what is computed from them.

    `flop_per_byte`, `ridge` (FLOP per byte above which the FLOP/s limit), `achieved_flops_per_s`, `share_of_flops` and
    `share_of_bandwidth` of the peaks, and `bound_by`, "compute" or "bandwidth".
    """
    rows = _complete(frame)
    rows = rows[(rows["status"] == "ok") & rows[list(NEEDED)].notna().all(axis=1)].copy()
    rows[list(NEEDED)] = rows[list(NEEDED)].astype(float)
    rows = rows[(rows[list(NEEDED)] > 0).all(axis=1)]
    rows["flop_per_byte"] = rows["flops"] / rows["moved_bytes"]
    rows["ridge"] = rows["peak_flops_per_s"] / rows["peak_bytes_per_s"]
    add_rates(rows)
    rows["bound_by"] = [COMPUTE if above else BANDWIDTH for above in rows["flop_per_byte"] >= rows["ridge"]]
    return rows


def left_out(frame: pd.DataFrame) -> list[str]:
    """One line for each measured row that has no place, and what it lacks."""
    rows = _complete(frame)
    rows = rows[rows["status"] == "ok"].drop(index=placed(frame).index)
    return [f"{_name(line)}: no {', '.join(_lacking(line))}" for line in rows.to_dict("records")]


def render_markdown(frame: pd.DataFrame) -> str:
    """A table for each device, and below it what its bytes are and where its peaks come from."""
    rows = placed(frame)
    if rows.empty:
        lacking = "No row has counted operations, counted bytes and its device's peaks"
        return f"{lacking}: `python -m bench sweep` measures some that do.\n"
    parts = []
    for device, group in rows.groupby("device_name", sort=False):
        notes = [f"- {note}" for note in (BYTES_NOTE, BOUND_NOTE, *map(escape, sources(group)))]
        parts += [f"### {escape(str(device))}", "", to_markdown(_shown(group), _FORMATS), "", *notes, ""]
    return "\n".join(parts)


def sources(group: pd.DataFrame) -> list[str]:
    """Where the peaks of each dtype come from, one line a dtype and source."""
    pairs = group[["dtype", "peak_source"]].drop_duplicates().sort_values("dtype")
    return [f"Peaks of {dtype}: {source or 'source not recorded'}." for dtype, source in pairs.itertuples(index=False)]


def probed(group: pd.DataFrame) -> bool:
    """Whether a peak was measured here, not taken from the maker's documents."""
    return any(str(source).startswith("probed") for source in group["peak_source"])


_FORMATS: dict[str, Format] = {
    "resolution": str,
    "batch": str,
    **dict.fromkeys(
        (
            "TFLOP per call",
            "GB moved",
            "FLOP/byte",
            "achieved TFLOP/s",
            "% of peak FLOP/s",
            "% of peak bandwidth",
        ),
        _THREE,
    ),
}


def _shown(group: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": group["model"],
            "target": group["target"],
            "resolution": group["resolution"],
            **({} if set(group["batch_size"]) == {1} else {"batch": group["batch_size"]}),
            "dtype": group["dtype"],
            **({} if set(group["profile"]) == {EAGER.name} else {"profile": group["profile"]}),
            "TFLOP per call": group["flops"] / 1e12,
            "GB moved": group["moved_bytes"] / 1e9,
            "FLOP/byte": group["flop_per_byte"],
            "achieved TFLOP/s": group["achieved_flops_per_s"] / 1e12,
            "% of peak FLOP/s": group["share_of_flops"] * 100,
            "% of peak bandwidth": group["share_of_bandwidth"] * 100,
            "bound by": group["bound_by"],
        }
    )


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every column that is asked for; what older rows lack is empty."""
    wanted = ("model", "target", "resolution", "batch_size", "dtype", "profile", "device_name", "status", "peak_source")
    columns = [*frame.columns, *(name for name in (*wanted, *NEEDED) if name not in frame.columns)]
    return frame.reindex(columns=columns)


_WORDS = {
    "latency_s": "latency",
    "flops": "counted operations",
    "moved_bytes": "counted bytes",
    "peak_flops_per_s": "peak FLOP/s of its device",
    "peak_bytes_per_s": "peak bandwidth of its device",
}


def _lacking(line: dict[Any, Any]) -> list[str]:
    return [words for column, words in _WORDS.items() if not _positive(line[column])]


def _positive(value: Any) -> bool:
    return value is not None and not math.isnan(value) and value > 0


def _name(line: dict[Any, Any]) -> str:
    profile = "" if line["profile"] == EAGER.name else f" {line['profile']}"
    return f"{line['model']} {line['target']} {line['resolution']}px {line['dtype']}{profile}"
