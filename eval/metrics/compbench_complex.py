"""T2I-CompBench's 3-in-1 score of complex prompts (Huang et al., 2023) by an open detector: a mean of two or three.

`compbench_complex:DETECTOR` is the mean of attributes (BLIP-VQA, as `compbench_attributes`) and of where objects stand
(by a detector, where the benchmark has UniDet), of what they do (the cosine of CLIP ViT-B-32 of openai with the prompt
without its adjectives), or of both. Which of them, the benchmark's files say for its 300 validation prompts; here the
prompt's words say it, alike as far as reading both side by side shows. As in its code, "on top of" is looked for and
never holds. Read it by the suite's tags: it is made for complex prompts alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from eval.answers import attributes, phrases
from eval.extractors import clip
from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from eval.objects.compbench_rules import Word, complex_parts, spatial_score, told_in_words
from eval.objects.owlv2 import Owlv2
from koala.types import Features, Images, Scores

_MODEL, _TAG = "ViT-B-32", "openai"
_CLIP = f"clip:{_MODEL}/{_TAG}"
_ADJECTIVE = "ADJ"
_IMAGES = 16  # seen by CLIP at once


class CompbenchComplex(ImageMetric):
    """The mean of what a prompt says of attributes, places and actions."""

    higher_is_better = True
    needs_prompts = partial = True
    packages = attributes.PACKAGES
    extra, extra_step = attributes.EXTRA, attributes.EXTRA_STEP

    def __init__(self, detector: type[Owlv2]):
        self._detector = detector()
        self.weights = (*attributes.WEIGHTS, self._detector.weights, f"clip/{_MODEL}/{_TAG}")

    def settings(self) -> Mapping[str, Setting]:
        """How BLIP and the detector prepare images, and what cuts prompts into phrases."""
        return {**attributes.settings(), **self._detector.settings()}

    def load(self, networks: Networks) -> None:
        """Load BLIP and the detector."""
        self._blip = attributes.load(networks)
        self._detector.load(networks.weights.find(self._detector.weights).path, networks.device)
        self._networks = networks

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image; NaN for a prompt without noun phrases."""
        parts, words = [complex_parts(prompt) for prompt in prompts], tagged_words(prompts)
        spatial, action = ([i for i, of in enumerate(parts) if name in of] for name in ("spatial", "action"))
        total = attributes.attribute_scores(self._blip, images, prompts).clone()
        total[spatial] += self._places(images[spatial], [prompts[i] for i in spatial], [words[i] for i in spatial])
        total[action] += self._actions(images[action], [words[i] for i in action])
        return total / torch.tensor([len(of) for of in parts])

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts have more noun phrases than are asked about."""
        return sum(len(found) > phrases.MOST for found in phrases.noun_phrases(prompts))

    def _places(self, images: Images, prompts: Sequence[str], words: Sequence[Sequence[Word]]) -> Scores:
        """Where the objects stand: 0 where a prompt does not name two of them, as in the benchmark's code."""
        pairs = [told_in_words(prompt, of) for prompt, of in zip(prompts, words, strict=True)]
        scores, named = torch.zeros(len(prompts)), {i: pair for i, pair in enumerate(pairs) if pair}
        found = self._detector.find(images[list(named)], [pair.names for pair in named.values()])
        for (place, pair), there in zip(named.items(), found, strict=True):
            scores[place] = spatial_score(there, pair, *images.shape[1:3])
        return scores

    def _actions(self, images: Images, words: Sequence[Sequence[Word]]) -> Scores:
        """The cosine of each image and its prompt without adjectives."""
        texts = [" ".join(word for word, kind in of if kind != _ADJECTIVE) for of in words]
        extractor, prepare = self._networks.extractor(_CLIP), clip.preparation(_MODEL, _TAG)
        assert isinstance(extractor, clip.Clip)
        seen = [torch.zeros(0, extractor.dim)]
        for start in range(0, len(images), _IMAGES):
            prepared = prepare(images[start : start + _IMAGES].permute(0, 3, 1, 2))
            with torch.inference_mode():
                seen.append(extractor.features(prepared.to(self._networks.device)).cpu())
        return F.cosine_similarity(torch.cat(seen), self._networks.texts(_CLIP, texts), dim=1)


def tagged_words(prompts: Sequence[str]) -> list[list[Word]]:
    """The words of each prompt with their parts of speech, as spaCy tells them."""
    return [[(word.text, word.pos_) for word in phrases.parsed(prompt)] for prompt in prompts]


VARIANTS = {"owlv2-base": partial(CompbenchComplex, Owlv2)}
