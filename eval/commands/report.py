"""`python -m eval report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from koala.errors import KoalaError
from koala.harness.cli import stderr_console

DEFAULT_STORE = Path("runs/eval/rows.jsonl")
EXAMPLES = (
    "python -m eval report",
    "python -m eval report runs/eval/rows.jsonl --baseline sdxl --tags --out runs/eval/report",
)


@dataclass(frozen=True)
class Options:
    """Make tables, figures and contact sheets of scores.

    Writes report.md, quality.csv, tags.csv, figures/ and sheets/; prints the page on stdout and the files on stderr.
    """

    rows: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[ROWS...]")] = (DEFAULT_STORE,)
    """Files of rows."""
    out: Path = Path("runs/eval/report")
    """Folder of the report."""
    baseline: str | None = None
    """Model or set that all others are held against, paired by prompt and seed."""
    tags: bool = False
    """Print tables by tag too (tags.csv holds them anyway)."""
    results: Path = Path("results")
    """Folder whose reference/ holds the published numbers."""


def run(options: Options) -> int:
    """Write the report and print its page."""
    if options.rows == (DEFAULT_STORE,) and not DEFAULT_STORE.exists():
        raise KoalaError(f"nothing is scored yet: {DEFAULT_STORE} does not exist; run `python -m eval score`")
    from eval.report.page import write_report
    from koala.harness import records

    console = stderr_console()
    known = records.read(options.rows)
    reference = options.results / "reference"
    report = write_report(known, options.out, reference, options.baseline, options.tags, say=console.print)
    for remark in report.remarks:
        console.print(f"warning: {remark}", markup=False)
    for file in report.files:
        console.print(str(file), markup=False)
    print(report.markdown)
    return 0
