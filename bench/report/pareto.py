"""Latency and memory beside quality: bench rows joined with eval rows, and which models no other one beats in both."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from bench.report.generation import Generation, Line, of_latency, of_quality
from bench.report.quality import Quality, suite_of
from bench.report.table import STATUS_WORDS
from koala.errors import KoalaError, first_few
from koala.harness.scores.headings import lines_of, plain

LATENCY, MEMORY = "latency", "memory"
COSTS = {LATENCY: "latency_s", MEMORY: "peak_memory_bytes"}
MEMORY_KINDS = {
    "peak_reserved_bytes": "reserved by torch on the GPU",
    "rss_peak_bytes": "resident in the process (RSS)",
}
_TIMES = ("latency_s", "latency_low_s", "latency_high_s", "latency_min_s", "latency_max_s")
_VERSIONS = ("torch", "diffusers", "driver", "threads")


@dataclass(frozen=True)
class Joined:
    """One line for each device, generation, batch size and set of images, and what found no partner or is in doubt.

    `latency_s` and its companions are seconds per image; `peak_memory_bytes` is of the kind that `memory_kind` says.
    `device` names a smaller card that was emulated too; only lines of one `device` are compared, in `efficient`.
    """

    frame: pd.DataFrame
    quality: Quality
    against: str  # LATENCY or MEMORY
    left_out: list[str]
    remarks: list[str]


def efficient(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Which points no other one beats: none is as cheap and worth more, or cheaper and worth as much.

    Equal points are efficient together.
    """
    order = sorted(range(len(costs)), key=lambda i: costs[i])
    found, best = [False] * len(costs), float("-inf")
    for _, alike in groupby(order, key=lambda i: costs[i]):
        group = list(alike)
        top = max(values[i] for i in group)
        for i in group:
            found[i] = values[i] == top > best
        best = max(best, top)
    return found


def join(measured: pd.DataFrame, quality: Quality, against: str = LATENCY) -> Joined:
    """The frame of bench rows joined with `quality`; a `KoalaError` names what each side has where nothing meets."""
    pipelines = [line for line in lines_of(measured) if line["target"] == "pipeline"]
    timed, untimed = _by_generation(_counting(pipelines), of_latency)
    scored, unknown = _by_generation((line for line in quality.lines if line["value"] is not None), of_quality)
    lines = [
        _line(generation, latency, score, quality)
        for generation, latencies in timed.items()
        for latency in latencies
        for score in scored.get(generation, [])
    ]
    if not lines:
        raise KoalaError(_nothing(timed, scored, untimed, unknown, quality))
    kept = [line for line in lines if line[COSTS[against]] is not None]
    if not kept:
        raise KoalaError(f"no joined row has its {against}; try --against {LATENCY}")
    frame = pd.DataFrame(kept)
    frame["efficient"] = _marks(frame, COSTS[against], quality.higher_is_better)
    order = ["device", COSTS[against], "quality"]
    frame = frame.sort_values(order, kind="stable").reset_index(drop=True)
    left_out = [
        *_partnerless("latency", timed, scored, "quality"),
        *_partnerless("quality", scored, timed, "latency", _failures(pipelines)),
        *(f"latency of {plain(line['model'])}: its recipe is not known here" for line in untimed),
        *(f"quality of {plain(line['name'])}: how its images were made is not recorded" for line in unknown),
        *(f"quality of {plain(line['name'])}: no score" for line in quality.lines if line["value"] is None),
        *(f"{line['model']}: its {against} is not recorded" for line in lines if line[COSTS[against]] is None),
    ]
    return Joined(frame, quality, against, left_out, [*quality.remarks, *_doubts(frame)])


def device_of(line: Line) -> str:
    """The device of a bench line, and the smaller card that it stood for."""
    name = str(line["device_name"] or "a device that is not recorded")
    return name if line["vram_bytes"] is None else f"{name} as a card of {line['vram_bytes'] / 2**30:.4g} GiB"


def _by_generation(
    lines: Iterable[Line], key: Callable[[Line], Generation | None]
) -> tuple[dict[Generation, list[Line]], list[Line]]:
    """The lines of each generation, and those of none."""
    found: dict[Generation, list[Line]] = {}
    unknown = []
    for line in lines:
        generation = key(line)
        if generation is None:
            unknown.append(line)
        else:
            found.setdefault(generation, []).append(line)
    return found, unknown


def _counting(pipelines: Sequence[Line]) -> list[Line]:
    """The measured line of each device and case that counts: with real weights before random ones, then the newest."""
    case = ("model", "resolution", "steps", "dtype", "profile", "batch_size")
    found: dict[tuple, Line] = {}
    newest_last = sorted(pipelines, key=lambda line: (line["weights"] != "random", line["started_at"] or ""))
    for line in newest_last:
        if line["status"] == "ok":
            found[(device_of(line), *(line[name] for name in case))] = line
    return list(found.values())


def _line(generation: Generation, latency: Line, score: Line, quality: Quality) -> Line:
    batch = latency["batch_size"]
    kind = next((kind for kind in MEMORY_KINDS if latency[kind] is not None), None)
    return {
        **{name: value for name, value in generation._asdict().items() if name != "guided"},
        "guidance": score["guidance"],
        "batch_size": batch,
        "device": device_of(latency),
        **{name: None if latency[name] is None else latency[name] / batch for name in _TIMES},
        "samples": latency["samples"],
        "latency_weights": latency["weights"],
        "peak_memory_bytes": latency[kind] if kind else None,
        "memory_kind": kind and MEMORY_KINDS[kind],
        "metric": score["label"],
        "higher_is_better": quality.higher_is_better,
        "quality": score["value"],
        "quality_low": score["low"],
        "quality_high": score["high"],
        "interval_method": score["interval_method"],
        "n": score["n"],
        "n_reference": score["n_reference"],
        "reference": score["reference"],
        "set": score["name"],
        "suite": suite_of(score) or None,
        "quality_weights": score["weights_kind"],
        "doubts": latency["doubts"],
        **{name: latency[name] for name in _VERSIONS},
    }


def _marks(frame: pd.DataFrame, cost: str, higher_is_better: bool) -> pd.Series:
    marks = pd.Series(False, index=frame.index)
    for _, group in frame.groupby("device", sort=False):
        worth = group["quality"] if higher_is_better else -group["quality"]
        marks[group.index] = efficient(group[cost].astype(float).tolist(), worth.astype(float).tolist())
    return marks


def _nothing(
    timed: dict[Generation, list[Line]],
    scored: dict[Generation, list[Line]],
    untimed: Sequence[Line],
    unknown: Sequence[Line],
    quality: Quality,
) -> str:
    """What each side has, where nothing meets."""
    latency = first_few(map(str, timed)) or f"no pipeline that was timed and whose recipe is known ({len(untimed)} not)"
    scores = first_few(map(str, scored)) or f"no set that says how it was made ({len(unknown)} do not)"
    return f"nothing to join by {quality.name}: latency is there of {latency}; quality of {scores}"


def _partnerless(
    what: str, ours: Iterable[Generation], theirs: Iterable[Generation], other: str, failures: dict | None = None
) -> list[str]:
    """A line for each generation that the other side lacks, with what comes nearest there."""
    theirs = list(theirs)
    remarks = []
    for generation in (generation for generation in ours if generation not in theirs):
        near = [they for they in theirs if they.model == generation.model]
        nearest = min(near, key=lambda they: len(they.unlike(generation)), default=None)
        why = (failures or {}).get(generation) or (
            f"no {other} of that model"
            if nearest is None
            else f"{other} is of another {', '.join(nearest.unlike(generation))}: {nearest}"
        )
        remarks.append(f"{what} of {generation}: {why}")
    return remarks


def _failures(pipelines: Sequence[Line]) -> dict[Generation, str]:
    """Why a generation has no latency, where it was tried: out of memory is an answer."""
    tried, _ = _by_generation((line for line in pipelines if line["status"] != "ok"), of_latency)
    return {
        generation: "; ".join(
            dict.fromkeys(f"{STATUS_WORDS.get(line['status'], line['status'])} on {device_of(line)}" for line in lines)
        )
        for generation, lines in tried.items()
    }


def _called(line: Line) -> str:
    """A line among others of its model."""
    batch = f", {line['batch_size']} a call" if line["batch_size"] != 1 else ""
    return (
        f"{line['model']} ({line['steps']} steps, {line['resolution']} px, {line['dtype']}, {line['profile']}{batch})"
    )


def _doubts(frame: pd.DataFrame) -> list[str]:
    """What makes lines of one device unlike each other, and latencies that may be unstable."""
    remarks = []
    for device, group in frame.groupby("device", sort=False):
        for name in _VERSIONS:
            values = sorted(map(str, group[name].dropna().unique()))
            if len(values) > 1:
                remarks.append(f"{device}: latencies of unlike {name} are compared: {', '.join(values)}")
        about = ["model", "steps", "resolution", "dtype", "profile", "batch_size"]
        unstable = group[group["doubts"].notna()].drop_duplicates([*about, "doubts"])
        remarks += [f"{_called(line)} on {device} may be unstable: {line['doubts']}" for line in lines_of(unstable)]
    if frame["n"].nunique() > 1:
        counts = sorted(frame["n"].dropna().astype(int).unique())
        remarks.append(f"quality is over unlike numbers of images: {', '.join(map(str, counts))}")
    return remarks
