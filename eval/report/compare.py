"""Two sets of images side by side: paired where they share prompts and seeds, refused where scores are unlike."""

import json
import posixpath
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from koala.errors import KoalaError, UnknownName
from koala.harness.bootstrap import FEWEST_CLUSTERS, Difference, paired_difference
from koala.harness.records import Row
from koala.harness.scores.collect import Score, Scored, SetKey
from koala.harness.scores.headings import SHORT, plain, rounded
from koala.harness.tables import escape, significant, to_markdown

SIGNIFICANT = 0.05
_IDENTITY = ("extractor", "preparation", "dtype", "weights", "settings")


@dataclass(frozen=True)
class Pairing:
    """One metric of two sets: the means, and their paired difference (second minus first) where there are pairs."""

    metric: Row
    first: float
    second: float
    difference: Difference | None
    without_partner: tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """All that two sets can be compared by, and what was refused, with the field that differs."""

    first: str
    second: str
    paired: list[Pairing]
    side_by_side: list[tuple[Row, Row, Row]]  # metric, first's row, second's
    refused: list[str]
    environments_differ: bool = False


def find_set(scored: Scored, asked: str) -> SetKey:
    """The set of that name or id (or the beginning of one); an error lists what there is."""
    ids = [key for key in scored.sets if key.set == asked or (len(asked) >= SHORT and key.set.startswith(asked))]
    named = ids or [key for key, row in scored.sets.items() if row.get("name") == asked]
    if len(named) == 1:
        return named[0]
    if named:
        raise KoalaError(f"several sets are called {asked!r}; say which: {', '.join(key.set for key in named)}")
    raise UnknownName("set", asked, {plain(row.get("name") or key.set) for key, row in scored.sets.items()})


def compare(scored: Scored, first: SetKey, second: SetKey) -> Comparison:
    """The comparison; a `KoalaError` where it is one set or where nothing compares."""
    ours, theirs = (plain(scored.sets[key].get("name") or key.set) for key in (first, second))
    if first == second:
        raise KoalaError(f"{ours} and {theirs} are the same set")
    if ours == theirs:
        ours, theirs = (f"{ours} ({key.set[:SHORT]})" for key in (first, second))
    paired = pair_scores(scored, first, second)
    tested = {pair.metric["id"] for pair in paired}
    beside = [
        (scored.metrics[metric], row, scored.estimates[second, metric, reference, level])
        for (key, metric, reference, level), row in scored.estimates.items()
        if key == first and metric not in tested and (second, metric, reference, level) in scored.estimates
    ]
    unlike = _environments(scored, first) != _environments(scored, second)
    found = Comparison(ours, theirs, paired, beside, _refused(scored, first, second), unlike)
    if not found.paired and not found.side_by_side:
        reasons = "; ".join(found.refused) or "no metric was computed for both"
        raise KoalaError(f"{ours} and {theirs} have no scores that compare: {reasons}")
    return found


def pair_scores(scored: Scored, first: SetKey, second: SetKey) -> list[Pairing]:
    """Every metric of images and groups that both sets have scores of."""
    pairings = [
        _pairing(scored.metrics[metric], scored.scores[first, metric], scored.scores[second, metric])
        for key, metric in scored.scores
        if key == first and (second, metric) in scored.scores
    ]
    return [pairing for pairing in pairings if pairing]


def pair_key(score: Score) -> Hashable:
    """What a partner shares: prompt and seed, only the prompt for a group of seeds, else prompt and file name.

    Names are taken without their ending: degraded copies are often of another format.
    """
    row = score.row
    if row.get("prompt") and row.get("level") == "group":
        return "group", row["prompt"]
    if row.get("prompt") and row.get("seed") is not None:
        return "image", row["prompt"], row["seed"]
    return "file", posixpath.splitext(row.get("file") or "")[0], row.get("prompt")


def _pairing(metric: Row, first: Sequence[Score], second: Sequence[Score]) -> Pairing | None:
    ours, theirs = ({pair_key(s): s for s in scores if s.value is not None} for scores in (first, second))
    shared = [key for key in ours if key in theirs]
    if not ours or not theirs:
        return None
    difference = (
        paired_difference(
            [_number(theirs[key]) for key in shared],
            [_number(ours[key]) for key in shared],
            [ours[key].cluster for key in shared],
        )
        if shared
        else None
    )
    own, other = (sum(map(_number, scores.values())) / len(scores) for scores in (ours, theirs))
    return Pairing(metric, own, other, difference, (len(first) - len(shared), len(second) - len(shared)))


def _environments(scored: Scored, key: SetKey) -> set[str | None]:
    """The environments that a set's scores come from."""
    of_scores = {
        s.row.get("environment") for (where, _), scores in scored.scores.items() if where == key for s in scores
    }
    return of_scores | {row.get("environment") for (where, *_), row in scored.estimates.items() if where == key}


def _number(score: Score) -> float:
    assert score.value is not None
    return float(score.value)


def _refused(scored: Scored, first: SetKey, second: SetKey) -> list[str]:
    """A line for each metric that both have under unlike ids or against unlike references, with what differs."""
    ours, theirs = _identities(scored, first), _identities(scored, second)
    lines = []
    for metric, reference in ours:
        name = scored.metrics[metric].get("metric")
        alike = [other for other in theirs if scored.metrics[other[0]].get("metric") == name]
        if alike and (metric, reference) not in theirs:
            lines.append(f"{plain(name)}: {_unlike(scored.metrics[metric], reference, scored.metrics, alike[0])}")
    return lines


def _identities(scored: Scored, key: SetKey) -> list[tuple[str, str | None]]:
    of_scores = [(metric, None) for where, metric in scored.scores if where == key]
    of_sets = [(metric, reference) for where, metric, reference, _ in scored.estimates if where == key]
    return list(dict.fromkeys([*of_scores, *of_sets]))


def _unlike(ours: Row, reference: str | None, metrics: dict[str, Row], other: tuple[str, str | None]) -> str:
    theirs = metrics[other[0]]
    fields = [name for name in _IDENTITY if ours.get(name) != theirs.get(name)]
    said = [f"{name} ({_shown(ours.get(name))} against {_shown(theirs.get(name))})" for name in fields]
    if reference != other[1]:
        said.append(f"reference content ({_shown(reference)} against {_shown(other[1])})")
    return "unlike " + ", ".join(said or ["ids"])


def _shown(value: Any) -> str:
    return plain(value if isinstance(value, str) or value is None else json.dumps(value, sort_keys=True))


def render(found: Comparison) -> str:
    """The comparison as markdown."""
    first, second = escape(found.first), escape(found.second)
    parts = [f"## {second} against {first}", ""]
    if found.paired:
        columns = f"{first} (mean)", f"{second} (mean)"
        lines = pd.DataFrame([pairing_line(pair, found.first, found.second, columns) for pair in found.paired])
        right = [name for name in lines.columns if name not in ("metric", "verdict")]
        parts += [to_markdown(lines, dict.fromkeys(right, str)), "", *_NOTES, ""]
    if found.side_by_side:
        parts += [
            to_markdown(pd.DataFrame([_beside_line(*row, found) for row in found.side_by_side])),
            "",
            _UNTESTED,
            "",
        ]
    parts += [_ENVIRONMENTS, ""] if found.environments_differ else []
    if found.refused:
        parts += ["Refused, because the scores are unlike:", "", *(f"- {escape(line)}" for line in found.refused), ""]
    return "\n".join(parts)


_NOTES = (
    "- Differences are the second set's minus the first's, over pairs of the same prompt and seed (where no seed is "
    "known, of the same prompt and file name, whatever its ending). The interval is a bootstrap over prompts, none "
    f"below {FEWEST_CLUSTERS}; p is that of a sign-flip permutation of prompts, not corrected for the number of "
    "metrics.",
    "- Means are over all scores of a set; scores without a partner count there and not in the difference.",
)
_UNTESTED = (
    "- Metrics of whole sets have no pairs: **their differences are not tested**. Where n differs, so does the bias."
)
_ENVIRONMENTS = (
    "- The two were scored in different environments (device or versions); `quality.csv` of a report lists them."
)


def pairing_line(pair: Pairing, first: str, second: str, columns: tuple[str, str]) -> dict[str, Any]:
    """One line of the table of paired metrics; `columns` head the two means."""
    difference, interval = pair.difference, pair.difference.interval if pair.difference else None
    return {
        "metric": plain(pair.metric.get("label")),
        columns[0]: rounded(pair.first),
        columns[1]: rounded(pair.second),
        "difference": rounded(difference.mean) if difference else None,
        "95% interval": f"[{rounded(interval.low)}, {rounded(interval.high)}]" if interval else None,
        "p": p_text(difference.p) if difference else None,
        "pairs": str(difference.n) if difference else "0",
        "prompts or files": str(difference.clusters) if difference else "0",
        "without partner": " + ".join(map(str, pair.without_partner)),
        "verdict": verdict(pair, first, second),
    }


def p_text(p: float) -> str:
    """p in two digits."""
    return "< 0.001" if p < 0.001 else significant(2)(p)


def verdict(pair: Pairing, first: str, second: str) -> str:
    """Which one the pairs show to be better, or higher where neither is better; else that they show nothing."""
    difference = pair.difference
    if difference is None:
        return "no pairs"
    if difference.p >= SIGNIFICANT or difference.mean == 0:
        return "no difference shown"
    higher = pair.metric.get("higher_is_better")
    if higher is None:
        return f"{second if difference.mean > 0 else first} is higher"
    return f"{second if (difference.mean > 0) == higher else first} is better"


def _with_interval(row: Row) -> str:
    interval = row.get("interval")
    known = f" [{rounded(interval['low'])}, {rounded(interval['high'])}]" if interval else ""
    return f"{rounded(row['value'])}{known} (n={row.get('n')})"


def _beside_line(metric: Row, first: Row, second: Row, found: Comparison) -> dict[str, Any]:
    ours, theirs = first.get("value"), second.get("value")
    return {
        "metric": plain(metric.get("label")),
        **{
            f"{escape(name)} (n)": None if row.get("value") is None else _with_interval(row)
            for name, row in ((found.first, first), (found.second, second))
        },
        "difference": None if ours is None or theirs is None else rounded(theirs - ours),
        "tested": "not tested",
        "reference": plain((first.get("reference") or {}).get("name") or "none"),
    }
