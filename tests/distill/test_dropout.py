from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_batch import RandomExamples

from koala.distill.batch import Examples
from koala.distill.dropout import without_captions
from koala.models import zoo

SPEC = zoo.get("tiny-koala-700m")
EXAMPLES = RandomExamples(SPEC)


def lost(batch):
    return [not caption for caption in batch.captions]


def test_a_rate_of_0_is_the_examples_themselves():
    assert without_captions(EXAMPLES, 0.0, 1) is EXAMPLES


def test_rows_that_lose_their_caption_are_told_nothing_and_the_others_are_untouched():
    batch, whole = (e.batch(range(50), range(50)) for e in (without_captions(EXAMPLES, 0.4, 1), EXAMPLES))
    gone = torch.tensor(lost(batch))
    assert 0 < gone.sum() < 50
    for name in ("context", "pooled"):
        found, before = getattr(batch.condition, name), getattr(whole.condition, name)
        assert torch.equal(found[~gone], before[~gone])
        assert torch.equal(found[gone], getattr(EXAMPLES.empty(), name).expand_as(found[gone]))
    assert [c for c, g in zip(batch.captions, gone, strict=True) if not g] == [
        c for c, g in zip(whole.captions, gone, strict=True) if not g
    ]
    assert torch.equal(batch.clean, whole.clean) and torch.equal(batch.sizes, whole.sizes)
    assert (batch.positions, batch.keys) == (whole.positions, whole.keys)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=8), st.integers(0, 100))
def test_whether_a_row_loses_it_depends_on_its_position_alone(positions, seed):
    examples = without_captions(EXAMPLES, 0.5, seed)
    whole = lost(examples.batch([0] * len(positions), positions))
    assert whole == [lost(examples.batch([7], [position]))[0] for position in positions]


def test_the_share_is_the_rate():
    batch = without_captions(replace(EXAMPLES, count=1), 0.1, 0).batch([0] * 5000, range(5000))
    assert abs(sum(lost(batch)) / 5000 - 0.1) < 0.015


def test_a_rate_of_1_leaves_no_caption():
    assert all(lost(without_captions(EXAMPLES, 1.0, 0).batch(range(9), range(9))))


def test_classes_lose_their_label():
    spec = zoo.get("tiny-sdm-v1.4")
    spec = replace(spec, unet=replace(spec.unet, class_labels=5))

    class Labelled(RandomExamples):
        def empty(self):
            return super().empty().map(lambda field: torch.full_like(field, 4))

    found = without_captions(Labelled(spec), 1.0, 0).batch(range(9), range(9)).condition.labels
    assert found.dtype == torch.int64 and found.tolist() == [4] * 9


def test_empty_rows_take_the_dtype_of_the_others():
    class Half(RandomExamples):
        def batch(self, indices, positions):
            return super().batch(indices, positions).to(torch.device("cpu"), torch.float16)

    batch = without_captions(Half(SPEC), 0.5, 0).batch(range(9), range(9))
    assert batch.condition.context.dtype == torch.float16


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_they_are_examples_of_the_same_number(rate):
    examples = without_captions(EXAMPLES, rate, 0)
    assert isinstance(examples, Examples) and len(examples) == 100
    assert torch.equal(examples.empty().context, EXAMPLES.empty().context)
