"""Eval rows -> the quality of every set of images by one metric, against one reference, on one suite."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.report.generation import Line, of_quality
from koala.errors import KoalaError, UnknownName
from koala.harness.records import Records
from koala.harness.scores.collect import Scored, collect
from koala.harness.scores.headings import column_key, column_names, heading, lines_of, plain, set_key, set_names
from koala.harness.scores.table import frame_of


@dataclass(frozen=True)
class Quality:
    """A metric, and a line for each set of images: `value`, `low`, `high`, `n`, and how they were made."""

    name: str  # of the metric, as tables call it
    heading: str  # the same with an arrow towards what is better
    higher_is_better: bool
    substitute: bool  # stands in for a standard metric
    suite: str | None  # None: the rows do not say
    lines: list[Line]
    remarks: list[str]


def read_quality(known: Records, metric: str | None = None, suite: str | None = None) -> Quality:
    """The quality that `known` holds; a `KoalaError` where more than one metric, reference or suite could be meant.

    Sets that cannot be told to a suite or a model, such as plain folders, never decide which suite is meant.
    """
    scored = collect(known)
    frame = frame_of(_only(scored, _ids(scored, metric)), known)
    sets = set_names(frame)
    named = [{**line, "name": sets[set_key(line)]} for line in lines_of(frame)]
    lines, name = _column(named, column_names(frame), metric)
    lines, suite = _of_suite(lines, suite)
    better = lines[0]["higher_is_better"]
    if better is None:
        raise KoalaError(f"of {name} neither more nor less is better; choose another metric with --metric")
    unfinished = [
        f"{plain(line['name'])}: its last scoring did not come to its end" for line in lines if not line["finished"]
    ]
    return Quality(
        name=name,
        heading=heading(name, lines[0]),
        higher_is_better=bool(better),
        substitute=bool(lines[0]["substitute"]),
        suite=suite,
        lines=lines,
        remarks=[*scored.problems, *unfinished, *_of_no_suite(lines)],
    )


def metrics_of(known: Records) -> list[str]:
    """The metrics by which rows hold scores, as `read_quality` takes them."""
    return sorted(set(_labels(collect(known)).values()))


def suite_of(line: Line) -> str:
    """The folder that a gallery lies in, which `eval generate` calls by the suite; empty where rows name no folder."""
    return Path(line["path"] or "").parent.name


def _ids(scored: Scored, name: str | None) -> set[str]:
    """The metrics that `name` stands for; None is the only one there is."""
    labels = _labels(scored)
    used, known = set(labels), sorted(set(labels.values()))
    if not known:
        raise KoalaError("no score is among the rows of quality; `python -m eval score` makes some")
    if name is None:
        if len(known) > 1:
            raise KoalaError(f"quality is there by {len(known)} metrics; choose one with --metric: {', '.join(known)}")
        return used
    called = {id for id, label in labels.items() if name == label or name.startswith(f"{label} ")}
    chosen = called or {id for id in used if scored.metrics[id].get("metric") == name}
    if not chosen:
        raise UnknownName("metric", name, known)
    return chosen


def _labels(scored: Scored) -> dict[str, str]:
    """What each metric that has scores is called."""
    used = {key[1] for key in scored.scores} | {key[1] for key in scored.estimates}
    return {id: plain(scored.metrics[id].get("label") or scored.metrics[id].get("metric")) for id in sorted(used)}


def _only(scored: Scored, ids: set[str]) -> Scored:
    """Without other metrics, whose intervals would take their time."""
    return replace(
        scored,
        scores={key: scores for key, scores in scored.scores.items() if key[1] in ids},
        estimates={key: row for key, row in scored.estimates.items() if key[1] in ids},
    )


def _column(lines: Sequence[Line], names: dict, metric: str | None) -> tuple[list[Line], str]:
    """The lines of the one column that is meant, and its name."""
    chosen = [key for key, name in names.items() if name == metric] or list(names)
    if len(chosen) > 1:
        listed = ", ".join(repr(names[key]) for key in chosen)
        raise KoalaError(f"scores by {metric or 'that metric'} are not all comparable; choose with --metric: {listed}")
    return [line for line in lines if column_key(line) == chosen[0]], names[chosen[0]]


def _of_suite(lines: list[Line], suite: str | None) -> tuple[list[Line], str | None]:
    """The lines of the one suite that is meant, and those of no model; means over unlike prompts do not compare."""
    known = sorted({suite_of(line) for line in lines if of_quality(line)} - {""})
    if suite is not None and suite not in known:
        raise UnknownName("suite", suite, known)
    if suite is None and len(known) > 1:
        raise KoalaError(f"quality is there on {len(known)} suites; choose one with --suite: {', '.join(known)}")
    chosen = suite or next(iter(known), None)
    return [line for line in lines if not of_quality(line) or suite_of(line) in (chosen or "", "")], chosen


def _of_no_suite(lines: Sequence[Line]) -> list[str]:
    """A warning where rows, as published ones, do not say where the galleries lay."""
    untold = [line for line in lines if of_quality(line) and not suite_of(line)]
    return ["rows do not say of which suite images are: those of unlike prompts do not compare"] if untold else []
