"""ImageReward (Xu et al., 2023): how much people would like an image of a prompt; about 0 on average.

BLIP reads the prompt with the image beside it (a ViT-L/16 at 224 px whose patches BERT attends to), and a head turns
the state of the first token into a reward, less the mean and over the deviation of the authors' training set. A prompt
is cut to 35 tokens. The authors' package (image-reward 1.5) adds two tokens to BERT's, which no prompt holds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from eval.answers.blip_parts import TOKENIZER, bert_tokenizer, eye_name
from eval.extractors import hps
from eval.extractors.minilm import cut_to
from eval.feed import Preparation
from eval.metric import ImageMetric, Setting
from eval.metrics.aesthetic import Head
from eval.networks import Networks
from eval.preparation import CenterCrop, PilResize
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import fill
from koala.types import Features, Images, Scores

FILE = "image-reward"
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # as the authors' package has them
TOKENS, SIDE = 35, 224
_BATCH = 16
VISION: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": SIDE,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
TEXT: Mapping[str, Any] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "encoder_hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
}
_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102}  # where BERT, uncased, has them


class ImageReward(ImageMetric):
    """The reward of an image for its prompt."""

    higher_is_better = True
    needs_prompts = True
    weights = (FILE, TOKENIZER)
    prepared = Preparation((PilResize(SIDE, "bicubic", shortest=True), CenterCrop(SIDE), *hps.preparation().steps[1:]))

    def settings(self) -> Mapping[str, Setting]:
        """How images are prepared and prompts are cut."""
        return {"resize": str(self.prepared), "tokens": TOKENS}

    def load(self, networks: Networks) -> None:
        """Build BLIP and the head from the authors' file; `Misfit` where it holds another network."""
        from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        file, device = Checkpoint((networks.weights.find(FILE).path,)), networks.device
        with torch.device("meta"):
            vision = BlipVisionModel(BlipVisionConfig(**VISION))
            text = BlipTextModel(BlipTextConfig(**TEXT), add_pooling_layer=False)
            head = Head()
        self._vision: Any = fill(vision, _part(file, "blip.visual_encoder.", eye_name), device)
        self._text: Any = fill(text, _part(file, "blip.text_encoder."), device)
        self._head: Any = fill(head, _part(file, "mlp."), device)
        self._tokenizer = cut_to(bert_tokenizer(networks.weights.find(TOKENIZER).path, _SPECIAL), TOKENS)
        self._device = device

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One reward per image, of its prompt's first 35 tokens."""
        with torch.inference_mode():
            parts = [
                self._batch(images[i : i + _BATCH], prompts[i : i + _BATCH]) for i in range(0, len(prompts), _BATCH)
            ]
        return torch.cat(parts).cpu()

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts have more than 35 tokens."""
        return sum(bool(encoding.overflowing) for encoding in self._tokenizer.encode_batch(list(prompts)))

    def _batch(self, images: Images, prompts: Sequence[str]) -> Scores:
        pixels = self.prepared(images.to(self._device).permute(0, 3, 1, 2))
        patches = self._vision(pixel_values=pixels).last_hidden_state
        encodings = self._tokenizer.encode_batch(list(prompts))
        tokens = torch.tensor([encoding.ids for encoding in encodings], device=self._device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=self._device)
        states = self._text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=self._device),
        ).last_hidden_state
        return (self._head.layers(states[:, 0].float()).squeeze(1) - MEAN) / DEVIATION


def _part(file: Checkpoint, prefix: str, name: Callable[[str], str] = str) -> Renamed:
    """The tensors below `prefix`, as `name` calls them; a table of positions is none."""
    keys = [key for key in file.shapes if key.startswith(prefix) and not key.endswith("position_ids")]
    return Renamed(f"{file}, {prefix}*", {name(key.removeprefix(prefix)): file.tensor(key) for key in keys})


METRIC = ImageReward
