"""T2I-CompBench's rules of where objects stand, on boxes made by hand, and the metric that goes by them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval import metrics
from eval.metrics import compbench_spatial
from eval.networks import Networks
from eval.objects.compbench_rules import Pair, overlap, place_score, spatial_score, told
from eval.objects.detection import Detection
from eval.objects.owlv2 import Owlv2
from eval.weights import Weights
from koala.errors import KoalaError

LEFT, RIGHT, TOP, BOTTOM = (f"on the {side} of" for side in ("left", "right", "top", "bottom"))
OPPOSITE = {LEFT: RIGHT, RIGHT: LEFT, TOP: BOTTOM, BOTTOM: TOP}
BESIDE = ("next to", "near", "on side of")
SIDES = (479, 479)  # of an image in which a pixel is a pixel


def box(x, y, side=40.0):
    """A square around x, y."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def seen(label, x, y, score=0.8):
    return Detection(label, score, box(x, y))


# ---- what a prompt tells


@pytest.mark.parametrize(
    ("prompt", "pair"),
    [
        ("a dog on the left of a chair", Pair("dog", LEFT, "chair")),
        ("a kite on the top of an owl.", Pair("kite", TOP, "owl")),
        ("A Boy next to a woman", Pair("person", "next to", "person")),
        ("a lamp on side of a girl", Pair("lamp", "on side of", "person")),
        ("a cup on top of a book", Pair("cup", "on top of", "book")),
        ("a red dog near a chair", None),
        ("a dog in front of a chair", None),
        ("a dog near a chair and a cat", None),
        ("two dogs near a chair", None),
        ("", None),
    ],
)
def test_prompts_of_the_spatial_category_tell_two_objects(prompt, pair):
    assert told(prompt) == pair


# ---- places


@pytest.mark.parametrize("relation", OPPOSITE)
def test_a_relation_needs_its_axis_to_prevail_and_the_right_side(relation):
    x, y = {LEFT: (-90, 0), RIGHT: (90, 0), TOP: (0, -90), BOTTOM: (0, 90)}[relation]
    at = box(200, 200)
    assert place_score(relation, box(200 + x, 200 + y), at) == 1
    assert place_score(relation, box(200 - x, 200 - y), at) == 0
    assert place_score(relation, box(200 + x + y, 200 + y + x), at) == 0, "as far along the other axis"
    assert place_score(relation, at, at) == 0


def test_what_overlaps_too_much_counts_less():
    one, other = box(100, 100, 40), box(120, 100, 40)
    assert overlap(one, other) == pytest.approx(1 / 3)
    assert place_score(LEFT, one, other) == pytest.approx(0.3)
    assert place_score(LEFT, box(100, 100, 40), box(135, 100, 40)) == 1, "5 of 75 pixels are no fault"


@pytest.mark.parametrize("relation", BESIDE)
def test_near_is_one_centre_within_150_pixels_along_either_axis(relation):
    at = box(0, 0)
    assert place_score(relation, box(149, 900), at) == 1 == place_score(relation, box(900, 149), at)
    assert place_score(relation, box(150, 300), at) == 0.5
    assert place_score(relation, at, at) == 1


@pytest.mark.parametrize("relation", ["on top of", None])
def test_a_relation_that_the_benchmark_does_not_score_never_holds(relation):
    assert place_score(relation, box(0, 0), box(0, 90)) == 0


PLACES = st.integers(0, 400).map(float)
BOXES = st.tuples(PLACES, PLACES, st.sampled_from([8.0, 40.0, 120.0])).map(lambda of: box(*of))


@given(BOXES, BOXES, st.sampled_from(list(OPPOSITE)))
def test_a_mirror_swaps_sides_and_so_does_swapping_the_objects(one, other, relation):
    def mirrored(of):
        return (-of[2], of[1], -of[0], of[3])

    score = place_score(relation, one, other)
    assert 0 <= score <= 1
    assert place_score(OPPOSITE[relation], other, one) == pytest.approx(score)
    swapped = OPPOSITE[relation] if relation in (LEFT, RIGHT) else relation
    assert place_score(swapped, mirrored(one), mirrored(other)) == pytest.approx(score)


@given(BOXES, BOXES)
def test_no_two_sides_hold_at_once(one, other):
    assert sum(place_score(relation, one, other) > 0 for relation in OPPOSITE) <= 1


# ---- the score


def test_the_score_is_half_place_and_half_sureness():
    pair = Pair("dog", LEFT, "cat")
    found = [seen("dog", 100, 100, 0.8), seen("cat", 300, 100, 0.4)]
    assert spatial_score(found, pair, *SIDES) == pytest.approx(0.5 + 0.25 * 1.2)


@pytest.mark.parametrize(
    "found",
    [
        [],
        [seen("dog", 100, 100, 1.0)],
        [seen("cat", 100, 100, 1.0)],
        [seen("dog", 300, 100, 0.99), seen("cat", 100, 100, 0.99)],
        [seen("dog", 100, 100, 0.99), seen("bird", 300, 100, 0.99)],
    ],
)
def test_a_missing_object_or_a_wrong_side_is_nothing(found):
    assert spatial_score(found, Pair("dog", LEFT, "cat"), *SIDES) == 0


def test_a_partly_right_place_is_worth_something_only_from_a_half_on():
    near = Pair("dog", "next to", "cat")
    found = [seen("dog", 0, 0, 0.6), seen("cat", 300, 300, 0.4)]
    assert spatial_score(found, near, *SIDES) == pytest.approx(0.25 + 0.25)
    assert spatial_score([found[0], seen("cat", 300, 301, 0.4)], near, *SIDES) == 0


def test_the_surest_of_each_kind_counts():
    found = [seen("dog", 100, 100, 0.9), seen("dog", 400, 100, 0.5), seen("cat", 300, 100, 0.4)]
    assert spatial_score(found, Pair("dog", LEFT, "cat"), *SIDES) == pytest.approx(0.825)
    assert spatial_score(found, Pair("dog", RIGHT, "cat"), *SIDES) == 0


def test_two_names_of_one_kind_are_the_same_object_as_in_the_benchmarks_code():
    found = [seen("person", 100, 100, 0.8), seen("person", 300, 100, 0.4)]
    assert spatial_score(found, Pair("person", LEFT, "person"), *SIDES) == 0
    assert spatial_score(found, Pair("person", "near", "person"), *SIDES) == pytest.approx(0.5 + 0.25 * 1.6)


@pytest.mark.parametrize(
    ("height", "width", "near_px"),
    [(479, 479, 150), (1024, 1024, 150 * 1024 / 479), (512, 1024, 150 * 1024 / 480), (1024, 512, 150 * 1024 / 480)],
)
def test_pixels_are_those_of_an_image_of_479(height, width, near_px):
    def score(distance):
        found = [seen("dog", 0, 0, 0.8), seen("cat", distance, distance, 0.8)]
        return spatial_score(found, Pair("dog", "near", "cat"), height, width)

    assert score(near_px - 0.5) == pytest.approx(0.9)
    assert score(near_px * 1.25) == pytest.approx(0.4 + 0.5 / 1.25)


# ---- the metric


class Told(Owlv2):
    """A detector that finds both objects side by side."""

    asked = ()

    def load(self, file, device):
        pass

    def find(self, images, names):
        self.asked = (images[:, 0, 0, 0].tolist(), list(names))
        return [[seen(one, 10, 20), seen(other, 60, 20)] for one, other in names]


def test_the_metric_scores_the_prompts_that_say_where_and_no_others(tmp_path):
    metric = compbench_spatial.CompbenchSpatial(Told)
    (tmp_path / "w").write_bytes(b"")
    metric.load(Networks(Weights({Told.weights: tmp_path / "w"}), torch.device("cpu")))
    prompts = ["a dog on the left of a cat", "a red car", "a girl on the left of a cat", "a dog on the top of a cat"]
    pixels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 479, 479, 3)
    scores = metric.score(pixels, prompts)
    assert scores[[0, 2, 3]].tolist() == pytest.approx([0.9, 0.9, 0]) and scores[1].isnan()
    assert metric._detector.asked == ([0, 2, 3], [("dog", "cat"), ("person", "cat"), ("dog", "cat")])
    assert metric.score(pixels[:1], ["a red car"]).isnan().all()


@pytest.mark.parametrize("name", ["compbench_spatial", "compbench_complex"])
def test_the_bare_name_of_the_benchmarks_own_detector_is_not_offered(name):
    assert name not in metrics.names() and f"{name}:owlv2-base" in metrics.names()
    with pytest.raises(KoalaError, match=f"say which: {name}:owlv2-base"):
        metrics.load(name)
