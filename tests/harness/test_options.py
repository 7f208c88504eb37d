import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala.harness.options import byte_count, number_range


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * 2**30),
        ("11 gib", 11 * 2**30),
        ("11GB", 11 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("500MiB", 500 * 2**20),
        ("7B", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_bytes_are_read_in_both_kinds_of_units(text, count):
    assert byte_count(text) == count


@given(st.integers(0, 2**50))
def test_bytes_may_be_named_one_by_one(count):
    assert byte_count(f"{count}B") == count


@pytest.mark.parametrize("text", ["", "8", "GiB", "-8GiB", "8GiBs", "8 bananas", "1e9", "8,5GiB", "nan"])
def test_what_is_no_number_of_bytes_says_how_one_looks(text):
    with pytest.raises(ValueError, match="such as 8GiB, 11GB or 500MiB"):
        byte_count(text)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_a_range_of_numbers_has_both_its_ends(first, more):
    assert number_range(f"{first}-{first + more}") == range(first, first + more + 1)
    assert number_range(str(first)) == range(first, first + 1)


@pytest.mark.parametrize("text", ["", "-3", "3-", "9-0", "a", "1-2-3", "1.5", "0 - 3"])
def test_what_is_no_range_says_how_one_looks(text):
    with pytest.raises(ValueError, match="a range such as 0-9"):
        number_range(text)
