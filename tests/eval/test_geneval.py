"""GenEval's rules on detections made by hand, its colours, and the detector against transformers' own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval import metrics
from eval.metrics import geneval
from eval.networks import Networks
from eval.objects.detection import Detection
from eval.objects.geneval_rules import correct, relations, threshold_of
from eval.objects.mask2former import Mask2Former
from eval.weights import Weights
from koala.errors import KoalaError

CPU = torch.device("cpu")


def at(label, x=0.0, y=0.0, score=0.95, width=10.0, height=10.0):
    """An object whose box has its middle at x, y."""
    return Detection(label, score, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def clause(label, count=1, **more):
    return {"class": label, "count": count, **more}


def no_colour(objects, label):
    pytest.fail("no colour was asked for")


def judged(found, include, exclude=(), tag="two_object", colours=no_colour):
    return correct(found, {"tag": tag, "include": include, "exclude": list(exclude)}, colours)


# ---- objects and counts


@pytest.mark.parametrize(
    ("found", "include", "verdict"),
    [
        ([at("dog")], [clause("dog")], True),
        ([], [clause("dog")], False),
        ([at("cat")], [clause("dog")], False),
        ([at("dog", score=0.3)], [clause("dog")], False),  # the score has to be above
        ([at("dog", score=0.3001)], [clause("dog")], True),
        ([at("dog"), at("cat")], [clause("dog"), clause("cat")], True),
        ([at("dog"), at("dog")], [clause("dog"), clause("cat")], False),
        ([at("dog"), at("dog", 50), at("dog", 90)], [clause("dog")], True),  # more than asked for is no mistake
        ([at("dog"), at("dog")], [clause("dog", 2)], True),  # overlapping ones both count
        ([at("dog")], [clause("dog", 2)], False),
    ],
)
def test_all_objects_have_to_be_there(found, include, verdict):
    assert judged(found, include) is verdict


@pytest.mark.parametrize(("there", "verdict"), [(2, False), (3, True), (4, False)])
def test_counting_excludes_one_too_many(there, verdict):
    found = [at("clock", 20.0 * place) for place in range(there)]
    assert judged(found, [clause("clock", 3)], [clause("clock", 4)], tag="counting") is verdict


def test_counting_looks_at_sure_detections_only():
    found = [*(at("clock", 20.0 * place) for place in range(3)), at("clock", 90.0, score=0.89)]
    assert judged(found, [clause("clock", 3)], [clause("clock", 4)], tag="counting")
    assert not judged(found, [clause("clock", 3)], [clause("clock", 4)], tag="two_object")


@pytest.mark.parametrize(
    ("expects", "threshold"),
    [
        ({"tag": "counting", "include": []}, 0.9),
        ({"tag": "colors", "include": [], "exclude": [clause("dog", 2)]}, 0.3),
        ({"include": [], "exclude": [clause("dog", 2)]}, 0.9),
        ({"include": [clause("dog", 2)]}, 0.3),
    ],
)
def test_a_suite_without_tasks_counts_where_it_excludes(expects, threshold):
    assert threshold_of(expects) == threshold


def test_no_more_than_sixteen_of_a_class_are_looked_at():
    assert not judged([at("cup", 20.0 * place) for place in range(40)], [clause("cup", 17)])


@given(st.lists(st.sampled_from(["dog", "cat"]), max_size=6), st.floats(0, 0.3), st.sampled_from(["dog", "cat", "cup"]))
def test_an_unsure_detection_changes_nothing(labels, score, more):
    found = [at(label, 30.0 * place) for place, label in enumerate(labels)]
    include = [clause("dog"), clause("cat")]
    assert judged([*found, at(more, -50.0, score=score)], include) is judged(found, include)


# ---- relations


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (-50, 0, {"left of"}),
        (50, 0, {"right of"}),
        (0, -50, {"above"}),
        (0, 50, {"below"}),
        (-50, -50, {"left of", "above"}),
        (50, 10, {"right of"}),
        (0, 0, set()),
        (1.9, 0, set()),  # within a tenth of both widths
        (1.5, -1.5, set()),
    ],
)
def test_a_relation_needs_a_clear_distance(x, y, named):
    assert relations(at("dog", x, y), at("cat")) == named


OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLACES = st.floats(-200, 200).map(lambda value: round(value, 2))
SIDES = st.floats(1, 80).map(lambda value: round(value, 2))


@given(PLACES, PLACES, SIDES, SIDES)
def test_relations_turn_round_with_the_objects_and_with_a_mirror(x, y, width, height):
    one, other = at("dog", x, y, width=width, height=height), at("cat")
    named = relations(one, other)
    assert relations(other, one) == {OPPOSITE[name] for name in named}
    mirrored = relations(at("dog", -x, y, width=width, height=height), other)
    assert mirrored == {OPPOSITE[name] if name in ("left of", "right of") else name for name in named}
    assert not {"left of", "right of"} <= named and not {"above", "below"} <= named


def test_relations_are_those_of_genevals_formula():
    """The formula spelled out on arrays, on many boxes drawn at random."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        boxes = generator.uniform(0, 100, (2, 2, 2))
        boxes.sort(axis=1)
        (a, b), sizes = boxes.mean(axis=1), np.abs(boxes[:, 1] - boxes[:, 0])
        offset = a - b
        clear = np.maximum(np.abs(offset) - 0.1 * sizes.sum(axis=0), 0) * np.sign(offset)
        x, y = clear / np.linalg.norm(offset) if (np.abs(clear) >= 1e-3).any() else (0, 0)
        wanted = {
            name
            for name, true in (("left of", x < -0.5), ("right of", x > 0.5), ("above", y < -0.5), ("below", y > 0.5))
            if true
        }
        one, other = (Detection("dog", 1.0, tuple(map(float, box.ravel()))) for box in boxes)
        assert relations(one, other) == wanted


def test_a_relation_is_to_the_object_of_another_clause():
    include = [clause("dog"), clause("cat", position=["left of", 0])]
    assert judged([at("dog", 50), at("cat", 0)], include)
    assert not judged([at("dog", 0), at("cat", 50)], include)
    assert not judged([at("cat", 0)], include)


def test_the_surest_objects_stand_for_their_class():
    include = [clause("dog"), clause("cat", position=["left of", 0])]
    left, right = at("cat", 0, score=0.5), at("cat", 90, score=0.8)
    assert not judged([at("dog", 50), left, right], include)
    assert judged([at("dog", 50), Detection("cat", 0.9, left.box), right], include)


# ---- colours


def colours(**of):
    return lambda objects, label: [of[label]] * len(objects)


def test_objects_need_their_colours():
    include = [clause("dog", color="red"), clause("cat", color="blue")]
    found = [at("dog"), at("cat")]
    assert judged(found, include, colours=colours(dog="red", cat="blue"))
    assert not judged(found, include, colours=colours(dog="blue", cat="red"))


def test_a_wrongly_coloured_object_is_no_place_to_stand_beside():
    include = [clause("dog", color="red"), clause("cat", position=["left of", 0])]
    assert not judged([at("dog", 50), at("cat", 0)], include, colours=colours(dog="blue"))


def test_only_the_objects_that_are_asked_for_are_looked_at_in_colour():
    seen = []

    def told(objects, label):
        seen.append(len(objects))
        return ["red"] * len(objects)

    assert judged([at("dog", 20.0 * place) for place in range(5)], [clause("dog", 2, color="red")], colours=told)
    assert seen == [2]


def test_an_object_is_cut_out_on_grey():
    image = torch.zeros(10, 10, 3, dtype=torch.uint8)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[2:4, 3] = True
    cut = geneval._cut_out(image, Detection("dog", 1.0, (3.0, 2.0, 5.0, 4.0), mask))
    assert cut.shape == (1, 3, 2, 2)
    assert cut[0, 0].tolist() == [[0, 0x99], [0, 0x99]]


# ---- the metric


class Told(Mask2Former):
    """A detector that finds what it is told to."""

    found = ([at("dog")], [at("cat")], [])

    def load(self, file, device):
        pass

    def find(self, images, threshold):
        assert len(images) == 2 and threshold == 0.3
        return list(self.found[: len(images)])


def test_the_metric_is_right_wrong_or_nothing_to_judge(monkeypatch, tmp_path):
    metric = geneval.GenEval(Told)
    (tmp_path / "w").write_bytes(b"")
    metric.load(Networks(Weights({"mask2former-swin-s-coco": tmp_path / "w"}), CPU))
    expects = [{"include": [clause("dog")]}, {"text": "OPEN"}, {"include": [clause("dog")]}]
    pixels = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    scores = metric.score_expected(pixels, ["a", "b", "c"], expects)
    assert scores[0] == 1 and scores[2] == 0 and scores[1].isnan()
    assert metric.score_expected(pixels[:1], ["a"], [{}]).isnan().all()


def test_the_bare_name_is_not_offered():
    assert "geneval" not in metrics.names()
    with pytest.raises(KoalaError, match="several variants; say which: geneval:mask2former-swin-s"):
        metrics.load("geneval")
    assert metrics.load("geneval:mask2former-swin-s").balanced_over == "task"
