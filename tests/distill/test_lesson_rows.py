"""Which rows of a lesson that took several days belong together."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from lesson_rows import joined

from koala.errors import KoalaError
from koala.harness.tables import to_csv


def rows(variant, value, trained=250, teacher="emoji-teacher", digest="4b"):
    told = {"variant": variant, "trained": trained, "teacher": teacher, "teacher_sha256": digest}
    return pd.DataFrame([{**told, "seed": seed, "metric": "m", "value": value + seed} for seed in range(3)])


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "lesson.csv"
    path.write_text(to_csv(pd.concat([rows("SA", 0.1), rows("LF", 0.2)])))
    return path


def values(frame):
    return {name: list(own["value"]) for name, own in frame.groupby("variant")}


def test_where_nothing_is_the_rows_are_all(tmp_path):
    assert joined(tmp_path / "none.csv", rows("SA", 1)).equals(rows("SA", 1))


def test_what_was_trained_before_stays_beside_and_what_is_trained_again_replaces_it(place):
    assert values(joined(place, rows("CA", 5))) == {"SA": [0.1, 1.1, 2.1], "LF": [0.2, 1.2, 2.2], "CA": [5, 6, 7]}
    assert values(joined(place, rows("SA", 7))) == {"SA": [7, 8, 9], "LF": [0.2, 1.2, 2.2]}


def test_another_teacher_of_the_lesson_has_weights_of_its_own(place):
    assert len(joined(place, rows("CA", 5, teacher="emoji-teacher-4step", digest="c0"))) == 9


@pytest.mark.parametrize(
    ("changes", "said"), [({"trained": 100}, "other steps"), ({"digest": "c0"}, "other weights of their teacher")]
)
def test_students_of_another_training_are_refused_while_any_of_them_would_stay(place, changes, said):
    with pytest.raises(KoalaError, match=f"lesson.csv tells of students .*{said}.*--out"):
        joined(place, rows("SA", 7, **changes))
    again = pd.concat([rows("SA", 7, **changes), rows("LF", 8, **changes)])
    assert len(joined(place, again)) == 6, "all are told of anew"
