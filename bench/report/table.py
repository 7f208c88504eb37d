"""Rows -> the table that people cite: one line a case, medians with their interval, peak memory, versions."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import pandas as pd

from bench.profiles import DIFFUSERS
from bench.report.speedups import speedups_vs_diffusers, speedups_vs_sdxl
from bench.sweep import row_key
from koala.harness.records import Records, Row
from koala.harness.stats import median_interval
from koala.harness.tables import Format, escape, gib, significant, to_markdown
from koala.sampling.profiles import EAGER

STAGES = ("encode", "denoise", "decode")
_SECONDS = significant(3)


def latest_rows(records: Records) -> list[Row]:
    """The bench rows that count: the latest of each resume key."""
    return list(records.of_kind("bench").latest(lambda row: row_key(row, records)).values())


def to_frame(rows: Sequence[Row], records: Records) -> pd.DataFrame:
    """One line a row, in seconds and bytes, unrounded; empty cells were not measured."""
    frame = pd.DataFrame([_line(row, records.environment(row)) for row in rows])
    if frame.empty:
        return frame
    after = frame.columns.get_loc("latency_high_s") + 1
    frame.insert(after, "speedup_vs_sdxl", speedups_vs_sdxl(frame))
    frame.insert(after + 1, "speedup_vs_diffusers", speedups_vs_diffusers(frame))
    order = ["device_name", "target", "resolution", "batch_size", "dtype", "steps", "latency_s"]
    return frame.sort_values(order, kind="stable", na_position="last").reset_index(drop=True)


def _line(row: Row, environment: Row) -> dict[str, Any]:
    case, memory = row["case"], row.get("memory_bytes", {})
    return {
        "model": case["model"],
        "target": case["target"],
        "resolution": case["resolution"],
        "batch_size": case["batch_size"],
        "dtype": case["dtype"],
        "steps": case["steps"],
        "profile": case["profile"],
        "weights": case["weights"],
        "device_name": environment.get("device_name"),
        "status": row["status"],
        **_timings(row),
        "unet_calls": row.get("unet_calls"),
        "decode_dtype": row.get("decode_dtype"),
        "load_s": row.get("load_s"),
        "first_call_s": next(iter(row.get("warmup_s", [])), None),
        **{f"{name}_bytes": memory.get(name) for name in MEMORY_KINDS},
        "params": row.get("params"),
        "flops": row.get("flops"),
        "threads": row.get("threads"),
        **{name: environment.get(name) for name in ("torch", "diffusers", "transformers", "cuda", "driver")},
        "git_commit": environment.get("git_commit"),
        "started_at": row.get("started_at"),
        "reason": row.get("reason"),
        "environment": row.get("environment"),
    }


MEMORY_KINDS = (
    "weights",
    "peak_allocated",
    "peak_reserved",
    "device_baseline",
    "device_peak",
    "rss_baseline",
    "rss_peak",
)


def _timings(row: Row) -> dict[str, Any]:
    """Median, its 95% interval (none below 6 samples), extremes and count of whole calls; medians of their parts."""
    samples = row.get("samples_s", {}) if row["status"] == "ok" else {}
    total = samples.get("total", [])
    steps = [s for sample in samples.get("step", []) for s in sample]
    interval = median_interval(total)
    per_step = total if row["case"]["target"] == "unet" else steps
    return {
        "samples": len(total),
        "latency_s": median(total) if total else None,
        "latency_low_s": interval.low if interval else None,
        "latency_high_s": interval.high if interval else None,
        "latency_min_s": min(total, default=None),
        "latency_max_s": max(total, default=None),
        "step_s": median(per_step) if per_step else None,
        **{f"{stage}_s": median(samples[stage]) if samples.get(stage) else None for stage in STAGES},
    }


def render_markdown(frame: pd.DataFrame) -> str:
    """The table for people: rounded, out of memory spelled out, weights and versions said below each device."""
    if frame.empty:
        return "No rows yet: `python -m bench sweep` measures some.\n"
    parts = []
    for device, group in frame.groupby("device_name", sort=False, dropna=False):
        parts += [f"### {escape(str(device))}", "", to_markdown(_shown(group), _FORMATS), "", *_footnotes(group), ""]
    return "\n".join(parts)


_FORMATS: dict[str, Format] = {
    "resolution": str,
    "batch": str,
    "steps": lambda value: str(int(value)),
    "latency [s]": str,
    "step [s]": _SECONDS,
    **{f"{stage} [s]": _SECONDS for stage in STAGES},
    "x sdxl": significant(3),
    "x diffusers": significant(3),
    "n": str,
    "weights [GiB]": gib,
    "peak allocated [GiB]": gib,
    "peak reserved [GiB]": gib,
    "peak of device [GiB]": gib,
    "peak RSS [GiB]": gib,
}


def _shown(group: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": group["model"],
            "target": group["target"],
            "resolution": group["resolution"],
            "batch": group["batch_size"],
            "dtype": group["dtype"],
            "steps": group["steps"],
            **({} if set(group["profile"]) == {EAGER.name} else {"profile": group["profile"]}),
            "latency [s]": [_latency_text(line) for line in group.to_dict("records")],
            "step [s]": group["step_s"],
            **{f"{stage} [s]": group[f"{stage}_s"] for stage in STAGES},
            "x sdxl": group["speedup_vs_sdxl"],
            "x diffusers": group["speedup_vs_diffusers"],
            "n": group["samples"],
            "weights [GiB]": group["weights_bytes"],
            "peak allocated [GiB]": group["peak_allocated_bytes"],
            "peak reserved [GiB]": group["peak_reserved_bytes"],
            "peak of device [GiB]": group["device_peak_bytes"],
            "peak RSS [GiB]": group["rss_peak_bytes"],
        }
    )


_STATUS_WORDS = {"oom": "out of memory", "timeout": "timed out", "unsupported": "not possible"}


def _latency_text(line: dict) -> str:
    if line["status"] != "ok":
        return _STATUS_WORDS.get(line["status"], line["status"])
    middle = _SECONDS(line["latency_s"])
    if pd.isna(line["latency_low_s"]):
        return f"{middle} ({_SECONDS(line['latency_min_s'])} to {_SECONDS(line['latency_max_s'])}, n < 6)"
    return f"{middle} [{_SECONDS(line['latency_low_s'])}, {_SECONDS(line['latency_high_s'])}]"


def _footnotes(group: pd.DataFrame) -> list[str]:
    notes = [
        "Latency: median and its 95% interval of synchronised wall time; below 6 samples no such interval exists and "
        "minimum to maximum stand instead. A `unet` case is one denoising step of the model's recipe (guided where "
        "the recipe is), a `pipeline` case goes from prompt to float images on the device.",
    ]
    pipelines = group[group["target"] == "pipeline"]
    if not pipelines.empty:
        notes.append(
            "`x sdxl` of a pipeline: each model in its recipe's own steps against SDXL in its own, or both in the same "
            "number of steps; same resolution, dtype, batch, profile and software."
        )
    if (pipelines["profile"] == DIFFUSERS.name).any():
        notes.append(
            f"`{DIFFUSERS.name}` is the model through diffusers' own pipeline, and `x diffusers` its latency over the "
            "row's; its encode ends at the first U-Net call and so holds the pipeline's preparation."
        )
    if (group["weights"] == "random").any():
        notes.append("Weights are random: time and memory do not depend on their values, images would be noise.")
    versions = group[["torch", "diffusers", "transformers", "cuda", "driver"]].drop_duplicates()
    for line in versions.to_dict("records"):
        notes.append(", ".join(f"{name} {value}" for name, value in line.items() if not pd.isna(value)) + ".")
    reasons = group[group["status"].isin(["failed", "timeout", "unsupported"])]
    notes += list(dict.fromkeys(_reason_text(line) for line in reasons.to_dict("records")))
    return [f"- {note}" for note in notes]


def _reason_text(line: dict) -> str:
    return f"{line['model']} {line['target']}: {line['reason']}"
