"""`python -m eval compare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval.commands.report import DEFAULT_STORE
from koala.errors import KoalaError
from koala.harness.cli import stderr_console
from koala.harness.options import comma_separated

EXAMPLES = (
    "python -m eval compare sdxl koala-700m",
    "python -m eval compare 3f9c0a1b 77aa0c12 --rows results/quality/rows.jsonl",
)


@dataclass(frozen=True)
class Options:
    """Compare two sets of images, paired by prompt and seed: difference, 95% interval and p of every image metric.

    Metrics of whole sets stand side by side, untested. Scores that are unlike are refused.
    """

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """Name or id of a set."""
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """Name or id of another; differences are B minus A."""
    rows: Annotated[tuple[Path, ...], comma_separated(Path, "FILE,...")] = (DEFAULT_STORE,)
    """Files of rows."""


def run(options: Options) -> int:
    """Print the comparison."""
    if options.rows == (DEFAULT_STORE,) and not DEFAULT_STORE.exists():
        raise KoalaError(f"nothing is scored yet: {DEFAULT_STORE} does not exist; run `python -m eval score`")
    from eval.report.compare import compare, find_set, render
    from koala.harness import records
    from koala.harness.scores.collect import collect

    scored = collect(records.read(options.rows))
    for problem in scored.problems:
        stderr_console().print(f"warning: {problem}", markup=False)
    print(render(compare(scored, find_set(scored, options.first), find_set(scored, options.second))))
    return 0
