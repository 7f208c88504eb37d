"""BLIP as T2I-CompBench asks it (Li et al., 2022): how sure it is that the answer to a question is yes, not no.

The authors' file `model_base_vqa_capfilt_large.pth` at the 480 pixels it was tuned at: a ViT-B/16, a BERT that reads
the question with the patches beside it, and one that answers. The hub's copy of these weights (Salesforce/
blip-vqa-capfilt-large) was brought to 384 pixels when it was converted, which changes its table of positions: it does
not fit here. LayerNorms of the eye have the authors' 1e-6, where transformers' default is 1e-5.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from eval.answers.blip_parts import bert_tokenizer, eye_name
from eval.extractors import hps
from eval.feed import Preparation
from eval.preparation import PilResize
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import fill
from koala.types import Images

Answers: TypeAlias = Float[Tensor, "questions"]  # noqa: F821 - jaxtyping reads the name of an axis

FILE = "blip-vqa-capfilt-large"
_EYE = "visual_encoder."
SIDE, TOKENS = 480, 35
PREPARED = Preparation((PilResize(SIDE, "bicubic"), hps.preparation().steps[-1]))  # CLIP's mean and deviation
_ASKED, _ANSWER = 30_523, 30_522  # what begins a question, what begins an answer: added after BERT's tokens
_YES, _NO = 2_748, 2_053  # BERT's
_QUESTIONS = 16  # asked at once
VISION: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": SIDE,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
TEXT: Mapping[str, Any] = {
    "vocab_size": 30_524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
}
_SPECIAL = {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, "no": _NO, "yes": _YES}  # where BERT, uncased, has them


class Blip:
    """The network and its tokenizer, in fp32."""

    def __init__(self, file: Path, tokenizer: Path, device: torch.device):
        """Build it from the authors' file; `Misfit` where that holds another network."""
        from transformers import BlipConfig, BlipForQuestionAnswering

        with torch.device("meta"):
            skeleton = BlipForQuestionAnswering(BlipConfig(text_config=dict(TEXT), vision_config=dict(VISION)))
        self._network: Any = fill(skeleton, _tensors(file), device)
        self._tokenizer, self._device = _tokenizer(tokenizer), device

    def yes(self, images: Images, places: Sequence[int], questions: Sequence[str]) -> Answers:
        """P(yes) / (P(yes) + P(no)) for each question, which is asked about `images[place]`; on the CPU."""
        answers = torch.zeros(len(questions))
        if not questions:
            return answers
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(questions))]
        with torch.inference_mode():
            pixels = PREPARED(images.to(self._device).permute(0, 3, 1, 2))
            patches = self._network.vision_model(pixel_values=pixels).last_hidden_state
            for which in _of_one_length(tokens):
                seen = patches[[places[i] for i in which]]
                answers[which] = self._ask(seen, [tokens[i] for i in which]).cpu()
        return answers

    def _ask(self, patches: Tensor, tokens: Sequence[Sequence[int]]) -> Answers:
        read = self._network.text_encoder(
            input_ids=torch.tensor([[_ASKED, *one[1:]] for one in tokens], device=self._device),
            encoder_hidden_states=patches,
        )
        logits = self._network.text_decoder(
            input_ids=torch.full((len(tokens), 1), _ANSWER, device=self._device),
            encoder_hidden_states=read.last_hidden_state,
            use_cache=False,
        ).logits[:, 0]
        return torch.sigmoid(logits[:, _YES] - logits[:, _NO])


def _of_one_length(tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of questions that are asked at once: they need no padding, whose mask transformers' decoder ignores."""
    by_length: dict[int, list[int]] = {}
    for place, one in enumerate(tokens):
        by_length.setdefault(len(one), []).append(place)
    return [found[i : i + _QUESTIONS] for found in by_length.values() for i in range(0, len(found), _QUESTIONS)]


def _tensors(path: Path) -> Renamed:
    """The authors' tensors under the names of transformers; a table of positions is none."""
    file = Checkpoint([path])
    return Renamed(str(path), {_name(key): file.tensor(key) for key in file.shapes if not key.endswith("position_ids")})


def _name(key: str) -> str:
    return f"vision_model.{eye_name(key.removeprefix(_EYE))}" if key.startswith(_EYE) else key


def _tokenizer(path: Path) -> Any:
    """BERT's tokenizer, which cuts a question to 35 tokens."""
    made = bert_tokenizer(path, _SPECIAL)
    made.no_padding()
    made.enable_truncation(TOKENS)
    return made
