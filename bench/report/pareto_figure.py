"""Quality against cost as a figure: a panel a device, the Pareto front as a line of steps; SVG and PNG."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bench.report.labels import Place
from bench.report.pareto import COSTS, LATENCY, MEMORY, Joined
from bench.report.pareto_table import cautions, names, usual_side, weights_word
from bench.report.point_names import write_names
from koala.harness.figures import FAINT, GRID, INK, STYLE, save
from koala.harness.scores.headings import lines_of, plain
from koala.harness.tables import gib

MOST_LABELS = 40  # beyond, names would hide the points
_ON_FRONT, _BEATEN, _EXAMPLE = "#0072b2", "#a9a9a3", "#c9c9c4"
_MARKERS = {"real": "o", "random": "s"}
_BOTH_AXES = {"axes.spines.left": True, "axes.labelcolor": INK, "ytick.color": FAINT}
_PANEL_INCHES, _AROUND_INCHES = (6.6, 4.6), (1.6, 1.1)
_COLUMNS = 2
_LARGEST, _SMALLEST, _ALIKE = 260.0, 14.0, 60.0  # areas of markers in square points
_WIDE = 20.0  # from the least to the greatest quality, where the axis becomes a logarithm
_UNITS = {LATENCY: 1.0, MEMORY: 2.0**30}  # what an axis counts in: seconds, GiB
_Line = dict[str, Any]


def draw(joined: Joined, folder: Path) -> list[Path]:
    """`pareto.svg` and `pareto.png` in `folder`."""
    with rc_context(STYLE | _BOTH_AXES):
        return save(_figure(joined), folder / "pareto")


def _figure(joined: Joined) -> Figure:
    groups = [lines_of(group) for _, group in joined.frame.groupby("device", sort=False)]
    across = min(len(groups), _COLUMNS)
    down = -(-len(groups) // across)
    size = across * _PANEL_INCHES[0] + _AROUND_INCHES[0], down * _PANEL_INCHES[1] + _AROUND_INCHES[1]
    figure = Figure(figsize=size, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axis in panels[len(groups) :]:
        axis.remove()
    areas = _Areas(joined)
    for axis, lines in zip(panels, groups, strict=False):
        _panel(axis, lines, joined, areas)
    figure.legend(
        handles=_legend(joined, areas), loc="outside right upper", frameon=False, fontsize=8, labelspacing=1.2
    )
    _decorate(figure, joined)
    figure.draw_without_rendering()  # settles where things are, before names look for a free place
    for axis, lines in zip(panels, groups, strict=False):
        unnamed = _label(axis, lines, joined, areas)
        if unnamed:
            axis.set_title(f"without a name for want of room: {unnamed}", loc="right", fontsize=7.5, color=FAINT)
    return figure


class _Areas:
    """Marker areas in proportion to peak memory; all alike where that is an axis already, or not known."""

    def __init__(self, joined: Joined):
        known = joined.frame["peak_memory_bytes"].dropna().astype(float)
        self._known = known if joined.against == LATENCY else known.iloc[:0]

    def of(self, memory_bytes: float | None) -> float:
        """Square points."""
        if self._known.empty:
            return _ALIKE
        return max(_SMALLEST, _LARGEST * (memory_bytes or 0) / self._known.max())

    def radius(self, memory_bytes: float | None) -> float:
        """Points of 1/72 inch."""
        return float(np.sqrt(self.of(memory_bytes) / np.pi))

    def examples(self) -> list[float]:
        """The least, a middle and the greatest that occurs; fewer where these are much alike."""
        if self._known.empty:
            return []
        low, high = self._known.min(), self._known.max()
        return [high] if high < 1.3 * low else [low, (low * high) ** 0.5, high] if high > 3 * low else [low, high]


def _panel(axis: Axes, lines: list[_Line], joined: Joined, areas: _Areas) -> None:
    column, unit = COSTS[joined.against], _UNITS[joined.against]
    _limits(axis, lines, joined)
    axis.plot(*_front(axis, lines, joined), color=_ON_FRONT, linewidth=1.3, alpha=0.55, zorder=2)
    for line in lines:
        colour, x = _ON_FRONT if line["efficient"] else _BEATEN, line[column] / unit
        style = {"color": colour, "linewidth": 1.0, "capsize": 2.0, "zorder": 2.5}
        if line["quality_low"] is not None:
            axis.errorbar(x, line["quality"], _arms(line, "quality"), **style)
        if joined.against == LATENCY and line["latency_low_s"] is not None:
            axis.errorbar(x, line["quality"], None, _arms(line, "latency", "_s"), **style)
        axis.scatter(
            [x],
            [line["quality"]],
            s=areas.of(line["peak_memory_bytes"]),
            marker=_MARKERS[weights_word(line["latency_weights"])],
            color=colour,
            edgecolors="white",
            linewidths=0.7,
            zorder=3,
        )


def _arms(line: _Line, what: str, unit: str = "") -> list[list[float]]:
    """How far an interval reaches below and above its value; a mean of groups may lie outside of its interval."""
    value, low, high = (line[f"{what}{end}{unit}"] for end in ("", "_low", "_high"))
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _limits(axis: Axes, lines: list[_Line], joined: Joined) -> None:
    """Room for all points and, around them, for names."""
    costs = [line[COSTS[joined.against]] / _UNITS[joined.against] for line in lines]
    ends = [line[name] for line in lines for name in ("quality", "quality_low", "quality_high")]
    low, high = min(end for end in ends if end is not None), max(end for end in ends if end is not None)
    room = 0.14 * (high - low) or 0.1 * abs(high) or 1.0
    axis.set_xscale("log")
    stretch = max((max(costs) / min(costs)) ** 0.12, 1.15)
    axis.set_xlim(min(costs) / stretch, max(costs) * stretch**1.6)
    if low > 0 and high > _WIDE * low:  # a few bad values would press all others against the edge
        axis.set_yscale("log")
        axis.set_ylim(low / (high / low) ** 0.14, high * (high / low) ** 0.14)
    else:
        axis.set_ylim(low - room, high + room)


def _front(axis: Axes, lines: list[_Line], joined: Joined) -> tuple[list[float], list[float]]:
    """The corners of the line of steps, from the axes' worse edge at the cheapest end to the dear end of the panel."""
    points = sorted({_place(line, joined) for line in lines if line["efficient"]})
    worst = axis.get_ylim()[0 if joined.quality.higher_is_better else 1]
    xs, ys = [points[0][0]], [worst]
    for (x, y), (until, _) in zip(points, [*points[1:], (axis.get_xlim()[1], 0.0)], strict=True):
        xs += [x, until]
        ys += [y, y]
    return xs, ys


def _place(line: _Line, joined: Joined) -> Place:
    return line[COSTS[joined.against]] / _UNITS[joined.against], line["quality"]


def _legend(joined: Joined, areas: _Areas) -> list[Line2D]:
    """What colours, shapes and areas mean, as far as they occur."""
    marks = joined.frame["efficient"]
    words = [(_ON_FRONT, "efficient: no other beats it", True), (_BEATEN, "beaten by another", False)]
    handles = [Line2D([], [], color=_ON_FRONT, linewidth=1.3, alpha=0.55, label="Pareto front")]
    handles += [_dot(colour, "o", 6.0, label) for colour, label, mark in words if (marks == mark).any()]
    shapes = [weights_word(kind) for kind in joined.frame["latency_weights"]]
    handles += [
        _dot(FAINT, marker, 6.0, f"latency of {word} weights") for word, marker in _MARKERS.items() if word in shapes
    ]
    handles += [
        _dot(_EXAMPLE, "o", 2 * areas.radius(value), f"peak memory, {gib(value)} GiB") for value in areas.examples()
    ]
    return handles


def _dot(colour: str, marker: str, size: float, label: str) -> Line2D:
    return Line2D([], [], marker=marker, color=colour, markersize=size, linestyle="none", label=label)


def _decorate(figure: Figure, joined: Joined) -> None:
    better = "higher is better →" if joined.quality.higher_is_better else "← lower is better"  # → is upwards there
    cost = "latency [s per image]" if joined.against == LATENCY else "peak memory [GiB]"
    for axis, (device, group) in zip(figure.axes, joined.frame.groupby("device", sort=False), strict=True):
        sides = set(group["resolution"])
        usual = f", {usual_side(lines_of(group))} px{' unless named' if len(sides) > 1 else ''}"
        axis.set_title(plain(device) + usual, loc="left", fontsize=10, parse_math=False)
        axis.set_xlabel(f"{cost}  (← less is better)", parse_math=False)
        axis.set_ylabel(f"{plain(joined.quality.name)}  ({better})", parse_math=False)
        axis.grid(which="major", color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)) if high > 6 * low else MaxNLocator(nbins=6))
        linear = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
        axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)) if axis.get_yscale() == "log" else linear)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
            scale.set_minor_formatter(NullFormatter())
    note = textwrap.fill(_note(joined), int(15 * figure.get_figwidth()))
    figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=FAINT, parse_math=False)


def _note(joined: Joined) -> str:
    frame = joined.frame
    n = " or ".join(str(int(count)) for count in sorted(frame["n"].dropna().unique()))
    suite = f" of {plain(joined.quality.suite)}" if joined.quality.suite else ""
    return " ".join([f"Quality of n = {n} images{suite}; bars are intervals.", *cautions(frame)])


def _label(axis: Axes, lines: list[_Line], joined: Joined, areas: _Areas) -> int:
    """Name the points, efficient ones first; how many found no room for it."""
    xs, ys = _front(axis, lines, joined)
    along = [
        p
        for a, b in zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False)
        for p in _between(a, b)
    ]
    for line in lines:
        x, _ = _place(line, joined)
        if line["quality_low"] is not None:
            along += _between((x, line["quality_low"]), (x, line["quality_high"]))
    texts = dict(zip(map(id, lines), names(lines), strict=True))
    order = sorted(lines, key=lambda line: not line["efficient"])[:MOST_LABELS]
    named = write_names(
        axis,
        [_place(line, joined) for line in order],
        [texts[id(line)] for line in order],
        along,
        [areas.radius(line["peak_memory_bytes"]) for line in order],
    )
    return len(lines) - named


def _between(a: Place, b: Place) -> list[Place]:
    """Places along a line that is horizontal or vertical on an axis of logarithms."""
    return list(zip(np.geomspace(a[0], b[0], 60), np.linspace(a[1], b[1], 60), strict=True))
