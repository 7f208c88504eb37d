"""Comparisons as a markdown table that fits a pull request, and as a frame for programs."""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import pandas as pd

from bench import compare
from bench.compare import Comparison, runs_of
from bench.report.table import STATUS_WORDS
from koala.harness.nested import asks_for_more
from koala.harness.records import Row
from koala.harness.tables import Format, significant, to_markdown

_SECONDS, _RATIO = significant(3), significant(4)
_ORDER = (
    *(compare.BROKEN, compare.SLOWER, compare.PERHAPS_SLOWER, compare.FASTER, compare.PERHAPS_FASTER),
    *(compare.MENDED, compare.SAME, compare.NEITHER, compare.UNLIKE, compare.ONLY_A, compare.ONLY_B),
)


def to_frame(comparisons: Sequence[Comparison], fail_over: float) -> pd.DataFrame:
    """One line a case, unrounded, in seconds; empty cells are unknown."""
    return pd.DataFrame([_line(one, fail_over) for one in comparisons])


def _line(one: Comparison, fail_over: float) -> dict[str, Any]:
    ratio, rows = one.ratio, {"a": one.a, "b": one.b}
    interval = ratio.interval if ratio else None
    return {
        "case": one.case,
        "verdict": one.verdict,
        "differing": "; ".join(one.differing) or None,
        "regression": one.regressed(fail_over),
        **{f"{side}_s": _seconds(row) for side, row in rows.items()},
        **{f"{side}_status": row["status"] if row else None for side, row in rows.items()},
        "ratio": ratio.ratio if ratio else None,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        **{f"{side}_processes": row["processes"] if row else None for side, row in rows.items()},
        **{f"{side}_samples": sum(map(len, runs_of(row))) if row else None for side, row in rows.items()},
        "visible_change": ratio.visible if ratio else None,
        "processes_needed": one.asked,
    }


def _seconds(row: Row | None) -> float | None:
    """The median of its processes' medians; null where it did not run."""
    runs = runs_of(row) if row else []
    return median(map(median, runs)) if runs else None


def render_markdown(comparisons: Sequence[Comparison], names: tuple[str, str], fail_over: float, change: float) -> str:
    """Counts, the table, regressions first, and how to read it."""
    if not comparisons:
        return "Neither side holds a row.\n"
    ordered = sorted(comparisons, key=lambda one: (not one.regressed(fail_over), _ORDER.index(one.verdict)))
    lines = to_frame(ordered, fail_over).to_dict("records")
    table = pd.DataFrame([_shown(one, line, change) for one, line in zip(ordered, lines, strict=True)])
    formats: dict[str, Format] = {"B/A": _RATIO, "A [s]": str, "B [s]": str}
    notes = [f"- {note}" for note in _notes(ordered, names, fail_over, change)]
    return "\n".join([_headline(comparisons, fail_over), "", to_markdown(table, formats), "", *notes, ""])


def _headline(comparisons: Sequence[Comparison], fail_over: float) -> str:
    counts = Counter(one.verdict for one in comparisons)
    regressions = sum(one.regressed(fail_over) for one in comparisons)
    listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict])
    bad = {0: "No regression", 1: "1 regression"}.get(regressions, f"{regressions} regressions")
    if not any(counts[verdict] for verdict in _ORDER if verdict not in compare.APART):
        bad = "Nothing compared"
    compared = sum(one.verdict not in compare.APART for one in comparisons)
    apart = len(comparisons) - compared
    left_out = f" ({apart} not compared)" if apart and compared else ""
    return f"**{bad}** in {compared or apart} case{'s' * ((compared or apart) != 1)}{left_out}: {listed}."


def _shown(one: Comparison, line: dict[str, Any], change: float) -> dict[str, Any]:
    low, high = line["ratio_low"], line["ratio_high"]
    verdict = f"{one.verdict} ({'; '.join(one.differing)})" if one.differing else one.verdict
    counts = [line[f"{side}_processes"] for side in ("a", "b") if not pd.isna(line[f"{side}_processes"])]
    return {
        "case": one.case,
        "A [s]": _time(one.a),
        "B [s]": _time(one.b),
        "B/A": line["ratio"],
        "95% interval": None if pd.isna(low) else f"[{_RATIO(low)}, {_RATIO(high)}]",
        "verdict": f"**{verdict}**" if verdict in (compare.SLOWER, compare.FASTER, compare.BROKEN) else verdict,
        "processes": ", ".join(str(int(count)) for count in counts),
        "would see": None if one.ratio is None else _visible(one),
        f"to see {percent(change)}": None if one.asked is None else _asked(one, change),
    }


def _time(row: Row | None) -> str | None:
    if row is None:
        return None
    seconds = _seconds(row)
    return STATUS_WORDS.get(row["status"], row["status"]) if seconds is None else _SECONDS(seconds)


def _visible(one: Comparison) -> str:
    visible = one.ratio.visible if one.ratio else None
    if visible is None:
        return "unknown"
    return percent(visible) if visible < 10 else "nothing below 10 times"


def _asked(one: Comparison, change: float) -> str:
    ratio, asked = one.ratio, one.asked or 0
    enough = ratio is not None and ratio.reach is not None and not ratio.borrowed and asked <= max(ratio.processes)
    more = " or more" if ratio is not None and asks_for_more(ratio, change) else ""
    return "enough" if enough else f"--processes {asked}{more}"


def percent(share: float) -> str:
    """A share as a percentage in two significant digits: 0.05 is "5%"."""
    text = significant(2)(100 * share)
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "%"


def _notes(comparisons: Sequence[Comparison], names: tuple[str, str], fail_over: float, change: float) -> list[str]:
    ratios = [one.ratio for one in comparisons if one.ratio]
    notes = [f"A is {names[0]}, B is {names[1]}. B/A below 1: B is faster."]
    if any(ratio.reach is not None for ratio in ratios):
        notes.append(
            "B/A: the median over pairs of processes of the ratio of their medians. Interval: 95% nested bootstrap "
            "(processes, then samples inside them), at least that of the rank-sum test; Student's on logarithms below "
            "4 processes a side. By chance alone about 2.5% of unchanged cases, at most, are called slower, as "
            "many faster. What it cannot see: a machine whose state changed between A and B; measure them in turn."
        )
        notes.append(
            f"`would see`: the slowdown that a case's numbers find 95 times in 100. `to see {percent(change)}`: the "
            "processes a side to measure for that; ask again then, until it says enough."
        )
    if any(ratio.reach is None for ratio in ratios):
        notes.append(
            "One process a side: run-to-run variance unknown: measure with `--processes 3`. The interval is that of "
            "these two processes; `slower?` and `faster?` may be the luck of the run. Without a margin they are no "
            "regression; with `--fail-over` they are one where the whole interval lies above it."
        )
    if any(ratio.borrowed for ratio in ratios):
        notes.append("Where one side is one process, the other side's run-to-run variance is taken for both.")
    if fail_over:
        notes.append(f"A regression is more than {percent(fail_over)} slower.")
    notes += dict.fromkeys(_reason(one) for one in comparisons if one.verdict in (compare.BROKEN, compare.NEITHER))
    return notes


def _reason(one: Comparison) -> str:
    sides = [(name, row, _time(row)) for name, row in (("A", one.a), ("B", one.b)) if row]
    parts = [
        f"{name} {text} s" if runs_of(row) else f"{name} {text}" + (f" ({row['reason']})" if row.get("reason") else "")
        for name, row, text in sides
    ]
    return f"{one.case}: {', '.join(parts)}"
