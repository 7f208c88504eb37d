"""Rows of a lesson (line, variant, steps, seed, metric, value) -> what came of the papers' claims, table and figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from lesson_variants import Claim, Lesson
from matplotlib import pyplot as plt
from scipy import stats

from koala.harness import figures
from koala.harness.tables import significant, to_markdown


@dataclass(frozen=True)
class Metric:
    """A column of the table."""

    title: str
    higher: bool  # is better

    @property
    def head(self) -> str:
        """The head of its column."""
        return f"{self.title} [{'higher' if self.higher else 'lower'}]"


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
    seeds = rows.pivot(index="seed", columns="line", values="value")
    if not {claim.better, claim.worse} <= set(seeds.columns):
        return ""
    differences = (seeds[claim.better] - seeds[claim.worse]).dropna() * (1 if higher_is_better else -1)
    if len(differences) < 2:
        return OPEN
    _, low, high = interval(list(differences))
    return CAME if low > 0 else OPPOSITE if high < 0 else OPEN


def claims(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """A line a claim, a column a metric."""
    by_metric = {name: rows[rows["metric"] == name] for name in metrics}
    lines = [
        {"better": claim.better, "than": claim.worse}
        | {metric.title: verdict(by_metric[name], claim, metric.higher) for name, metric in metrics.items()}
        | {"said by": claim.source}
        for claim in lesson.claims
        if {claim.better, claim.worse} <= set(rows["line"])
    ]
    return pd.DataFrame(lines)


def table(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, Metric]) -> str:
    """Means with their intervals over seeds, a line a variant, beside what was published."""
    lines = []
    for line in lesson.lines:
        own = rows[rows["line"] == line]
        if len(own):
            cells = {metric.head: _cell(own[own["metric"] == name]["value"]) for name, metric in metrics.items()}
            published = lesson.names[own["variant"].iloc[0]].published
            facts = {"variant": line, "seeds": own["seed"].nunique(), **cells}
            lines.append(facts | ({lesson.published: published} if lesson.published else {}))
    text = dict.fromkeys(("seeds", *(metric.head for metric in metrics.values())), str)
    return to_markdown(pd.DataFrame(lines), text | ({lesson.published: str} if lesson.published else {}))


def _cell(values: pd.Series) -> str:
    mean, low, high = interval(list(values))
    show = significant(3)
    return show(mean) if math.isnan(low) else f"{show(mean)} [{show(low)}, {show(high)}]"


def figure(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, Metric]) -> plt.Figure:
    """A panel a metric: the seeds, their mean and its interval."""
    return (_curves if len(lesson.sampled) > 1 else _lines)(rows, lesson, metrics)


def _lines(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, Metric]) -> plt.Figure:
    """A line a variant."""
    there = set(rows["line"])
    names = [line for line in lesson.lines if line in there][::-1]
    size = 2.6 * len(metrics) + 1.2, 0.26 * len(names) + 1
    drawn, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axis, (name, metric) in zip(axes[0], metrics.items(), strict=True):
        for place, line in enumerate(names):
            values = list(rows[(rows["line"] == line) & (rows["metric"] == name)]["value"])
            mean, low, high = interval(values)
            axis.plot([low, high], [place, place], color=figures.GRID, linewidth=5, solid_capstyle="butt", zorder=1)
            axis.scatter(values, [place] * len(values), s=9, color=figures.FAINT, linewidths=0, zorder=2)
            axis.scatter([mean], [place], s=26, marker="|", color=figures.INK, zorder=3)
        axis.set_title(metric.head.replace(" [", "\n["), fontsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
    drawn.tight_layout()
    return drawn


def _curves(rows: pd.DataFrame, lesson: Lesson, metrics: Mapping[str, Metric]) -> plt.Figure:
    """A curve a variant, over the number of sampling steps."""
    drawn, axes = plt.subplots(1, len(metrics), figsize=(2.6 * len(metrics), 3), squeeze=False)
    for axis, (name, metric) in zip(axes[0], metrics.items(), strict=True):
        own = rows[rows["metric"] == name]
        for place, variant in enumerate(lesson.names):
            by_steps = own[own["variant"] == variant].groupby("steps")["value"].agg(list)
            if by_steps.empty:
                continue
            means, lows, highs = zip(*map(interval, by_steps), strict=True)
            axis.plot(by_steps.index, means, marker=".", linewidth=1.2, color=f"C{place}", label=variant)
            axis.fill_between(by_steps.index, lows, highs, color=f"C{place}", alpha=0.15, linewidth=0)
        axis.set_title(metric.head.replace(" [", "\n["), fontsize=8)
        axis.set(xscale="log", xlabel="sampling steps")
        axis.set_xticks(lesson.sampled, [str(steps) for steps in lesson.sampled])
        axis.minorticks_off()
    axes[0][0].legend(frameon=False, fontsize=8)
    drawn.tight_layout()
    return drawn
