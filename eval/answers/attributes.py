"""T2I-CompBench's score of attributes: how sure BLIP is of every noun phrase of the prompt.

`compbench_attributes` is this score; T2I-CompBench's score of complex prompts takes its mean with others.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from eval.answers import blip, blip_parts, phrases
from eval.answers.blip import Answers, Blip
from eval.metric import Setting
from eval.networks import Networks
from koala.types import Images, Scores

WEIGHTS = (blip.FILE, blip_parts.TOKENIZER)
PACKAGES = ("spacy", phrases.PIPELINE)
EXTRA, EXTRA_STEP = "compbench", f"python -m spacy download {phrases.PIPELINE}"
_IMAGES = 8  # seen at once


@runtime_checkable
class Asked(Protocol):
    """A network that says how sure it is of yes."""

    def yes(self, images: Images, places: Sequence[int], questions: Sequence[str]) -> Answers:
        """0 to 1 for each question, which is asked about `images[place]`."""
        ...


def settings() -> Mapping[str, Setting]:
    """What decides the score beside the weights."""
    return {
        "attributes_resize": str(blip.PREPARED),
        "noun_phrases": f"spaCy {phrases.PIPELINE} {phrases.pipeline_version()}, {phrases.MOST} at most",
        "question_tokens": blip.TOKENS,
    }


def load(networks: Networks) -> Blip:
    """The network that is asked."""
    file, tokenizer = (networks.weights.find(name).path for name in WEIGHTS)
    return Blip(file, tokenizer, networks.device)


def attribute_scores(network: Asked, images: Images, prompts: Sequence[str]) -> Scores:
    """The score of each image for its prompt, 0 to 1; NaN for a prompt without noun phrases, which asks nothing."""
    asked = [phrases.questions(found) for found in phrases.noun_phrases(prompts)]
    parts = [
        product_scores(network, images[start : start + _IMAGES], asked[start : start + _IMAGES])
        for start in range(0, len(asked), _IMAGES)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def product_scores(network: Asked, images: Images, asked: Sequence[Sequence[str]]) -> Scores:
    """The product of the answers to each image's questions; NaN where it has none."""
    places = [place for place, questions in enumerate(asked) for _ in questions]
    answers = network.yes(images, places, [question for questions in asked for question in questions])
    parts = answers.split([len(questions) for questions in asked])
    return torch.stack([part.prod() if len(part) else torch.tensor(float("nan")) for part in parts])
