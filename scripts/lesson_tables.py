"""Rows of a lesson (variant, seed, metric, value) -> what the papers said of it, its table and its figure."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from lesson_variants import Claim, Lesson
from matplotlib import pyplot as plt
from scipy import stats

from koala.harness import figures
from koala.harness.tables import significant, to_markdown

CAME, OPPOSITE, OPEN = "came out", "did not", "cannot be told"
CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and both ends of its 95% interval over seeds, by Student's t; without ends for one seed."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return mean, math.nan, math.nan
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread
    return mean, mean - reach, mean + reach


def verdict(rows: pd.DataFrame, claim: Claim, higher_is_better: bool) -> str:
    """Whether a claim came out in one metric: by the interval of the seeds' differences."""
    seeds = rows.pivot(index="seed", columns="variant", values="value")
    if not {claim.better, claim.worse} <= set(seeds.columns):
        return ""
    differences = (seeds[claim.better] - seeds[claim.worse]).dropna() * (1 if higher_is_better else -1)
    if len(differences) < 2:
        return OPEN
    _, low, high = interval(list(differences))
    return CAME if low > 0 else OPPOSITE if high < 0 else OPEN


def claims(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, bool]) -> pd.DataFrame:
    """A line a claim, a column a metric (`metrics`: whether more is better)."""
    by_metric = {name: rows[rows["metric"] == name] for name in metrics}
    lines = [
        {"better": claim.better, "than": claim.worse}
        | {name: verdict(by_metric[name], claim, higher) for name, higher in metrics.items()}
        | {"said by": claim.source}
        for claim in lesson.claims
    ]
    return pd.DataFrame(lines)


def table(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, bool]) -> str:
    """Means with their intervals over seeds, a line a variant, beside what was published."""
    lines = []
    for variant in lesson.variants:
        own = rows[rows["variant"] == variant.name]
        if len(own):
            cells = {name: _cell(own[own["metric"] == name]["value"]) for name in metrics}
            line = {"variant": variant.name, "seeds": own["seed"].nunique(), **cells}
            lines.append(line | ({lesson.published: variant.published} if lesson.published else {}))
    text = dict.fromkeys(("seeds", *metrics), str)
    return to_markdown(pd.DataFrame(lines), text | ({lesson.published: str} if lesson.published else {}))


def _cell(values: pd.Series) -> str:
    mean, low, high = interval(list(values))
    show = significant(3)
    return show(mean) if math.isnan(low) else f"{show(mean)} [{show(low)}, {show(high)}]"


def figure(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, bool]) -> plt.Figure:
    """A panel a metric, a line a variant: the seeds, their mean and its interval."""
    there = set(rows["variant"])
    names = [variant.name for variant in lesson.variants if variant.name in there][::-1]
    size = 2.6 * len(metrics) + 1.2, 0.26 * len(names) + 1
    drawn, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axis, (metric, higher) in zip(axes[0], metrics.items(), strict=True):
        for place, name in enumerate(names):
            values = list(rows[(rows["variant"] == name) & (rows["metric"] == metric)]["value"])
            mean, low, high = interval(values)
            axis.plot([low, high], [place, place], color=figures.GRID, linewidth=5, solid_capstyle="butt", zorder=1)
            axis.scatter(values, [place] * len(values), s=9, color=figures.FAINT, linewidths=0, zorder=2)
            axis.scatter([mean], [place], s=26, marker="|", color=figures.INK, zorder=3)
        axis.set_title(f"{metric}\n({'higher' if higher else 'lower'} is better)", fontsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
    drawn.tight_layout()
    return drawn
