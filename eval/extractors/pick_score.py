"""PickScore's network (Kirstain et al., 2023): CLIP ViT-H-14 as transformers has it, tuned on people's choices."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from eval.extractor import Extractor
from eval.extractors import clip, hps
from eval.feed import Preparation
from eval.preparation import CenterSquare
from koala.models.tokenizers import clip_tokenizer
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fill
from koala.types import Features, FloatImages

_TOKENS = 77
_TOWERS = {
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "hidden_act": "gelu",
        "projection_dim": 1024,
        "eos_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "patch_size": 14,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "projection_dim": 1024,
}


class PickScore(Extractor):
    """Both towers; weights named as in the repository yuvalkirstain/PickScore_v1."""

    weights = ("pick-score-v1",)
    dim = 1024
    towers: Mapping[str, Any] = _TOWERS

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        from transformers import CLIPConfig, CLIPModel

        with torch.device("meta"):
            skeleton = CLIPModel(CLIPConfig(**self.towers)).to(dtype)
        self._network = fill(skeleton, Checkpoint((files[self.weights[0]],)), device)
        self._device, self._dtype = device, dtype

    @property
    def scale(self) -> float:
        """What the model multiplies cosines by."""
        return float(self._network.logit_scale.exp())

    def features(self, images: FloatImages) -> Features:
        """fp32 image features, not normalised."""
        states = self._network.vision_model(pixel_values=images.to(self._device, self._dtype)).pooler_output
        return self._network.visual_projection(states).float()

    def texts(self, texts: Sequence[str]) -> Features:
        """fp32 text features, not normalised; the tokenizer leaves 77 tokens of an over-long text."""
        tokens = _tokenizer()(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        # No mask: a token sees those before it, and the features are those of the first end of text.
        states = self._network.text_model(input_ids=tokens.input_ids.to(self._device)).pooler_output
        return self._network.text_projection(states).float()


def preparation() -> Preparation:
    """What transformers' processor of CLIP does: open_clip's steps but for offsets of the crop, rounded down."""
    resize, _, normalise = clip.preparation(hps.MODEL, hps.ROOTS).steps
    return Preparation((resize, CenterSquare(rounded_down=True), normalise))


def cut(texts: Sequence[str]) -> int:
    """How many of the texts the tokenizer cuts short; needs no weights."""
    return sum(len(ids) > _TOKENS for ids in _tokenizer()(list(texts), verbose=False).input_ids) if texts else 0


@cache
def _tokenizer() -> Any:
    return clip_tokenizer("<|endoftext|>", _TOKENS)


EXTRACTOR = PickScore
