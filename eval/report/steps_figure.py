"""Quality against denoising steps: a line for each model, a panel for each metric, as in KOALA's figure 4."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from eval.report.figures import COLOURS, MARKERS, add_legend, drawable, short_label
from koala.harness.figures import FAINT, GRID, STYLE, save
from koala.harness.scores.headings import RANDOM, ColumnKey, column_key, column_names, heading, lines_of, plain

Line = dict[str, Any]
Curve = dict[int, Line]  # steps -> the line of that set

_ALIKE = ("model", "weights_kind", "scheduler", "guidance", "profile", "height", "width", "image_dtype")
_TOLD_APART_BY = ("guidance", "height", "profile", "scheduler", "weights_kind")
_PANEL_INCHES, _COLUMNS, _TITLE_CHARACTERS = 3.1, 3, 36
_KEY = "denoising steps, on a logarithmic axis; bar: interval (its kind: see the report); hollow: none known"


def draw_steps(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """The figure of all models that were drawn with several numbers of steps; no file where there is none."""
    panels = {key: curves for key, curves in _panels(frame).items() if any(len(c) > 1 for c in curves.values())}
    if not panels:
        return []
    names = _names(
        list(dict.fromkeys(group for curves in panels.values() for group, c in curves.items() if len(c) > 1))
    )
    columns = column_names(frame)
    with rc_context(STYLE):
        figure, axes = _grid(len(panels))
        for axis, (key, curves) in zip(axes, panels.items(), strict=True):
            shown = {group: curve for group, curve in curves.items() if group in names}
            for group, curve in shown.items():
                place = list(names).index(group) % len(COLOURS)
                _curve(axis, curve, COLOURS[place], MARKERS[place])
            any_line = next(iter(next(iter(shown.values())).values()))
            _finish(axis, heading(columns[key], any_line), sorted({step for curve in shown.values() for step in curve}))
        add_legend(figure, axes[0], [short_label(name) for name in names.values()])
        return save(figure, folder / "steps")


def _panels(frame: pd.DataFrame) -> dict[ColumnKey, dict[tuple[Any, ...], Curve]]:
    """For each column the curves of what differs in steps alone, in the order of the page."""
    panels: dict[ColumnKey, dict[tuple[Any, ...], Curve]] = {key: {} for key in column_names(frame)}
    for line in lines_of(frame):
        if line["value"] is None or line["steps"] is None or line["model"] is None:
            continue
        suite = Path(str(line["path"] or "")).parent.name
        group = (*(line[name] for name in _ALIKE), suite)
        panels[column_key(line)].setdefault(group, {})[int(line["steps"])] = line
    return panels


def _names(groups: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Each curve's model, and what tells it from the others of that model."""
    facts = {group: dict(zip((*_ALIKE, "suite"), group, strict=True)) for group in groups}
    names = {}
    for group, own in facts.items():
        alike = [other for other in facts.values() if other["model"] == own["model"]]
        differing = [n for n in (*_TOLD_APART_BY, "suite") if len({str(other[n]) for other in alike}) > 1]
        words = [plain(own["model"]), *(f"{name}={_short(own[name])}" for name in differing)]
        names[group] = " ".join(words) + (f" ({RANDOM})" if own["weights_kind"] == "random" else "")
    return names


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else plain(value)


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    across = min(panels, _COLUMNS)
    down = -(-panels // across)
    size = across * _PANEL_INCHES + 0.4, down * 2.5 + 0.4
    figure = Figure(figsize=size, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1))
    figure.supxlabel(textwrap.fill(_KEY, int(size[0] / 0.075)), x=0.99, ha="right", fontsize=7.5, color=FAINT)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axis in grid[panels:]:
        axis.remove()
    return figure, list(grid[:panels])


def _curve(axis: Axes, curve: Curve, colour: str, marker: str) -> None:
    """Values by steps, with their intervals."""
    steps = sorted(curve)
    axis.plot(steps, [curve[step]["value"] for step in steps], color=colour, linewidth=1.2)
    for step in steps:
        line = curve[step]
        if line["low"] is not None:
            axis.vlines(step, line["low"], line["high"], colors=colour, linewidth=1.6, alpha=0.5)
        face = colour if line["low"] is not None else "white"
        axis.plot([step], [line["value"]], marker, color=colour, markerfacecolor=face, markersize=5)


def _finish(axis: Axes, title: str, steps: Sequence[int]) -> None:
    wrapped = textwrap.wrap(drawable(title), _TITLE_CHARACTERS) or [""]
    axis.set_title("\n".join(wrapped[:3]), loc="left", fontsize=9, parse_math=False)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(list(steps)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.tick_params(length=0)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.1, y=0.12)
