"""Latency and memory against resolution, a figure a device: SVG and PNG."""

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.report.headline import TARGETS
from koala.harness.figures import FAINT, GRID, STYLE, save
from koala.sampling.profiles import EAGER

NAME = "resolutions"
MOST_NAMED = 16  # models in a legend; of more the slowest are named
MOST_DRAWN, MOST_TICKS = 2000, 12  # beyond, of points every n-th is drawn, and ticks are those of a logarithm
_MEASURES = {"latency_s": ("latency [s]", 1.0), "memory": ("peak memory [GiB]", 2**-30)}
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c82", "#b2a300")
_MARKERS, _DASHES = ("o", "s", "^"), ("-", "--", ":")


def draw(frame: pd.DataFrame, device: str, base: Path) -> list[Path]:
    """`base`.svg and .png of the device's rows, one image a call, eager, uncapped; none where nothing was measured."""
    rows = _rows(frame)
    targets = [target for target in TARGETS if target in set(rows["target"])]
    if not targets:
        return []
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 0.6 + 3.4 * len(targets)), facecolor="white", layout="constrained")
        axes = figure.subplots(len(targets), 2, squeeze=False)
        for line, target in zip(axes, targets, strict=True):
            _draw_target(list(line), rows[rows["target"] == target], TARGETS[target])
        figure.suptitle(device, x=0.01, ha="left", fontsize=11, parse_math=False)
        return save(figure, base)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[
        (frame["status"] == "ok")
        & (frame["batch_size"] == 1)
        & (frame["profile"] == EAGER.name)
        & frame["vram_bytes"].isna()
    ].copy()
    rows["memory"] = rows["peak_reserved_bytes"].fillna(rows["rss_peak_bytes"]).astype(float)
    several = rows["dtype"].nunique() > 1
    steps = ["" if pd.isna(n) else f", {n:.0f} step{'s' if n != 1 else ''}" for n in rows["steps"]]
    dtypes = [f", {dtype}" if several else "" for dtype in rows["dtype"]]
    rows["name"] = [model + n + d for model, n, d in zip(rows["model"], steps, dtypes, strict=True)]
    return rows


def _draw_target(axes: list[Axes], rows: pd.DataFrame, title: str) -> None:
    """A panel a measure; the legend, slowest first, beside the last one."""
    every = -(-len(rows) // MOST_DRAWN)
    order = rows.groupby("name")["latency_s"].max().sort_values(ascending=False).index
    looks = {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)],
            "marker": _MARKERS[i // len(_COLOURS) % len(_MARKERS)],
        }
        for i, name in enumerate(order)
    }
    for axis, (measure, (label, scale)) in zip(axes, _MEASURES.items(), strict=True):
        for place, name in enumerate(order):
            own = rows[(rows["name"] == name) & (rows[measure] > 0)].sort_values("resolution")[::every]
            legend = name if place < MOST_NAMED else "_nolegend_"
            axis.plot(own["resolution"], own[measure] * scale, markersize=3.5, label=legend, **looks[name])
        axis.set(xscale="log", yscale="log" if (rows[measure] > 0).any() else "linear", xlabel="resolution [px]")
        axis.set_title(f"{title}: {label}", loc="left", fontsize=9.5)
        _ticks(axis, sorted(set(rows["resolution"])))
    more = f"and {len(order) - MOST_NAMED} faster ones" if len(order) > MOST_NAMED else None
    axes[-1].legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7, title=more, title_fontsize=7
    )


def _ticks(axis: Axes, sides: list[int]) -> None:
    if len(sides) <= MOST_TICKS:
        axis.set_xticks(sides, [str(side) for side in sides])
        axis.xaxis.set_minor_locator(NullLocator())
    if axis.get_yscale() == "log":
        axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=FAINT)
