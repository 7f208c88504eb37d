"""Whether the text that a prompt asks for can be read in the image, by optical character recognition (PP-OCRv4).

What is asked for is what the suite expects, else what stands in double quotes in the prompt; images of other prompts
have no score. Case and all but letters and digits are left out, and what is recognised is read from top to bottom, left
to right.

- `text_accuracy:ned`: 1 less the edit distance of the asked text to the most similar stretch of what was recognised,
  over the length of the asked text: 1 where every letter is there in order, 0 where nothing is. Other text costs
  nothing.
- `text_accuracy:words`: the share of the asked words that were recognised without a mistake, wherever they stand;
  spaces do not count, since the recogniser loses some.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from eval.metric import ExpectationMetric, Setting
from eval.networks import Networks
from koala.types import Features, Images, Scores

FILES = ("ppocr-v4-det", "ppocr-v4-rec", "ppocr-v2-cls")
_QUOTED = re.compile(r'"([^"]+)"')
_NO_LETTER = re.compile(r"[^\w]+|_", re.UNICODE)


class TextAccuracy(ExpectationMetric):
    """How much of the asked text was recognised, 0 to 1; `by` compares the two."""

    higher_is_better = True
    needs_prompts = True
    needs_expectations = False
    weights = FILES
    packages = ("rapidocr_onnxruntime",)
    extra = "ocr"

    def __init__(self, by: str):
        self._by = by

    def settings(self) -> Mapping[str, Setting]:
        """How texts are compared."""
        return {"compared": self._by}

    def load(self, networks: Networks) -> None:
        """Open the three networks of the package."""
        from rapidocr_onnxruntime import RapidOCR

        detector, reader, turner = (str(networks.weights.find(name).path) for name in FILES)
        self._ocr = RapidOCR(det_model_path=detector, rec_model_path=reader, cls_model_path=turner)

    def score_expected(
        self, images: Images | Features, prompts: Sequence[str], expects: Sequence[Mapping[str, Any]]
    ) -> Scores:
        """One score per image; NaN where no text is asked for."""
        compare = {"ned": ned, "words": words}[self._by]
        scores = torch.full((len(prompts),), float("nan"))
        for place, (prompt, expected) in enumerate(zip(prompts, expects, strict=True)):
            if text := asked_text(prompt, expected):
                scores[place] = compare(text, self._read(images[place]))
        return scores

    def _read(self, image: torch.Tensor) -> str:
        """What is recognised, line by line."""
        found, _ = self._ocr(image.cpu().numpy()[:, :, ::-1])
        return " ".join(text for _, text, _ in in_reading_order(found or []))


def asked_text(prompt: str, expects: Mapping[str, Any]) -> str | None:
    """The text that an image should show; None where none is asked for."""
    if isinstance(text := expects.get("text"), str):
        return text
    return " ".join(_QUOTED.findall(prompt)) or None


def in_reading_order(found: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Regions (corners, text, confidence) from top to bottom, those of one line from left to right."""
    rest = sorted(found, key=lambda region: _middle(region)[1])
    ordered: list[Sequence[Any]] = []
    while rest:
        first = rest[0]
        reach = _middle(first)[1] + _height(first) / 2
        line = [region for region in rest if _middle(region)[1] <= reach]
        ordered += sorted(line, key=lambda region: _middle(region)[0])
        rest = rest[len(line) :]
    return ordered


def ned(asked: str, read: str) -> float:
    """1 less the edit distance of `asked` to the most similar stretch of `read`, over its length; letters alone."""
    wanted, there = "".join(plain_words(asked)), "".join(plain_words(read))
    if not wanted:
        return float("nan")
    row = [0] * (len(there) + 1)  # a stretch may begin anywhere
    for letter in wanted:
        above, row = row, [row[0] + 1]
        for place, other in enumerate(there):
            row.append(min(row[-1] + 1, above[place + 1] + 1, above[place] + (letter != other)))
    return 1 - min(row) / len(wanted)  # and end anywhere


def words(asked: str, read: str) -> float:
    """The share of the asked words that were read as they are."""
    wanted, rest, found = plain_words(asked), "".join(plain_words(read)), 0
    if not wanted:
        return float("nan")
    for word in sorted(wanted, key=len, reverse=True):
        if word in rest:  # each stretch of text is one word at most
            rest, found = rest.replace(word, " ", 1), found + 1
    return found / len(wanted)


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, of letters and digits alone."""
    return _NO_LETTER.sub(" ", text.casefold()).split()


def _middle(region: Sequence[Any]) -> tuple[float, float]:
    corners = region[0]
    return sum(x for x, _ in corners) / len(corners), sum(y for _, y in corners) / len(corners)


def _height(region: Sequence[Any]) -> float:
    ys = [y for _, y in region[0]]
    return max(ys) - min(ys)


VARIANTS = {by: partial(TextAccuracy, by) for by in ("ned", "words")}
