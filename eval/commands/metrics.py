"""`python -m eval metrics`."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.metric import Metric

EXAMPLES = ("python -m eval metrics", "python -m eval metrics --json")


@dataclass(frozen=True)
class Options:
    """List the metrics that exist, what each scores and needs, and which way it is better."""

    json: bool = False
    """Print JSON."""


def run(options: Options) -> int:
    """Print the list."""
    from eval import metrics

    lines = [line(name, metrics.load(name), metrics.summary(name)) for name in metrics.names()]
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    import pandas as pd

    from koala.harness.tables import to_markdown

    words = {True: "higher", False: "lower", None: None}
    shown = pd.DataFrame(lines).rename(columns={"higher is better": "better"})
    print(to_markdown(shown.assign(better=[words[line["higher is better"]] for line in lines])))
    return 0


def line(name: str, metric: "Metric", what: str) -> dict[str, Any]:
    """What is known of a metric without its weights."""
    from eval.identity import level
    from eval.metric import ExpectationMetric, GroupMetric, SetMetric

    needs = ["prompts"] if metric.needs_prompts else []
    if isinstance(metric, ExpectationMetric):
        needs = ["a suite that says what to expect"]
    if isinstance(metric, GroupMetric):
        needs = ["several seeds of a prompt"]
    if isinstance(metric, SetMetric) and metric.needs_reference:
        needs = ["reference images" if metric.needs_reference_images else "a reference"]
    facts = {"metric": name, "scores": f"each {level(metric)}", "needs": ", ".join(needs) or None}
    return {**facts, "higher is better": metric.higher_is_better, "what": what}
