import io
import re
from decimal import Decimal

import pandas as pd
import pytest
import tabulate
from hypothesis import given
from hypothesis import strategies as st

from koala.harness.tables import escape, gib, significant, to_csv, to_markdown

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def from_csv(text):
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def cells(markdown):
    """The cells of each body line, split where GitHub splits: at bars without a backslash."""
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in markdown.splitlines()[2:]]


# ---- CSV


@given(st.lists(st.tuples(FINITE, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=10))
def test_no_number_is_rounded_in_csv(lines):
    frame = pd.DataFrame(lines, columns=["latency_s", "peak_bytes"])
    found = from_csv(to_csv(frame))
    assert found["latency_s"].map(float).tolist() == frame["latency_s"].tolist()
    assert found["peak_bytes"].map(int).tolist() == frame["peak_bytes"].tolist()


@pytest.mark.parametrize(
    "text", ["a, b", 'say "hi"', "two\nlines", "a\rb", "a\r\nb", "a|b", "<b>", " padded ", "n < 6"]
)
def test_text_in_csv_is_read_back_as_it_was(text):
    assert from_csv(to_csv(pd.DataFrame({"reason": [text, "x"], "n": [1, 2]})))["reason"].tolist() == [text, "x"]


def test_a_csv_cell_that_was_not_measured_is_empty_and_its_column_stays():
    frame = pd.DataFrame({"model": ["a", "b"], "latency_s": [0.1 + 0.2, None], "driver": [None, None]})
    found = from_csv(to_csv(frame))
    assert list(found) == ["model", "latency_s", "driver"]
    assert found.to_numpy().tolist() == [["a", "0.30000000000000004", ""], ["b", "", ""]]


# ---- markdown


def test_a_markdown_table_drops_the_columns_in_which_nothing_was_measured():
    frame = pd.DataFrame(
        {"model": ["a", "b"], "driver": [None, None], "step [s]": [None, 2.0], "x": [float("nan")] * 2}
    )
    markdown = to_markdown(frame)
    assert [c.strip() for c in markdown.splitlines()[0].strip("|").split("|")] == ["model", "step [s]"]
    assert cells(markdown) == [["a", ""], ["b", "2.0"]]


def test_formats_round_their_own_column_and_put_it_to_the_right():
    frame = pd.DataFrame({"model": ["a"], "latency [s]": [1.23456], "raw": [1.23456]})
    markdown = to_markdown(frame, {"latency [s]": significant(3), "not there": significant(1)})
    assert cells(markdown) == [["a", "1.23", "1.23456"]]
    assert [c.endswith(":") for c in markdown.splitlines()[1].strip("|").split("|")] == [False, True, False]


def test_numbers_that_came_as_text_keep_their_trailing_zeros():
    assert cells(to_markdown(pd.DataFrame({"x": ["1.00", "10.0"]}), {"x": str})) == [["1.00"], ["10.0"]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines", "two lines"),
        ("two \r\n\n lines", "two lines"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("<!-- hidden", "&lt;!-- hidden"),
        ("<?php", "&lt;?php"),
        ("1.23 (1.00 to 1.50, n < 6)", "1.23 (1.00 to 1.50, n < 6)"),
        ("a <- b <= c <3", "a <- b <= c <3"),
        ("", ""),
    ],
)
def test_text_from_outside_stays_in_its_cell(text, shown):
    markdown = to_markdown(pd.DataFrame({"device": [text], "n": ["6"]}))
    assert cells(markdown) == [[shown, "6"]]


@given(st.text(st.sampled_from("a1 <>|\\/!?\r\n-") | st.characters(exclude_categories=["Cs"])))
def test_no_text_opens_a_tag_a_line_or_a_cell(text):
    shown = escape(text)
    assert not re.search(r"<[A-Za-z/!?]|[\r\n]|(?<!\\)\|", shown)
    assert escape("x" + text).startswith("x")


def test_a_formatted_value_is_escaped_too():
    assert cells(to_markdown(pd.DataFrame({"n": [1]}), {"n": lambda value: f"<b>|{value}"})) == [[r"&lt;b>\|1"]]


# ---- formats


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0, "0"),
        (1, "1.00"),
        (0.0123, "0.0123"),
        (1.23, "1.23"),
        (123, "123"),
        (0.00012, "0.000120"),
        (1234.5, "1234"),
        (98765, "98765"),
        (-1.2345, "-1.23"),
        (9.995, "9.99"),  # the double nearest to 9.995 lies below it
        (0.1 + 0.2, "0.300"),
        (1e-9, "0.00000000100"),
    ],
)
def test_three_significant_digits_look_like_this(value, shown):
    assert significant(3)(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(9.996, "10.0"), (0.09996, "0.100"), (99.96, "100"), (0.9999, "1.00"), (-9.999, "-10.0")]
)
def test_rounding_up_to_the_next_power_of_ten_gives_no_further_digit(value, shown):
    assert significant(3)(value) == shown


@given(st.floats(1e-9, 1e12) | st.floats(-1e12, -1e-9), st.integers(1, 6))
def test_the_shown_number_is_pythons_own_rounding_or_the_nearest_whole_number(value, digits):
    rounded = Decimal(f"{value:.{digits - 1}e}")
    shown = significant(digits)(value)
    assert "e" not in shown.lower()
    expected = f"{rounded:f}" if abs(rounded) < 10 ** (digits - 1) else f"{Decimal(value):.0f}"
    assert Decimal(shown) == Decimal(expected)


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [(0, "0"), (2**30, "1.00"), (3 * 2**29, "1.50"), (2**29, "0.500"), (12345678, "0.0115"), (9 * 2**30, "9.00")],
)
def test_bytes_are_shown_in_gib(num_bytes, shown):
    assert gib(num_bytes) == shown


CELLS = st.one_of(st.none(), FINITE, st.text("ab |<\n\u2191-", max_size=6))


@given(
    st.dictionaries(st.sampled_from(["model", "x", "latency [s]"]), st.lists(CELLS, min_size=4, max_size=4), min_size=1)
)
def test_markdown_is_laid_out_as_a_library_does_it(columns):
    frame = pd.DataFrame(columns, dtype=object)
    formats = {"x": str, "latency [s]": str}
    shown = [name for name in frame if frame[name].notna().any()]
    rows = [["" if pd.isna(v) else escape(str(v)) for v in line] for line in frame[shown].itertuples(index=False)]
    align = ["right" if name in formats else "left" for name in shown]
    expected = tabulate.tabulate(rows, shown, tablefmt="pipe", disable_numparse=True, colalign=align) if shown else ""
    assert to_markdown(frame, formats) == expected
