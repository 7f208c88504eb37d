"""A breakdown as tables and as a Chrome trace."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import pandas as pd

from koala.harness.stats import Interval, ratio_interval
from koala.harness.tables import Format, decimals, significant, to_markdown

Result = Mapping[str, Any]  # what `bench.breakdown.measure_breakdown` sends, with `case` and `environment` added

KINDS = ("self-attention", "cross-attention", "feed-forward", "residual", "resampling", "other")
MEASURES = {"time_s": "time", "flops": "FLOPs", "params": "parameters"}
_FEWEST_TURNS = 6  # fewer pairs say too little about the ratio of their medians
TOO_MUCH = 1.05  # a call with hooks that takes longer than this share of one without is remarked on
_STACKS = ("self-attention", "cross-attention", "feed-forward", "other")  # of a stage: its transformer stacks
_STEP = "U-Net"


def cells_frame(result: Result) -> pd.DataFrame:
    """One line a cell, unrounded: median seconds of one U-Net call, parameters, operations, and the share of each."""
    frame = pd.DataFrame(
        {
            "stage": cell["stage"],
            "kind": cell["kind"],
            "time_s": median(cell["samples_s"]),
            "flops": cell["flops"],
            "params": cell["params"],
            "repeats": len(cell["samples_s"]),
        }
        for cell in result["cells"]
    )
    order = frame["kind"].map(KINDS.index)
    places = {stage: place for place, stage in enumerate(dict.fromkeys(frame["stage"]))}
    frame = frame.assign(_stage=frame["stage"].map(places), _kind=order).sort_values(["_stage", "_kind"])
    frame = frame.drop(columns=["_stage", "_kind"]).reset_index(drop=True)
    for measure in MEASURES:
        frame[f"{measure.removesuffix('_s')}_share"] = frame[measure] / frame[measure].sum()
    case = {name: result["case"][name] for name in ("model", "resolution", "batch_size", "dtype", "device", "weights")}
    return pd.DataFrame({**{name: [value] * len(frame) for name, value in case.items()}, **frame})


def image_frame(result: Result) -> pd.DataFrame:
    """Seconds that each part takes of one image in the recipe's steps, from parts that were timed one by one."""
    case, steps = result["case"], result["steps"]
    unet = median(result["plain_s"])
    rest = [step - call for step, call in zip(result["step_s"], result["plain_s"], strict=True)]
    lines = [
        (_STEP, case["dtype"], steps, unet),
        ("guidance and scheduler", case["dtype"], steps, median(rest)),
        *((part["name"], part["dtype"], 1, median(part["samples_s"])) for part in result["parts"]),
    ]
    lines.sort(key=lambda line: line[0] != "text encoding")  # in the order in which they run
    frame = pd.DataFrame(lines, columns=["part", "dtype", "calls", "call_s"])
    frame["image_s"] = frame["calls"] * frame["call_s"] / case["batch_size"]
    frame["share"] = frame["image_s"] / frame["image_s"].sum()
    return frame


def overhead(result: Result) -> tuple[float, Interval | None]:
    """How many times as long the call with hooks takes as the one without, and a 95% interval of it from 6 turns on."""
    hooked, plain = result["hooked_s"], result["plain_s"]
    return median(hooked) / median(plain), ratio_interval(hooked, plain) if len(plain) >= _FEWEST_TURNS else None


def stacks_share(result: Result, frame: pd.DataFrame) -> dict[str, float]:
    """Share of time, operations and parameters that the transformer stacks of the lowest-resolution stages hold."""
    held = frame[frame["stage"].isin(result["lowest_stages"]) & frame["kind"].isin(_STACKS)]
    return {measure: float(held[measure].sum() / frame[measure].sum()) for measure in MEASURES}


def render_markdown(result: Result) -> str:
    """Every table, rounded, with what was measured above and what to know below."""
    frame = cells_frame(result)
    return "\n\n".join(
        [
            f"**{title(result)}**",
            f"Milliseconds by stage and kind of layer\n\n{_grid(frame, _times(1000))}",
            f"Percent of the U-Net call\n\n{_grid(frame, _share_of(frame['time_s'].sum()))}",
            _shares(frame, "kind"),
            _shares(frame, "stage"),
            _stacks_sentence(result, frame),
            f"One image in {result['steps']} steps\n\n{_image(result)}",
            _notes(result, frame),
        ]
    )


def title(result: Result) -> str:
    """What was measured, in a line."""
    case = result["case"]
    rows = f"{result['rows']} row{'s' if result['rows'] > 1 else ''}"
    images = f", {case['batch_size']} images" if case["batch_size"] > 1 else ""
    weights = ", random weights" if case["weights"] == "random" else ""
    device = result["environment"].get("device_name", case["device"])
    size = f"{case['resolution']} px{images}, {case['dtype']}"
    return f"{case['model']}: one U-Net call of {rows} at {size}{weights}, {device}"


def _grid(frame: pd.DataFrame, show: Format) -> str:
    """Stages by kinds, with sums; a stage has no cell for what it lacks."""
    table = frame.pivot(index="stage", columns="kind", values="time_s").reindex(
        index=list(dict.fromkeys(frame["stage"])), columns=[kind for kind in KINDS if kind in set(frame["kind"])]
    )
    table["total"] = table.sum(axis=1)
    table.loc["total"] = table.sum()
    columns = list(table.columns)
    return to_markdown(table.reset_index(), dict.fromkeys(columns, show))


def _shares(frame: pd.DataFrame, by: str) -> str:
    """Time, operations and parameters of each kind or stage, with their shares."""
    sums = frame.groupby(by, sort=False)[list(MEASURES)].sum()
    order = KINDS if by == "kind" else dict.fromkeys(frame[by])
    sums = sums.reindex([name for name in order if name in sums.index])
    sums.loc["total"] = sums.sum()
    units: dict[str, tuple[str, float]] = {"time_s": ("ms", 1e3), "flops": ("G", 1e-9), "params": ("M", 1e-6)}
    shown, formats = pd.DataFrame({by: sums.index}), {}
    for measure, (unit, factor) in units.items():
        name = MEASURES[measure]
        shown[f"{name} [{unit}]"], formats[f"{name} [{unit}]"] = sums[measure].to_numpy(), _times(factor)
        shown[f"{name} [%]"] = (sums[measure] / sums[measure]["total"]).to_numpy()
        formats[f"{name} [%]"] = _percent
    return to_markdown(shown, formats)


def _image(result: Result) -> str:
    frame = image_frame(result)
    total = {"part": "total", "image_s": frame["image_s"].sum(), "share": 1.0}
    frame = pd.concat([frame, pd.DataFrame([total])], ignore_index=True)
    names = {"call_s": "a call [ms]", "image_s": "an image [s]", "share": "share [%]"}
    formats = {"calls": _times(1), "a call [ms]": _times(1000), "an image [s]": _times(1), "share [%]": _percent}
    return to_markdown(frame.rename(columns=names), formats | {"calls": lambda value: str(int(value))})


def _stacks_sentence(result: Result, frame: pd.DataFrame) -> str:
    if not set(_STACKS[:-1]) & set(frame["kind"]):
        return "This U-Net has no transformers."
    *others, last = result["lowest_stages"]
    named = f"{', '.join(others)} and {last}" if others else last
    share = {measure: _percent(value) for measure, value in stacks_share(result, frame).items()}
    return (
        f"The transformer stacks of the lowest-resolution stages ({named}) hold {share['params']}% of the U-Net's "
        f"parameters; they take {share['time_s']}% of its time and {share['flops']}% of its FLOPs."
    )


def _notes(result: Result, frame: pd.DataFrame) -> str:
    ms, digits, cells_s = _times(1000), significant(4), frame["time_s"].sum()
    ratio, interval = overhead(result)
    repeats = len(result["hooked_s"])
    known = f"95% interval {digits(interval.low)} to {digits(interval.high)}" if interval else "too few for an interval"
    return (
        f"Check: the call with hooks takes {ms(median(result['hooked_s']))} ms, the same call without them "
        f"{ms(median(result['plain_s']))} ms: {digits(ratio)} times as long (medians of {repeats} calls each, in "
        f"turns; {known}). The cells of each call add up to that call; their medians add up to {ms(cells_s)} ms.\n\n"
        "other: norms and projections of transformers, concatenations; in in/out, the first and last convolution and "
        "the embeddings of time and sizes. FLOPs: 2 a multiply-add, of matrix products, convolutions and attention. "
        "Parts of an image are timed one by one, in turns or alone, not in a pipeline."
    )


def _share_of(whole: float) -> Format:
    """A format of the percentage of `whole`, with one decimal."""
    return lambda value: decimals(1)(100 * float(value) / whole)


_percent = _share_of(1.0)


def _times(factor: float) -> Format:
    """A format of the value times `factor`, in three significant digits."""
    show = significant(3)
    return lambda value: show(float(value) * factor)


def trace_events(result: Result) -> dict[str, Any]:
    """One real call as Chrome trace events (complete events, microseconds): the U-Net, its stages, their modules."""
    case = result["case"]
    known = {module["path"]: module for module in result["modules"]}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": title(result)}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": f"U-Net on {case['device']}"}},
    ]
    for span in sorted(result["spans"], key=lambda span: (span["start_s"], -span["seconds"])):
        module = known[span["path"]]
        stage = module["stage"] if span["path"] else _STEP
        inside = span["path"].split(".", 2)[-1] if module["path"].startswith(("down", "up")) else span["path"]
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "name": inside if module["kind"] else stage,
                "cat": module["kind"] or ("stage" if span["path"] else "network"),
                "ts": span["start_s"] * 1e6,
                "dur": span["seconds"] * 1e6,
                "args": {name: module[name] for name in ("path", "stage", "kind", "params", "flops")},
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"environment": result["environment"]["id"]}}


def remarks(result: Result) -> list[str]:
    """What makes this breakdown less of a picture of the call as it usually runs."""
    ratio, _ = overhead(result)
    if ratio <= TOO_MUCH:
        return []
    return [
        f"with hooks the call takes {significant(3)(100 * (ratio - 1))}% longer than without; small modules look "
        "larger than they are (a larger resolution or batch, or a quiet machine, brings the two together)"
    ]
