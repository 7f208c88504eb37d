"""The reference's images through the same decoding and networks as the scored ones, once per feed and content."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from eval import extractors
from eval.feed import Feed
from eval.metric import SetMetric
from eval.networks import Networks
from eval.passes import FeaturePass, Reading
from eval.plan import Planned
from eval.progress import ScoreProgress
from eval.reference import Reference
from eval.run import Run
from eval.set_scores import Against
from koala.harness.records import Row


def against(reference: Reference | None, planned: Sequence[Planned], run: Run) -> tuple[Against, list[str]]:
    """The reference's features for every feed that a set metric compares, and a line for each unreadable image."""
    feeds = {
        p.feed: p.spool
        for p in planned
        if p.feed and p.spool and isinstance(p.metric, SetMetric) and p.metric.needs_reference
    }
    if reference is None or not feeds:
        return Against(None, {}), []
    reading = Reading(run.batch_size, run.workers)
    if reference.images:
        compute(reference, feeds, reading, run.networks, run.progress)
    unreadable = {bad.path for bad in reading.unreadable.values()}
    features = {feed: reference.features(name, _dim(feed), unreadable) for feed, name in feeds.items()}
    facts: Row = {"name": reference.name, "content": reference.content, "path": str(reference.path)}
    facts["unreadable"] = len(reading.unreadable)
    facts["unnamed_features"] = bool(reference.statistics and "feed" not in reference.statistics.origin)
    problems = [f"reference {bad.path}: {bad.reason}" for bad in reading.unreadable.values()]
    return Against(facts, features), problems


def compute(
    reference: Reference, feeds: Mapping[Feed, str], reading: Reading, networks: Networks, progress: ScoreProgress
) -> None:
    """Put the features of those images into the cache that have none yet; `feeds` have the names of their files."""
    lacking = {feed: reference.missing(name, _dim(feed)) for feed, name in feeds.items()}
    wanted = {item.file for items in lacking.values() for item in items}
    items = [item for item in reference.items if item.file in wanted]
    progress.begin(f"reference {reference.name}", len(reference.items), len(reference.items) - len(items))
    with ExitStack() as stack:
        # In one order in all processes, for each waits until it has the next one's lock.
        spools = {
            feed: stack.enter_context(reference.spool(feeds[feed], _dim(feed)))
            for feed in sorted(feeds, key=lambda feed: feeds[feed])
            if lacking[feed]
        }
        through = FeaturePass(networks, spools)
        for batch in reading.batches([item.path for item in items], range(len(items))):
            through(batch.pictures, [items[place].file for place in batch.places])
            progress.advance(len(batch.places))


def _dim(feed: Feed) -> int:
    return extractors.load(feed.extractor).dim
