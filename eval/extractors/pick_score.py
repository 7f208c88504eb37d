"""PickScore's network (Kirstain et al., 2023): CLIP ViT-H-14 as transformers has it, tuned on people's choices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eval.extractor import Extractor
from eval.extractors.clip import Clip
from eval.extractors.hps import MODEL, ROOTS
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fill
from koala.types import Features, FloatImages

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
        self._tokenizer = Clip(MODEL, ROOTS).tokenizer  # its own is the same, and is on the hub

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
        tokens = self._tokenizer(list(texts)).to(self._device)
        # padded with 0 where its own pads with the end's token: what follows the end is not looked at
        states = self._network.text_model(input_ids=tokens).pooler_output
        return self._network.text_projection(states).float()


EXTRACTOR = PickScore
