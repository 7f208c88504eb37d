"""`python -m bench table`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bench.sweep import DEFAULT_STORE

EXAMPLES = (
    "python -m bench table",
    "python -m bench table results/*/rows.jsonl --format csv > all.csv",
    "python -m bench table .benchmarks/*/0001_*.json",
)


@dataclass(frozen=True)
class Options:
    """Print measured rows as one table: files of rows, or JSON files of pytest-benchmark
    that `tox -e perf` saved.

    The latest row of a case, device and version counts.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILES...]")] = (DEFAULT_STORE,)
    """Files of rows (.jsonl), or this project's own JSON of pytest-benchmark."""
    format: Literal["markdown", "csv", "json"] = "markdown"
    """markdown rounds; csv and json do not."""


def run(options: Options) -> int:
    """Print the table; lines that had to be skipped are named on stderr."""
    from bench.report.measured import measured_frame
    from bench.report.table import render_markdown
    from koala.harness.garbage import collection_paused
    from koala.harness.tables import to_csv

    with collection_paused():
        frame = measured_frame(options.files)
        text = {
            "markdown": lambda: render_markdown(frame),
            "csv": lambda: to_csv(frame),
            "json": lambda: frame.to_json(orient="records", indent=1),
        }[options.format]()
    print(text, end="" if text.endswith("\n") else "\n")
    return 0
