"""Frames as figures: a dot and its interval for every set, one panel a metric; SVG and PNG."""

import math
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from koala.harness.figures import FAINT, GRID, STYLE, save
from koala.harness.scores.headings import (
    RANDOM,
    ColumnKey,
    column_key,
    column_names,
    heading,
    lines_of,
    plain,
    set_key,
    set_names,
)
from koala.harness.scores.table import TAG_COLUMNS

Line = dict[str, Any]

MOST_SETS_BY_TAG = 8  # beyond, dots of one tag value cover each other
MOST_TAG_VALUES = 40
_PANEL_INCHES, _ROW_INCHES, _AROUND_INCHES = 2.9, 0.3, 1.0
_LABEL_CHARACTERS, _TITLE_CHARACTERS = 34, 34
_INCHES_PER_CHARACTER = 0.075
_COLUMNS = 3
_KEY = "bar: interval (its kind: see the report); hollow: none known; ↑ ↓: where better is"
# Okabe and Ito's palette, which colour-blind readers tell apart, without its yellow, which is too light on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a5195")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def draw_metrics(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """One figure of all metrics, a panel each, sets from top to bottom; the files, none where there is no value."""
    lines = [line for line in lines_of(frame) if line["value"] is not None]
    if not lines:
        return []
    sets, columns = set_names(frame), column_names(frame)
    panels = [[line for line in lines if column_key(line) == key] for key in columns]
    panels = [panel for panel in panels if panel]
    rows = {key: place for place, key in enumerate(sets)}
    with rc_context(STYLE):
        figure, axes = _grid(len(panels), float(len(rows)), list(sets.values()))
        for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            for line in panel:
                _dot(axis, line, float(rows[set_key(line)]), COLOURS[0], MARKERS[0])
            title = heading(columns[column_key(panel[0])], panel[0])
            _finish(axis, title, [short_label(name) for name in sets.values()], labelled=place % _COLUMNS == 0)
        return save(figure, folder / "metrics")


def draw_tags(tags: pd.DataFrame, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """For each tag a figure with a panel a metric, values of the tag from top to bottom, sets in colours."""
    if tags.empty:
        return []
    sets, columns = set_names(frame), column_names(frame)
    written = []
    for number, (tag, group) in enumerate(tags.groupby(TAG_COLUMNS[0], sort=False), start=1):
        known = [line for line in lines_of(group) if line["value"] is not None]
        shown = [key for key in sets if key in set(map(set_key, known))][:MOST_SETS_BY_TAG]
        lines = [line for line in known if set_key(line) in shown]
        values = sorted({line[TAG_COLUMNS[1]] for line in lines})[:MOST_TAG_VALUES]
        metrics = list(dict.fromkeys(line["metric_id"] for line in lines))
        if not lines:
            continue
        with rc_context(STYLE):
            figure, axes = _grid(len(metrics), len(values) * (1 + len(shown) / 4), values)
            for place, (axis, metric) in enumerate(zip(axes, metrics, strict=True)):
                panel = [line for line in lines if line["metric_id"] == metric and line[TAG_COLUMNS[1]] in values]
                for line in panel:
                    _tag_dot(axis, line, values, shown)
                title = heading(columns[ColumnKey(metric, None)], panel[0])
                _finish(axis, title, [short_label(value) for value in values], labelled=place % _COLUMNS == 0)
            add_legend(figure, axes[0], [short_label(sets[key]) for key in shown])
            figure.suptitle(drawable(f"by {plain(tag)}"), x=0.01, ha="left", fontsize=10, parse_math=False)
            written += save(figure, folder / f"tag-{number}")
    return written


def _tag_dot(axis: Axes, line: Line, values: Sequence[str], shown: Sequence[Any]) -> None:
    """The dot of one set beside those of the others at the same value of a tag."""
    place = shown.index(set_key(line))
    spread = 0.0 if len(shown) == 1 else (place / (len(shown) - 1) - 0.5) * 0.6
    _dot(axis, line, values.index(line[TAG_COLUMNS[1]]) + spread, COLOURS[place], MARKERS[place])


def _grid(panels: int, rows: float, labels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with room for `rows` rows in every panel and for the labels on the left."""
    across = min(panels, _COLUMNS)
    down = math.ceil(panels / across)
    margin = _INCHES_PER_CHARACTER * min(_LABEL_CHARACTERS, max(map(len, labels)))
    size = across * _PANEL_INCHES + margin, down * (max(2.0, rows) * _ROW_INCHES + _AROUND_INCHES) + 0.3
    figure = Figure(figsize=size, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    key = textwrap.fill(_KEY, int(size[0] / _INCHES_PER_CHARACTER))
    figure.supxlabel(key, x=0.99, ha="right", fontsize=7.5, color=FAINT)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axis in grid[panels:]:
        axis.remove()
    return figure, list(grid[:panels])


def _dot(axis: Axes, line: Line, y: float, colour: str, marker: str) -> None:
    """A value, and its interval where it has one."""
    if line["low"] is not None:
        axis.hlines(y, line["low"], line["high"], colors=colour, linewidth=1.6, alpha=0.65)
    face = colour if line["low"] is not None else "white"
    axis.plot([line["value"]], [y], marker, color=colour, markerfacecolor=face, markersize=5, linestyle="none")


def _finish(axis: Axes, title: str, labels: Sequence[str], labelled: bool) -> None:
    """Title, labels of the rows and a quiet grid."""
    wrapped = textwrap.wrap(drawable(title), _TITLE_CHARACTERS) or [""]
    axis.set_title("\n".join(wrapped[:3]), loc="left", fontsize=9, parse_math=False)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_yticks(range(len(labels)), labels if labelled else [""] * len(labels), parse_math=False)
    axis.tick_params(length=0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.08)


def add_legend(figure: Figure, axis: Axes, names: Sequence[str]) -> None:
    """What the marker and the colour of each set mean, on the right of the panels."""
    handles = [
        axis.plot([], [], marker, color=colour, markersize=5, linestyle="none")[0]
        for marker, colour, _ in zip(MARKERS, COLOURS, names, strict=False)
    ]
    figure.set_figwidth(figure.get_figwidth() + 0.5 + _INCHES_PER_CHARACTER * max(map(len, names)))
    legend = figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)


def short_label(name: str) -> str:
    """A name that fits beside its row; that its weights are random is never cut off."""
    name, ending = drawable(plain(name)), f" ({RANDOM})"
    room = _LABEL_CHARACTERS
    if len(name) > room and name.endswith(ending):
        return name[: room - 1 - len(ending)].rstrip() + "…" + ending
    return name if len(name) <= room else name[: room - 1].rstrip() + "…"


def drawable(text: str) -> str:
    """Text with "?" for what the font lacks."""
    return "".join(character if _glyph(character) else "?" for character in text)


@cache
def _glyph(character: str) -> int:
    return get_font(findfont(STYLE["font.family"])).get_char_index(ord(character))
