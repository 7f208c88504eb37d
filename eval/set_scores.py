"""Scores of whole sets, against the features or the statistics of a reference."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.features import FeatureSet
from eval.feed import Feed
from eval.maths.gaussian import Gaussian
from eval.metric import Estimate, SetMetric
from eval.plan import Planned
from eval.run import Run, begun, finite
from eval.score import Scored
from eval.sources import ImageSet
from koala.errors import KoalaError
from koala.harness.records import Row

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Against:
    """What sets are compared with: the row's facts of a reference, and its features by feed."""

    facts: Row | None  # name, content, path; null without a reference
    features: Mapping[Feed, FeatureSet | Gaussian]


def set_row(images: ImageSet, scored: Scored) -> Row:
    """What the store says of a set all of whose images have been looked at."""
    return {
        **begun(images),
        "n": len(scored.keys),
        "content": scored.content,
        "unreadable": list(scored.unreadable),
        "duplicates": len(scored.keys) - len(set(scored.keys)),
        "notes": dict(scored.notes),
        "problems": list(images.problems),
    }


def score_set(images: ImageSet, scored: Scored, planned: Sequence[Planned], against: Against, run: Run) -> list[str]:
    """Append the values of the set metrics that are not there yet; why some cannot be had, a line each."""
    done = _done(run)
    problems = []
    for p in planned:
        metric = p.metric
        if not isinstance(metric, SetMetric):
            continue
        reference = against.facts if metric.needs_reference else None
        key = (images.id, scored.content, p.id, reference["content"] if reference else None)
        if key in done:
            continue
        run.progress.stage(f"{images.name}: {p.name}")
        try:
            run.store.append(_value_row(images, scored, p, against, reference, run))
        except KoalaError as error:
            problems.append(f"{p.name} of {images.name}: {error}")
            run.note_unavailable(images.id, p.name, str(error), reference=reference)
    return problems


def _value_row(
    images: ImageSet, scored: Scored, planned: Planned, against: Against, reference: Row | None, run: Run
) -> Row:
    assert planned.feed
    metric = run.metric(planned)
    assert isinstance(metric, SetMetric)
    start = time.perf_counter()
    theirs = against.features[planned.feed] if reference else None
    estimate = metric.compute(run.spools[planned.feed].select(scored.keys), theirs)
    return run.row(
        "eval",
        level="set",
        set=images.id,
        content=scored.content,
        metric=planned.id,
        **_numbers(estimate),
        n=len(scored.keys),
        n_reference=theirs.n if isinstance(theirs, Gaussian) else None if theirs is None else len(theirs),
        reference=reference,
        seconds=time.perf_counter() - start,
    )


def _numbers(estimate: Estimate) -> Row:
    value, interval = finite(estimate.value), None
    if estimate.low is not None and estimate.high is not None:
        interval = {
            "low": finite(estimate.low),
            "high": finite(estimate.high),
            "confidence": CONFIDENCE,
            "method": estimate.method,
        }
    detail = {name: finite(fact) if isinstance(fact, float) else fact for name, fact in dict(estimate.detail).items()}
    if interval is None and estimate.method:
        detail["no_interval"] = estimate.method
    if value is None:
        detail["reason"] = "the value is no number"
    return {"value": value, "interval": interval, "detail": detail}


def _done(run: Run) -> set[tuple[str, str, str, str | None]]:
    rows: Sequence[Mapping] = [row for row in run.done.of_kind("eval").rows if row["level"] == "set"]
    return {(row["set"], row["content"], row["metric"], (row["reference"] or {}).get("content")) for row in rows}
