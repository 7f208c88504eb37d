"""Rows -> a pandas frame: one line a case, in seconds, bytes and joules, unrounded."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import pandas as pd

from bench.case import resume_key
from bench.processes import grouped, merged
from bench.report.speedups import speedups_vs_diffusers, speedups_vs_sdxl
from bench.sweep import row_key
from bench.trust import parts_share, unseen_doubts
from koala.harness.nested import interval_of_runs
from koala.harness.records import Records, Row
from koala.harness.stats import median_interval

STAGES = ("encode", "denoise", "decode", "rest")
PARTS = (*STAGES, "unet", "scheduler")
MEMORY_KINDS = (
    "weights",
    "context",
    "context_end",
    "peak_allocated",
    "peak_reserved",
    "call_peak_allocated",
    "call_peak_reserved",
    "process_peak",
    "device_baseline",
    "device_peak",
    "rss_baseline",
    "rss_peak",
)
_VERSIONS = ("torch", "diffusers", "transformers", "cuda", "driver")


def latest_rows(records: Records) -> list[Row]:
    """The bench rows that count: the latest of each resume key, and of a case only those of its newest measurement."""
    latest = records.of_kind("bench").latest(lambda row: row_key(row, records)).values()

    def case_of(row: Row) -> str:
        return resume_key(row | {"process": 0, "measurement": None}, records.environment(row))

    keyed = [(case_of(row), row.get("measurement") or 0, row) for row in latest]
    newest: dict[str, int] = {}
    for case, measurement, _ in keyed:
        newest[case] = max(measurement, newest.get(case, 0))
    return [row for case, measurement, row in keyed if measurement == newest[case]]


def to_frame(rows: Sequence[Row], records: Records) -> pd.DataFrame:
    """One line a case, however many processes measured it; empty cells were not measured."""
    return frame_of_cases(whole_cases(rows, records), records).reset_index(drop=True)


def frame_of_cases(cases: Sequence[Row], records: Records) -> pd.DataFrame:
    """The frame of whole cases in the order of tables; its index is the place in `cases`."""
    frame = pd.DataFrame([_line(row, records.environment(row)) for row in cases])
    if frame.empty:
        return frame
    add_rates(frame)
    after = frame.columns.get_loc("latency_high_s") + 1
    frame.insert(after, "speedup_vs_sdxl", speedups_vs_sdxl(frame))
    frame.insert(after + 1, "speedup_vs_diffusers", speedups_vs_diffusers(frame))
    order = ["device_name", "target", "resolution", "batch_size", "dtype", "steps", "vram_bytes", "latency_s"]
    return frame.sort_values(order, kind="stable", na_position="last")


def frames_by_device(cases: Sequence[Row], records: Records) -> dict[str, pd.DataFrame]:
    """`frame_of_cases` of each device apart, in order of their names; a row whose device is unknown is of ""."""
    places: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(records.environment(case).get("device_name") or "", []).append(place)
    frames = {}
    for device in sorted(places):
        own = frame_of_cases([cases[place] for place in places[device]], records)
        frames[device] = own.set_axis([places[device][place] for place in own.index])
    return frames


def add_rates(frame: pd.DataFrame) -> None:
    """Give a frame what is computed and moved per second in the median call, as a share of the device's peak too."""
    known = {name: pd.to_numeric(frame[name]) for name in ("flops", "moved_bytes", "latency_s")}
    frame["achieved_flops_per_s"] = known["flops"] / known["latency_s"]
    frame["share_of_flops"] = frame["achieved_flops_per_s"] / pd.to_numeric(frame["peak_flops_per_s"])
    frame["share_of_bandwidth"] = known["moved_bytes"] / known["latency_s"] / pd.to_numeric(frame["peak_bytes_per_s"])


def whole_cases(rows: Sequence[Row], records: Records) -> list[Row]:
    """One row a case: those of its processes made into one."""

    def case_of(row: Row) -> str:
        return resume_key(row | {"process": 0}, records.environment(row))

    return [merged(group) for group in grouped(rows, case_of)]


def _line(row: Row, environment: Row) -> dict[str, Any]:
    case, memory, peak = row["case"], row.get("memory_bytes", {}), row.get("peak") or {}
    return {
        "model": case["model"],
        "target": case["target"],
        "resolution": case["resolution"],
        "batch_size": case["batch_size"],
        "dtype": case["dtype"],
        "steps": case["steps"],
        "profile": case["profile"],
        "weights": case["weights"],
        "pipeline": row.get("class_name"),
        "vram_bytes": case.get("vram_bytes"),
        "device_name": environment.get("device_name"),
        "status": row["status"],
        **_timings(row),
        **_costs(row),
        "decode_dtype": row.get("decode_dtype"),
        **_beginning(row),
        **{f"{name}_bytes": memory.get(name) for name in MEMORY_KINDS},
        **_emulation(row),
        "energy_j": row.get("energy_j"),
        "energy_within_j": None if row.get("energy_j") is None else row.get("energy_within_j"),
        "energy_method": row.get("energy_method"),
        "params": row.get("params"),
        **{f"peak_{name}": peak.get(name) for name in ("flops_per_s", "bytes_per_s", "source")},
        "doubts": "; ".join(unseen_doubts(row)) or None,
        "threads": row.get("threads"),
        **{name: environment.get(name) for name in _VERSIONS},
        "git_commit": environment.get("git_commit"),
        "started_at": row.get("started_at"),
        "reason": row.get("reason"),
        "environment": row.get("environment"),
    }


def _timings(row: Row) -> dict[str, Any]:
    """Median, its 95% interval (none below 6 samples of one process), extremes and count of whole calls; medians of
    their parts, and images per second. Of several processes the median of their medians.
    """
    samples = row.get("samples_s", {}) if row["status"] == "ok" else {}
    total, runs = samples.get("total", []), row["runs"] if row["status"] == "ok" else []
    steps = [s for sample in samples.get("step", []) for s in sample]
    latency = median(map(median, runs)) if runs else None
    interval = median_interval(total) if len(runs) == 1 else interval_of_runs(runs)
    per_step = total if row["case"]["target"] == "unet" else steps
    return {
        "processes": row["processes"],
        "samples": len(total),
        "latency_s": latency,
        "latency_low_s": interval.low if interval else None,
        "latency_high_s": interval.high if interval else None,
        "latency_min_s": min(total, default=None),
        "latency_max_s": max(total, default=None),
        "images_per_s": row["case"]["batch_size"] / latency if latency and row["case"]["target"] != "unet" else None,
        "step_s": median(per_step) if per_step else None,
        **{f"{part}_s": median(samples[part]) if samples.get(part) else None for part in PARTS},
        "parts_share": parts_share(samples),
    }


def _costs(row: Row) -> dict[str, Any]:
    """Forwards of the denoising network per image, guidance included, and what is computed and moved."""
    flops = row.get("flops")
    return {
        "nfe": row.get("unet_calls"),
        "flops": flops,
        "flops_per_image": None if flops is None else flops / row["case"]["batch_size"],
        "moved_bytes": row.get("moved_bytes"),
    }


def _beginning(row: Row) -> dict[str, Any]:
    """What comes before the steady state, none of it in the latency."""
    load, warmup = row.get("load_s"), row.get("warmup_s") or []
    first = warmup[0] if warmup else None
    image = None if row["case"]["target"] == "unet" or load is None or first is None else load + first
    return {
        "load_s": load,
        "first_call_s": first,
        "warmup_s": sum(warmup) if warmup else None,
        "first_image_s": image,
    }


def _emulation(row: Row) -> dict[str, Any]:
    """How a smaller card was stood for, and the bytes of it that one call left free."""
    facts, memory = row.get("emulation") or {}, row.get("memory_bytes", {})
    limit, peak = facts.get("limit_bytes"), memory.get("call_peak_reserved")
    fits = row["status"] == "ok" and limit is not None and peak is not None
    return {"emulation": facts.get("how"), "limit_bytes": limit, "margin_bytes": limit - peak if fits else None}
