"""Text in images: how asked and recognised text are compared, and that real text is read by the real networks."""

from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from eval import metrics, plan
from eval.metrics.text_accuracy import asked_text, in_reading_order, ned, plain_words, words
from eval.networks import Networks
from eval.weights import MissingWeights, Weights

HERE = find_spec("rapidocr_onnxruntime") is not None
OCR = pytest.mark.skipif(not HERE, reason="rapidocr-onnxruntime is not installed")
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
TEXTS = st.text("abcxyz 019", min_size=1, max_size=12).filter(lambda text: text.strip())


# ---- comparing


@pytest.mark.parametrize(
    ("asked", "read", "by_letters", "by_words"),
    [
        ("OPEN LATE", "open late", 1.0, 1.0),
        ("OPEN", "we are open now", 1.0, 1.0),
        ("OPEN LATE", "LATE OPEN", 0.5, 1.0),
        ("NORTH PIER", "NORTH PIFR", 8 / 9, 0.5),
        ("R7", "", 0.0, 0.0),
        ("12:40 OSLO", "12:40 OSLO PLATFORM", 1.0, 1.0),
        ("SLOW SLOW", "SLOW", 0.5, 0.5),
    ],
)
def test_asked_and_recognised_text_are_compared_by_letters_and_by_words(asked, read, by_letters, by_words):
    assert ned(asked, read) == pytest.approx(by_letters) and words(asked, read) == pytest.approx(by_words)


@given(TEXTS, st.text("abcxyz 019", max_size=20), st.text("abcxyz 019", max_size=20))
def test_text_around_what_was_asked_for_costs_nothing(asked, before, after):
    assert ned(asked, before + asked + after) == 1.0


@given(TEXTS, st.text("abcxyz 019", max_size=20))
def test_a_share_lies_between_nothing_and_all_and_is_that_of_a_brute_search(asked, read):
    wanted, there = "".join(plain_words(asked)), "".join(plain_words(read))
    stretches = {there[i:j] for i in range(len(there) + 1) for j in range(i, len(there) + 1)}
    best = min(_distance(wanted, stretch) for stretch in stretches)
    assert ned(asked, read) == pytest.approx(1 - best / len(wanted))
    assert 0 <= ned(asked, read) <= 1 and 0 <= words(asked, read) <= 1


def _distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize(
    ("prompt", "expects", "text"),
    [
        ('a sign that says "OPEN"', {}, "OPEN"),
        ('"ONION SOUP" and "PEAR TART"', {}, "ONION SOUP PEAR TART"),
        ("a sign", {"text": "OPEN"}, "OPEN"),
        ("a sign", {}, None),
        ("a dog's bowl", {"include": []}, None),
    ],
)
def test_what_is_asked_for_is_expected_or_quoted(prompt, expects, text):
    assert asked_text(prompt, expects) == text


def test_regions_are_read_line_by_line():
    def region(x, y, text):
        return [[(x, y), (x + 40, y), (x + 40, y + 20), (x, y + 20)], text, 0.9]

    found = [region(200, 104, "b"), region(0, 200, "c"), region(0, 100, "a"), region(90, 0, "top")]
    assert [text for _, text, _ in in_reading_order(found)] == ["top", "a", "b", "c"]


# ---- the real networks


@pytest.fixture(scope="module")
def networks():
    found = Networks(Weights(), torch.device("cpu"))
    try:
        for name in metrics.load("text_accuracy:ned").weights:
            found.weights.find(name)
    except MissingWeights:
        pytest.skip("the files of rapidocr-onnxruntime are not here")
    return found


def sign(text, size=44, blur=0, noise=0):
    image = Image.new("RGB", (384, 256), (214, 205, 180))
    draw = ImageDraw.Draw(image)
    draw.multiline_text((30, 60), text, (25, 35, 90), ImageFont.truetype(str(FONT), size))
    image = image.filter(ImageFilter.GaussianBlur(blur)) if blur else image
    pixels = np.asarray(image).astype(float)
    pixels += np.random.default_rng(0).normal(0, noise, pixels.shape) if noise else 0
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


@OCR
@pytest.mark.proves("metric", name=("text_accuracy:ned", "text_accuracy:words"), weights="real")
def test_written_text_is_read_and_the_more_it_is_damaged_the_less(networks):
    images = torch.stack([sign("NORTH PIER"), sign("NORTH PIER", blur=4), sign("NORTH PIER", blur=12), sign("")])
    prompts = ['a sign that says "NORTH PIER"'] * 4
    for variant in ("ned", "words"):
        metric = metrics.load(f"text_accuracy:{variant}")
        metric.load(networks)
        whole, blurred, lost, empty = metric.score_expected(images, prompts, [{}] * 4).tolist()
        assert whole == 1.0 and whole >= blurred >= lost and lost < 0.7 and empty == 0.0


@OCR
def test_several_lines_and_expected_text_are_read_and_other_prompts_have_no_score(networks):
    metric = metrics.load("text_accuracy:words")
    metric.load(networks)
    images = torch.stack([sign("ONION SOUP\nPEAR TART"), sign("OPEN")])
    scores = metric.score_expected(images, ["a menu", "a shop"], [{"text": "ONION SOUP PEAR TART"}, {}])
    assert scores[0] == 1.0 and scores[1].isnan()


def test_without_its_package_the_metric_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    there = plan.Situation("", "", "", False, False, lambda feed, dim: None)
    ready, (missing,) = plan.plan(["brightness", "text_accuracy:ned"], there, Weights(), all_of_them=False)
    assert [planned.name for planned in ready] == ["brightness"]
    assert "pip install 'koala-bench[ocr]'" in missing.reason
