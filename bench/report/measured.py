"""What files of rows hold, as the frame that tables and figures are made of."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.report.frame import latest_rows, to_frame
from bench.report.pytest_json import read_any
from bench.sweep import DEFAULT_STORE
from koala.errors import KoalaError


def measured_frame(files: Sequence[Path]) -> pd.DataFrame:
    """The frame of the rows that count in `files`; lines that had to be skipped are named on stderr."""
    if tuple(files) == (DEFAULT_STORE,) and not DEFAULT_STORE.exists():
        raise KoalaError(f"nothing is measured yet: {DEFAULT_STORE} does not exist; run `python -m bench sweep`")
    store = read_any(files)
    for problem in store.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return to_frame(latest_rows(store), store)
