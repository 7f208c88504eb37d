"""`python -m bench publish`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.sweep import DEFAULT_STORE

REFERENCE = "reference/koala_published_latency.csv"
COMPARISON = "reference/README.md"
EXAMPLES = ("python -m bench publish", "python -m bench publish runs/bench/rows.jsonl --results results")


@dataclass(frozen=True)
class Options:
    """Copy finished rows and their tables to results/<device>/, and render the comparison with published cells.

    Rows already published stay; of two rows of the same case, device and versions the newer one counts.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILES...]")] = (DEFAULT_STORE,)
    """Files of working rows."""
    results: Path = Path("results")
    """Folder of published results."""


def run(options: Options) -> int:
    """Publish, and name on stdout each file that was written."""
    from bench.report.publish import publish

    for folder in publish(options.files, options.results):
        print(folder)
    if (options.results / REFERENCE).exists():
        print(render_comparison(options.results))
    else:
        print(f"no {REFERENCE} under {options.results}: no comparison rendered", file=sys.stderr)
    return 0


def render_comparison(results: Path) -> Path:
    """Write the page of published beside measured cells; its path."""
    from bench.report.published import comparison, read_published
    from koala.harness.files import write_whole

    page = results / COMPARISON
    write_whole(page, comparison(read_published(results / REFERENCE), sorted(results.glob("*/rows.jsonl"))))
    return page
