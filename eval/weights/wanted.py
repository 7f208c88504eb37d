"""Which metrics want which weight files."""

from collections import defaultdict

from eval import extractors, metrics


def wanted_by() -> dict[str, list[str]]:
    """The metrics that want each file, by the file's name."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for name in metrics.names():
        metric = metrics.load(name)
        of_feed = extractors.load(metric.feed.extractor).weights if metric.feed else ()
        for file in dict.fromkeys((*of_feed, *metric.weights)):
            wanted[file].append(name)
    return dict(wanted)
