"""What decides a score, as a row with an id: scores of unlike ids never share a column."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from eval import feed as feeds
from eval.feed import Feed
from eval.metric import ExpectationMetric, GroupMetric, ImageMetric, Metric, SetMetric
from eval.weights import Found
from koala.harness.records import SCHEMA, Row

_LEVELS = ((GroupMetric, "group"), (SetMetric, "set"), (ImageMetric, "image"), (ExpectationMetric, "image"))
_MADE_SHOWN = 8  # digits of the hash of a file that has no standard one


def metric_row(name: str, metric: Metric, found: Mapping[str, Found]) -> Row:
    """The row that says what `name` is here, with the weight files it runs on; its label bears what is not standard."""
    decides = {
        "metric": name,
        "version": metric.version,
        **_feed_facts(metric.feed),
        "weights": {file: found[file].sha256 for file in sorted(found)},
        "settings": dict(metric.settings()),
        **({"balanced_over": metric.balanced_over} if metric.balanced_over else {}),
    }
    verified = all(file.verified or file.made for file in found.values())
    made = [f"{file} {found[file].sha256[:_MADE_SHOWN]}" for file in sorted(found) if found[file].made]
    return {
        "schema": SCHEMA,
        "kind": "metric",
        "id": digest(decides),
        "label": label(name, verified, decides["dtype"], made),
        "level": level(metric),
        "higher_is_better": metric.higher_is_better,
        "substitute": metric.substitute,
        **({"partial": True} if metric.partial else {}),
        "verified": verified,
        **decides,
    }


def label(name: str, verified: bool, dtype: str | None, made: Sequence[str] = ()) -> str:
    """The metric's name, which stays bare only with the standard weights in fp32; `made` are weights without any."""
    marks = [*made, *([] if verified else ["unverified"]), *([dtype] if dtype not in (None, "fp32") else [])]
    return name + "".join(f"[{mark}]" for mark in marks)


def level(metric: Metric) -> str:
    """What the metric scores: "image", "group" or "set"."""
    return next(word for kind, word in _LEVELS if isinstance(metric, kind))


def feed_digest(feed: Feed, found: Mapping[str, Found]) -> str:
    """A name for the features of `feed` with those weights: unlike features never share a file."""
    return digest({**_feed_facts(feed), "weights": {file: found[file].sha256 for file in sorted(found)}})


def digest(facts: object) -> str:
    """16 hex digits of the sha256 of `facts` as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _feed_facts(feed: Feed | None) -> Row:
    if feed is None:
        return {"extractor": None, "preparation": None, "dtype": None, "feed_version": None}
    return {
        "extractor": feed.extractor,
        "preparation": str(feed.preparation),
        "dtype": feed.dtype,
        "feed_version": feeds.VERSION,
    }
