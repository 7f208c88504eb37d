"""Rows -> long frames: one line a set and metric, means of image scores with their interval, unrounded."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from koala.harness.bootstrap import FEWEST_CLUSTERS, balanced_interval, mean_interval
from koala.harness.records import Records, Row
from koala.harness.scores.collect import MEAN, Score, Scored, SetKey, collect, count, reference_content

ENVIRONMENT = ("device_name", "koala_bench", "git_commit", "python", "torch", "transformers", "numpy")
BOOTSTRAP = "bootstrap over {}, 10,000 resamples, expanded percentiles"
TAG_COLUMNS = ("tag", "tag_value")


def to_frame(records: Records, every_content: bool = False) -> pd.DataFrame:
    """One line per (set, metric, reference) of what counts; an empty cell is not known."""
    return frame_of(collect(records, every_content), records)


def frame_of(scored: Scored, records: Records) -> pd.DataFrame:
    """The frame of scores that were collected already."""
    lines = [_mean_line(scored, key, records) for key in scored.scores if _mean_counts(scored, *key)]
    lines += [_estimate_line(scored, *key, records) for key in scored.estimates if _estimate_counts(scored, *key)]
    places = {key: place for place, key in enumerate(scored.sets)}
    metrics = {id: place for place, id in enumerate(scored.metrics)}
    lines.sort(key=lambda line: (places[SetKey(line["set"], line["content"])], metrics[line["metric_id"]]))
    return pd.DataFrame(lines)


def tag_frame(scored: Scored, sets: Sequence[SetKey] | None = None) -> pd.DataFrame:
    """One line per (set, image metric, tag, value of the tag) with the mean, its interval and counts."""
    lines = []
    for (key, metric), scores in scored.scores_of("image").items():
        if sets is not None and key not in sets:
            continue
        by_tag: dict[tuple[str, str], list[Score]] = {}
        for score in scores:
            for tag, value in (score.row.get("tags") or {}).items():
                if value is not None:
                    by_tag.setdefault((str(tag), str(value)), []).append(score)
        about = {**_set_facts(scored.sets[key]), **_metric_facts(scored.metrics[metric])}
        lines += [
            {**about, **dict(zip(TAG_COLUMNS, tag, strict=True)), **_mean(group)} for tag, group in by_tag.items()
        ]
    return pd.DataFrame(lines)


def random_weights(settings: Row) -> bool:
    """Whether images of these settings were drawn by a model whose weights are random."""
    return settings.get("weights") == "random"


def _mean_counts(scored: Scored, key: SetKey, metric: str) -> bool:
    """Whether the scores stand for themselves: no newer published mean does."""
    mean = scored.estimates.get((key, metric, None, MEAN))
    newest = max((score.row.get("started_at") or "" for score in scored.scores[key, metric]), default="")
    return mean is None or newest > (mean.get("started_at") or "")


def _estimate_counts(scored: Scored, key: SetKey, metric: str, reference: str | None, level: str) -> bool:
    return level != MEAN or (key, metric) not in scored.scores or not _mean_counts(scored, key, metric)


def _mean_line(scored: Scored, where: tuple[SetKey, str], records: Records) -> Row:
    key, metric = where
    scores = scored.scores[where]
    newest = max(scores, key=lambda score: score.row.get("started_at") or "").row
    return {
        **_set_facts(scored.sets[key]),
        **_metric_facts(scored.metrics[metric]),
        **_mean(scores, scored.metrics[metric].get("balanced_over")),
        "n_reference": None,
        "reference": None,
        "reference_content": None,
        "reference_unreadable": None,
        "reference_unnamed_features": None,
        "detail": None,
        **_conditions(scored, key, newest, records),
    }


def _mean(scores: Sequence[Score], balanced_over: str | None = None) -> Row:
    """Mean, interval and counts of image or group scores; scores that are no number are counted apart.

    `balanced_over`, a tag: the mean of its values' means, where every score has one.
    """
    known = [score for score in scores if score.value is not None]
    values, clusters = [float(score.value or 0.0) for score in known], [score.cluster for score in known]
    kinds = {kind for kind, _ in clusters}
    groups = [(score.row.get("tags") or {}).get(balanced_over) for score in known]
    if balanced_over and values and None not in groups:
        return _balanced(scores, values, clusters, list(map(str, groups)), balanced_over)
    interval = mean_interval(values, clusters) if values else None
    over = "prompts" if kinds == {"prompt"} else "images" if kinds == {"file"} else "prompts and images without one"
    return {
        "value": sum(values) / len(values) if values else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": len(known),
        "n_prompts": len({cluster for cluster in clusters if cluster[0] == "prompt"}),
        "without_score": len(scores) - len(known),
        "interval_method": BOOTSTRAP.format(over) if interval else f"none below {FEWEST_CLUSTERS} {over}",
        "confidence": 0.95 if interval else None,
    }


def _balanced(scores: Sequence[Score], values: list[float], clusters: list[Any], groups: list[str], tag: str) -> Row:
    """The mean over the groups' means, with an interval that resamples each of them."""
    each = {group: [v for v, g in zip(values, groups, strict=True) if g == group] for group in dict.fromkeys(groups)}
    interval = balanced_interval(values, clusters, groups)
    means = f"mean of the means of {len(each)} values of {tag}"
    none = f"none below {FEWEST_CLUSTERS} prompts of a value of {tag}"
    return {
        "value": sum(sum(group) / len(group) for group in each.values()) / len(each),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": len(values),
        "n_prompts": len({cluster for cluster in clusters if cluster[0] == "prompt"}),
        "without_score": len(scores) - len(values),
        "interval_method": f"{means}; {BOOTSTRAP.format('prompts') if interval else none}",
        "confidence": 0.95 if interval else None,
    }


def _estimate_line(
    scored: Scored, key: SetKey, metric: str, reference: str | None, level: str, records: Records
) -> Row:
    row = scored.estimates[key, metric, reference, level]
    interval = row.get("interval") or {}
    detail = row.get("detail") or {}
    return {
        **_set_facts(scored.sets[key]),
        **_metric_facts(scored.metrics[metric]),
        "value": row.get("value"),
        "low": interval.get("low"),
        "high": interval.get("high"),
        "n": row.get("n"),
        "n_prompts": row.get("n_prompts"),
        "without_score": row.get("without_score", 0),
        "interval_method": interval.get("method") or _no_interval(detail),
        "confidence": interval.get("confidence"),
        "n_reference": row.get("n_reference"),
        "reference": (row.get("reference") or {}).get("name"),
        "reference_content": reference_content(row),
        **{f"reference_{name}": (row.get("reference") or {}).get(name) for name in ("unreadable", "unnamed_features")},
        "detail": json.dumps(detail, sort_keys=True) if detail else None,
        **_conditions(scored, key, row, records),
    }


def _no_interval(detail: Row) -> str | None:
    return f"none, {detail['no_interval']}" if detail.get("no_interval") else None


def _set_facts(row: Row) -> Row:
    settings = row.get("settings") or {}
    return {
        "set": row["id"],
        "name": str(row.get("name") or row["id"]),
        "content": row.get("content"),
        "model": settings.get("model"),
        "weights_kind": settings.get("weights"),
        "random_weights": random_weights(settings),
    }


def _metric_facts(row: Row) -> Row:
    return {
        "label": str(row.get("label") or row.get("metric")),
        "metric": row.get("metric"),
        "metric_id": row["id"],
        "level": row.get("level"),
        "higher_is_better": row.get("higher_is_better"),
        "substitute": bool(row.get("substitute")),
        "verified": row.get("verified"),
        "extractor": row.get("extractor"),
        "preparation": row.get("preparation"),
        "dtype": row.get("dtype"),
        "beside_fp32": json.dumps(row["beside_fp32"]) if row.get("beside_fp32") else None,
        "weights": json.dumps(row.get("weights") or {}, sort_keys=True),
        "settings": json.dumps(row.get("settings") or {}, sort_keys=True),
    }


def _conditions(scored: Scored, key: SetKey, row: Row, records: Records) -> dict[str, Any]:
    """How the images came about, what was wrong with them, and where they were scored."""
    about = scored.sets[key]
    settings = about.get("settings") or {}
    recipe, environment = settings.get("recipe") or {}, records.environment(row)
    return {
        **{name: recipe.get(name) for name in ("scheduler", "steps", "guidance")},
        **{name: settings.get(name) for name in ("profile", "height", "width")},
        "image_dtype": settings.get("dtype"),
        "images": about.get("n"),
        "images_scored": len(scored.images[key]) or None,
        "unreadable": count(about.get("unreadable")),
        "duplicates": count(about.get("duplicates")),
        "notes": "; ".join([*_notes(about.get("notes")), *_notes(about.get("problems"))]) or None,
        "finished": key.set not in scored.unfinished,
        "path": about.get("path"),
        **{name: environment.get(name) for name in ENVIRONMENT},
        "environment": row.get("environment"),
        "started_at": row.get("started_at"),
    }


def _notes(notes: Any) -> list[str]:
    """What was done to how many images, or what was left out."""
    return [f"{note}: {n}" for note, n in notes.items()] if isinstance(notes, dict) else list(map(str, notes or ()))
