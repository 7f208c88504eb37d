"""Why a row may be unstable: what the machine did meanwhile, how well its median is known, and patterns of its samples.

Pure, and fast enough to ask of every row of a table.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.patterns import FEWEST, drift, outliers, percent, two_groups, wide_spread
from bench.rule import TARGET_REACH
from koala.harness.stats import relative_reach

CLOCK_RANGE = 0.05
BUSY = 0.10
STAGES = ("encode", "denoise", "decode", "rest")
STAGES_MISS = 0.02

Row = Mapping[str, Any]


def unstable_because(row: Row) -> str | None:
    """ "may be unstable because A; B", or null where nothing speaks against a row."""
    found = doubts(row)
    return f"may be unstable because {'; '.join(found)}" if found else None


def doubts(row: Row) -> list[str]:
    """Each reason to doubt the median of an "ok" row, with its number; a row is not blamed for what it lacks."""
    if row.get("status") != "ok":
        return []
    return [*unseen_doubts(row), *_precision(_totals(row), row.get("rule") or {})]


def unseen_doubts(row: Row) -> list[str]:
    """The doubts that the interval of an "ok" row does not show of itself."""
    if row.get("status") != "ok":
        return []
    patterns = [detect(_totals(row)) for detect in (wide_spread, drift, two_groups, outliers)]
    return [
        *_conditions(row.get("conditions") or {}),
        *(doubt for doubt in (*patterns, missing_time(row.get("samples_s") or {})) if doubt),
    ]


def _totals(row: Row) -> list[float]:
    return (row.get("samples_s") or {}).get("total") or []


def _conditions(conditions: Row) -> list[str]:
    found = []
    others, throttled, clock = (conditions.get(name) for name in ("other_processes", "throttled", "sm_clock_hz"))
    busy = conditions.get("busy_elsewhere")
    if others:
        found.append(f"{others} other {'process was' if others == 1 else 'processes were'} on the GPU")
    if throttled:
        found.append(f"the GPU throttled: {', '.join(throttled)}")
    if clock and clock["high"] - clock["low"] > CLOCK_RANGE * clock["median"]:
        moved = (clock["high"] - clock["low"]) / clock["median"]
        low, high = clock["low"] / 1e6, clock["high"] / 1e6
        found.append(f"SM clocks moved by {percent(moved)}, from {low:.0f} to {high:.0f} MHz")
    if busy is not None and busy > BUSY:
        found.append(f"others used {percent(busy)} of the host's CPU time")
    return found


def _precision(samples: Sequence[float], rule: Row) -> list[str]:
    """What is known of the median: no interval at all, or one that is wider than was asked for."""
    if not samples:
        return []
    if len(samples) < FEWEST:
        number = "1 sample gives" if len(samples) == 1 else f"{len(samples)} samples give"
        return [f"{number} no 95% interval ({FEWEST} do)"]
    reach, target = relative_reach(samples), rule.get("target") or TARGET_REACH
    if reach <= target:
        return []
    budget = rule.get("budget_s")
    spent = f" ({budget:g} s of sampling are spent)" if budget and sum(samples) >= budget else ""
    return [f"the 95% interval reaches {percent(reach)} from the median, not the {percent(target)} asked for{spent}"]


def missing_time(samples_s: Mapping[str, Any]) -> str | None:
    """The stages, each timed on its own, add up to something else than the total."""
    share = parts_share(samples_s)
    if share is None or abs(share - 1) <= STAGES_MISS:
        return None
    return f"stages add up to {100 * share:.1f}% of the total"


def parts_share(samples_s: Mapping[str, Any]) -> float | None:
    """What share of the total the stages add up to, as the median over samples; null where a stage is not timed."""
    total = samples_s.get("total") or []
    parts = [samples_s[name] for name in STAGES if samples_s.get(name)]
    if len(parts) < 2 or not samples_s.get("rest") or any(len(part) != len(total) for part in parts):
        return None  # without the rest they are not meant to add up
    return median(sum(sample) / whole for *sample, whole in zip(*parts, total, strict=True))
