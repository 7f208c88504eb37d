import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from koala.distill.data.filters import Admitted, Refused
from koala.distill.data.statistics import MOST_LISTED, Tally

side = st.integers(1, 9)
captions = st.lists(st.sampled_from(["one", "one two", "one two three"]), min_size=1, max_size=3)
reasons = st.sampled_from(["broken", "too small"])
outcomes = st.lists(
    st.one_of(
        st.tuples(st.text(max_size=3), side, side, captions),
        st.tuples(st.text(max_size=3), reasons, st.sampled_from(["", "why"])),
    ),
    max_size=20,
)


def tally(some):
    """Of outcomes, or of what `outcomes` draws."""
    counted = Tally()
    for one in some:
        counted.count(made(one) if isinstance(one, tuple) else one)
    return counted


def made(drawn):
    return Refused(*drawn) if len(drawn) == 3 else Admitted(drawn[0], Image.new("RGB", drawn[1:3]), tuple(drawn[3]))


def test_images_are_averaged_and_the_refused_are_counted_and_listed():
    counted = tally(
        [
            Admitted("a", Image.new("RGB", (20, 10)), ("one two", "one two three four")),
            Admitted("b", Image.new("RGB", (40, 30)), ("one two three",)),
            Refused("c.png", "broken", "the file is empty"),
            Refused("d.png", "no caption"),
        ]
    )
    assert counted.means == {"height": 20, "width": 30, "captions per image": 1.5, "words per caption": 3}
    assert counted.refused == {"broken": 1, "no caption": 1}
    assert counted.listed == {"broken": ["c.png: the file is empty"], "no caption": ["d.png"]}


@given(outcomes, outcomes)
def test_tallies_add_up_whoever_counted(first, second):
    assert tally(first) + tally(second) == tally(first + second)
    assert tally(first) + Tally() == tally(first) == Tally() + tally(first)


@given(outcomes)
def test_a_tally_is_the_same_after_a_trip_through_json(some):
    counted = tally(some)
    assert Tally.of(json.loads(json.dumps(counted.row()))) == counted


def test_only_the_first_few_of_a_reason_are_listed():
    counted = tally([Refused(str(number), "broken") for number in range(100)])
    assert counted.refused["broken"] == 100 and counted.listed["broken"] == list(map(str, range(MOST_LISTED)))
    assert (counted + counted).listed == counted.listed and (counted + counted).refused["broken"] == 200


def test_what_was_added_is_not_changed_by_what_is_counted_later():
    one = tally([Refused("a", "broken")])
    both = one + Tally()
    one.count(Refused("b", "broken"))
    assert both.refused["broken"] == 1 and both.listed["broken"] == ["a"]


def test_the_table_shows_means_reasons_and_the_first_keys():
    some = [Admitted("a", Image.new("RGB", (676, 580)), ("w " * 13,)), *[Refused("x|y\nz", "broken", "<b>")] * 3]
    lines = tally(some).table().splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "images",
        "height",
        "width",
        "captions per image",
        "words per caption",
    ]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["1", "580.0", "676.0", "1.000", "13.00"]
    assert "left out" in lines[4] and "x\\|y z: &lt;b>" in lines[6] and len(lines) == 7


@pytest.mark.parametrize("some", [[], [Refused("a", "broken")]])
def test_a_table_of_nothing_says_zero(some):
    table = tally(some).table()
    assert "nan" not in table and table.splitlines()[2].strip("| ") == "0"
