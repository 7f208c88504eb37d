"""The roofline of each device as a figure: SVG and PNG."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.report.point_names import write_names
from bench.report.roofline import BYTES_NOTE, placed, probed
from koala.harness.environment import slug
from koala.harness.figures import FAINT, GRID, INK, STYLE, save
from koala.harness.tables import significant
from koala.sampling.profiles import EAGER

MOST_LABELS = 40  # beyond, names would hide the points
MOST_DRAWN, MOST_KEYS = 2000, 24  # beyond, points are one picture, and the legend leaves out the rest
# Of Okabe and Ito's palette, which colour-blind readers tell apart.
_COLOURS = {"fp32": "#0072b2", "bf16": "#d55e00", "fp16": "#009e73"}
_DASHES = {"bf16": (0, (4, 3))}  # its roof is often that of fp16, which then shows between the dashes
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")
_BOTH_AXES = {"axes.spines.left": True, "axes.labelcolor": INK, "ytick.color": FAINT}
_SIZE_INCHES = (11.5, 6.8)
_THREE = significant(3)


def draw(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """One figure a device, `<device>/roofline.svg` and `.png` under `folder`; the files, none without a point."""
    written = []
    for device, group in placed(frame).groupby("device_name", sort=False):
        with rc_context(STYLE | _BOTH_AXES):
            written += save(_figure(str(device), group), folder / slug(str(device)) / "roofline")
    return written


def _figure(device: str, group: pd.DataFrame) -> Figure:
    figure = Figure(figsize=_SIZE_INCHES, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    axis = figure.subplots()
    roofs = {dtype: _roof(rows) for dtype, rows in group.groupby("dtype", sort=True)}
    marks = {key: _MARKERS[place % len(_MARKERS)] for place, key in enumerate(sorted(_marked(group)))}
    _limits(axis, group, list(roofs.values()))
    handles = [_draw_roof(axis, dtype, *roof) for dtype, roof in roofs.items()]
    for (target, resolution, batch, dtype), rows in group.groupby(["target", "resolution", "batch_size", "dtype"]):
        axis.plot(
            rows["flop_per_byte"],
            rows["achieved_flops_per_s"] / 1e12,
            marks[target, int(resolution), int(batch)],
            linestyle="none",
            color=_COLOURS[dtype],
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3,
            rasterized=len(group) > MOST_DRAWN,
        )
    handles += [
        Line2D([], [], marker=marker, color=FAINT, markersize=5.5, linestyle="none", label=_mark_text(key))
        for key, marker in list(marks.items())[:MOST_KEYS]
    ]
    if len(marks) > MOST_KEYS:
        handles.append(Line2D([], [], linestyle="none", label=f"and {len(marks) - MOST_KEYS} more"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    _decorate(figure, axis, device, group)
    figure.draw_without_rendering()  # settles where things are, before names look for a free place
    unnamed = _label(axis, group, list(roofs.values()))
    if unnamed:
        axis.set_title(f"without a name for want of room: {unnamed}", loc="right", fontsize=7.5, color=FAINT)
    return figure


def _lines(group: pd.DataFrame) -> list[dict[Any, Any]]:
    return group.to_dict("records")


def _marked(group: pd.DataFrame) -> set[tuple[str, int, int]]:
    """What is told apart by markers: target, resolution and batch size."""
    unlike = group[["target", "resolution", "batch_size"]].drop_duplicates()
    return {(target, int(side), int(batch)) for target, side, batch in unlike.itertuples(index=False)}


def _mark_text(key: tuple[str, int, int]) -> str:
    target, resolution, batch = key
    return f"{target} {resolution} px" + (f", batch {batch}" if batch > 1 else "")


def _roof(rows: pd.DataFrame) -> tuple[float, float]:
    """Peak FLOP/s and bytes/s, the highest where probes differ."""
    return float(rows["peak_flops_per_s"].max()), float(rows["peak_bytes_per_s"].max())


def _limits(axis: Axes, group: pd.DataFrame, roofs: list[tuple[float, float]]) -> None:
    """Room for all points, all ridges and, around the points, for names."""
    across = [*group["flop_per_byte"], *(flops / moved for flops, moved in roofs)]
    upward = [*group["achieved_flops_per_s"], *(flops for flops, _ in roofs)]
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(min(across) / 1.7, max(across) * 2)
    axis.set_ylim(min(upward) / 1e12 / 4, max(upward) / 1e12 * 1.5)


def _draw_roof(axis: Axes, dtype: str, flops_per_s: float, bytes_per_s: float) -> Line2D:
    low, high = axis.get_xlim()
    ridge, colour = flops_per_s / bytes_per_s, _COLOURS[dtype]
    heights = [x * bytes_per_s / 1e12 for x in (low, ridge)] + [flops_per_s / 1e12]
    style, layer = (_DASHES[dtype], 2.5) if dtype in _DASHES else ("-", 2.0)
    (line,) = axis.plot([low, ridge, high], heights, color=colour, linewidth=1.6, linestyle=style, zorder=layer)
    axis.vlines(ridge, axis.get_ylim()[0], flops_per_s / 1e12, colors=colour, linewidth=0.8, linestyles=":")
    line.set_label(
        f"{dtype} roof: {_THREE(flops_per_s / 1e12)} TFLOP/s,\n"
        f"{_THREE(bytes_per_s / 1e9)} GB/s, ridge {_THREE(ridge)} FLOP/byte"
    )
    return line


def _decorate(figure: Figure, axis: Axes, device: str, group: pd.DataFrame) -> None:
    axis.set_title(f"Roofline of {device}", loc="left", fontsize=11, parse_math=False)
    axis.set_xlabel("operations per byte moved [FLOP/byte]")
    axis.set_ylabel("achieved [TFLOP/s]")
    axis.grid(which="major", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        scale.set_minor_formatter(NullFormatter())
    peaks = "probed on this device" if probed(group) else "the maker's, dense, from bench/gpus.toml"
    note = f"{BYTES_NOTE} Peaks: {peaks}. Each point belongs under the roof of its colour."
    figure.supxlabel(textwrap.fill(note, 165), x=0.01, ha="left", fontsize=7.5, color=FAINT)


def _label(axis: Axes, group: pd.DataFrame, roofs: list[tuple[float, float]]) -> int:
    """Name the points; how many found no room for it."""
    across = np.geomspace(*axis.get_xlim(), 300)
    along = [(x, min(flops, x * moved) / 1e12) for flops, moved in roofs for x in across]
    named = _lines(group.sort_values("achieved_flops_per_s", ascending=False, kind="stable")[:MOST_LABELS])
    texts = [line["model"] + ("" if line["profile"] == EAGER.name else f" ({line['profile']})") for line in named]
    points = [(line["flop_per_byte"], line["achieved_flops_per_s"] / 1e12) for line in named]
    return len(group) - write_names(axis, points, texts, along)
