"""`python -m eval publish`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval.commands.report import DEFAULT_STORE
from koala.errors import KoalaError
from koala.harness.cli import stderr_console

EXAMPLES = ("python -m eval publish", "python -m eval publish runs/eval/rows.jsonl --results results")


@dataclass(frozen=True)
class Options:
    """Copy whole rows and their tables to results/quality/.

    Rows already published stay; of two rows of one set's content, metric and reference the newer one counts.
    """

    rows: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[ROWS...]")] = (DEFAULT_STORE,)
    """Files of working rows."""
    results: Path = Path("results")
    """Folder of published results."""


def run(options: Options) -> int:
    """Publish, name the folder on stdout, and on stderr what stayed behind."""
    if options.rows == (DEFAULT_STORE,) and not DEFAULT_STORE.exists():
        raise KoalaError(f"nothing is scored yet: {DEFAULT_STORE} does not exist; run `python -m eval score`")
    from eval.report.publish import publish

    published = publish(options.rows, options.results)
    for remark in published.remarks:
        stderr_console().print(f"warning: {remark}", markup=False)
    print(published.folder)
    return 0
