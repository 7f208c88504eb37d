"""What a lesson's rows say: intervals, verdicts on claims, tables and figures."""

import math
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import lesson_tables
from lesson_variants import LESSONS, Claim

FEATURES = LESSONS["features"]


def rows(**values):
    """A metric's value of each variant, by seed."""
    lines = [(name, name, seed, "m", value) for name, of in values.items() for seed, value in enumerate(of)]
    return pd.DataFrame(lines, columns=["line", "variant", "seed", "metric", "value"])


METRIC = {"m": lesson_tables.Metric("loss", higher=False)}


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_an_interval_holds_zero_where_a_t_test_finds_nothing(values):
    _, low, high = lesson_tables.interval(values)
    if max(values) - min(values) > 1e-6:
        p = ttest_1samp(values, 0).pvalue
        assert (low <= 0 <= high) == (p >= 0.05) or math.isclose(p, 0.05, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], lesson_tables.CAME),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], lesson_tables.OPPOSITE),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.1], lesson_tables.OPEN),
        ([1.0], [2.0], lesson_tables.OPEN),
    ],
)
def test_a_claim_came_out_where_all_seeds_agree_and_not_by_one(a, b, said):
    claim = Claim("a", "b", "somebody")
    assert lesson_tables.verdict(rows(a=a, b=b), claim, higher_is_better=False) == said
    turned = {lesson_tables.CAME: lesson_tables.OPPOSITE, lesson_tables.OPPOSITE: lesson_tables.CAME}
    assert lesson_tables.verdict(rows(a=a, b=b), claim, higher_is_better=True) == turned.get(said, said)


def test_of_a_variant_that_did_not_run_nothing_is_said():
    assert lesson_tables.verdict(rows(a=[1.0, 2.0]), Claim("a", "b", ""), higher_is_better=True) == ""


def test_seeds_are_paired():
    apart = rows(a=[1.0, 5.0, 9.0], b=[1.1, 5.1, 9.12])
    assert lesson_tables.verdict(apart, Claim("a", "b", ""), higher_is_better=False) == lesson_tables.CAME


def test_the_table_has_a_line_a_variant_that_ran_and_the_figure_a_panel_a_metric():
    lines = rows(**{"SA": [1.0, 1.1], "CA": [2.0, 2.2]})
    page = lesson_tables.table(lines, FEATURES, METRIC)
    assert "| SA " in page and "26.74" in page and "| CA " in page and "| LF " not in page
    figure = lesson_tables.figure(lines, FEATURES, METRIC)
    assert [axis.get_title() for axis in figure.axes] == ["loss\n[lower]"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["CA", "SA"]


def test_where_students_draw_in_several_numbers_of_steps_a_line_is_of_one_number_and_the_figure_has_curves():
    lesson = LESSONS["teacher"]
    lines = pd.DataFrame(
        [
            {"line": lesson.line(name, n), "variant": name, "steps": n, "seed": seed, "metric": "m", "value": n + seed}
            for name in lesson.names
            for n in lesson.sampled
            for seed in (0, 1)
        ]
    )
    assert lesson_tables.table(lines, lesson, METRIC).count("\n| teacher of") == len(lesson.names) * len(lesson.sampled)
    assert len(lesson_tables.claims(lines, lesson, METRIC)) == len(lesson.sampled) + 1
    curves = lesson_tables.figure(lines, lesson, METRIC).axes[0].get_lines()
    assert [curve.get_label() for curve in curves] == list(lesson.names)
    assert list(curves[0].get_xdata()) == list(lesson.sampled)
    assert list(curves[0].get_ydata()) == [n + 0.5 for n in lesson.sampled]
