"""Rows of a lesson that was trained on several days or machines: which of them belong together."""

from pathlib import Path

import pandas as pd

from koala.errors import KoalaError

TRAINED, TEACHER, TAUGHT_BY = "trained", "teacher", "teacher_sha256"  # steps, name and weights behind every row


def joined(place: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, and those at `place` of the variants that they do not tell of.

    A `KoalaError` where those at `place` were trained for other steps, or by another training of the same teacher.
    """
    if not place.is_file():
        return rows
    before = pd.read_csv(place)
    kept = before[~before["variant"].isin(rows["variant"])]
    both = pd.concat([kept, rows], ignore_index=True)
    if both[TRAINED].nunique() > 1:
        raise KoalaError(f"{place} tells of students that were trained for other steps: choose another --out")
    if both[[TEACHER, TAUGHT_BY]].drop_duplicates()[TEACHER].duplicated().any():
        raise KoalaError(f"{place} tells of students of other weights of their teacher: choose another --out")
    return both
