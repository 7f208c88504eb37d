"""VQAScore (Lin et al., 2024): how likely CLIP-FlanT5 answers yes to 'Does this figure show "{prompt}"?', 0 to 1.

`vqa_score:clip-flant5-xl` is what the authors' package (t2v_metrics) computes with that network of 3 B parameters: the
geometric mean of the chances of "Yes" and of the answer's end. The paper's own numbers are of the XXL network (11 B),
which is not offered: they are not comparable.
"""

from collections.abc import Mapping, Sequence

import torch

from eval.answers import clip_flant5
from eval.answers.clip_flant5 import ClipFlanT5
from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from koala.types import Features, Images, Scores

_BATCH = 4


class VqaScore(ImageMetric):
    """The score of an image for its prompt."""

    higher_is_better = True
    needs_prompts = True
    weights = (clip_flant5.FILE, clip_flant5.TOKENIZER)
    packages = ("sentencepiece",)
    extra = "vqa"

    def settings(self) -> Mapping[str, Setting]:
        """What is asked, and how images are prepared."""
        return {
            "question": clip_flant5.QUESTION,
            "answer": clip_flant5.ANSWER,
            "tokens": clip_flant5.TOKENS,
            "resize": str(clip_flant5.PREPARED),
            "computed_in": "bf16",
        }

    def load(self, networks: Networks) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        file, tokenizer = (networks.weights.find(name).path for name in self.weights)
        self._network = ClipFlanT5(file, tokenizer, networks.device)

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image."""
        parts = [
            self._network.yes(images[i : i + _BATCH], prompts[i : i + _BATCH]) for i in range(0, len(prompts), _BATCH)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than what is read of them."""
        return self._network.cut(prompts)


VARIANTS = {"clip-flant5-xl": VqaScore}
