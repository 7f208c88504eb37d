"""`python -m eval metrics`."""

import json
from dataclasses import dataclass

EXAMPLES = ("python -m eval metrics", "python -m eval metrics --json")


@dataclass(frozen=True)
class Options:
    """List the metrics that exist, and which way each is better."""

    json: bool = False
    """Print JSON."""


def run(options: Options) -> int:
    """Print the list."""
    from eval import metrics

    lines = [
        {"metric": name, "higher is better": metrics.load(name).higher_is_better, "what": metrics.summary(name)}
        for name in metrics.names()
    ]
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    import pandas as pd

    from koala.harness.tables import to_markdown

    shown = [{**line, "higher is better": str(line["higher is better"])} for line in lines]
    print(to_markdown(pd.DataFrame(shown)))
    return 0
