"""A breakdown as a figure: stages as stacked bars, and the shares of time, FLOPs and parameters by kind of layer."""

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.report.breakdown import KINDS, MEASURES, Result, cells_frame, title
from koala.harness.figures import FAINT, GRID, INK, STYLE, save
from koala.harness.tables import significant

# Okabe and Ito's palette, which colour-blind readers tell apart; grey for what is left
_COLOURS = dict(zip(KINDS, ("#0072b2", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#a3a39c"), strict=True))
_ON_DARK = ("self-attention", "residual")  # their labels are white
_WIDTH_INCHES, _HEIGHT_INCHES, _TITLE_CHARACTERS = 9.6, 3.9, 120
_LEAST_LABELLED = 0.055  # share below which a segment has no room for its number


def draw(result: Result, folder: Path) -> list[Path]:
    """breakdown.svg and breakdown.png in `folder`."""
    frame = cells_frame(result)
    with rc_context(STYLE | {"xtick.color": INK}):
        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _stages(left, frame)
        _kinds(right, frame)
        handles = [left.patches[0].__class__((0, 0), 1, 1, color=_COLOURS[kind]) for kind in _present(frame)]
        figure.legend(handles, _present(frame), loc="outside lower center", ncols=len(KINDS), frameon=False)
        heading = "\n".join(textwrap.wrap(title(result), _TITLE_CHARACTERS))
        figure.suptitle(heading, x=0.01, ha="left", fontsize=10, parse_math=False)
        return save(figure, folder / "breakdown")


def _present(frame: pd.DataFrame) -> list[str]:
    """The kinds of layers that the U-Net has."""
    return [kind for kind in KINDS if kind in set(frame["kind"])]


def _stages(axis: Axes, frame: pd.DataFrame) -> None:
    """A bar a stage in running order, its kinds on top of each other, its share of the call above it."""
    stages = list(dict.fromkeys(frame["stage"]))
    bottoms = dict.fromkeys(stages, 0.0)
    for kind in _present(frame):
        lines = frame[frame["kind"] == kind]
        heights = dict(zip(lines["stage"], (lines["time_s"] * 1000).clip(lower=0), strict=True))
        names = list(heights)
        axis.bar(
            [stages.index(name) for name in names],
            [heights[name] for name in names],
            bottom=[bottoms[name] for name in names],
            width=0.72,
            color=_COLOURS[kind],
            edgecolor="white",
            linewidth=0.5,
        )
        for name in names:
            bottoms[name] += heights[name]
    whole = sum(bottoms.values())
    for place, name in enumerate(stages):
        share = f"{_percent(bottoms[name] / whole)}%"
        axis.annotate(
            share, (place, bottoms[name]), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=FAINT
        )
    _parameters(axis, frame, stages)
    axis.set_xticks(range(len(stages)), stages)
    axis.tick_params(length=0)
    axis.set_ylabel("milliseconds of one U-Net call")
    axis.set_title("time by stage, in running order, and its share of the call", loc="left", fontsize=9)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(y=0.1)


def _parameters(axis: Axes, frame: pd.DataFrame, stages: list[str]) -> None:
    """A line below the stages' names: the share of the parameters that each holds."""
    held = frame.groupby("stage")["params"].sum() / frame["params"].sum()
    style: Any = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": FAINT}
    axis.annotate("parameters", (0, 0), (-4, -22), xycoords="axes fraction", ha="right", **style)
    for place, name in enumerate(stages):
        share = f"{_percent(held[name])}%"
        axis.annotate(share, (place, 0), (0, -22), xycoords=("data", "axes fraction"), ha="center", **style)


def _kinds(axis: Axes, frame: pd.DataFrame) -> None:
    """Time, FLOPs and parameters as bars of one length, divided by kind."""
    for place, measure in enumerate(MEASURES):
        start, whole = 0.0, float(frame[measure].clip(lower=0).sum())
        for kind in _present(frame):
            share = float(frame.loc[frame["kind"] == kind, measure].clip(lower=0).sum()) / whole
            axis.barh(place, share, left=start, height=0.6, color=_COLOURS[kind], edgecolor="white", linewidth=0.5)
            if share >= _LEAST_LABELLED:
                ink = "white" if kind in _ON_DARK else INK
                axis.text(start + share / 2, place, _percent(share), ha="center", va="center", fontsize=8, color=ink)
            start += share
    axis.set_yticks(range(len(MEASURES)), list(MEASURES.values()))
    axis.set_ylim(len(MEASURES) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    axis.tick_params(length=0)
    axis.spines.bottom.set_visible(False)
    axis.set_title("what each kind of layer takes and holds [%]", loc="left", fontsize=9)


def _percent(share: float) -> str:
    return significant(2)(100 * share)
