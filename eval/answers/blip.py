"""BLIP as T2I-CompBench asks it (Li et al., 2022): how sure it is that the answer to a question is yes, not no.

The authors' file `model_base_vqa_capfilt_large.pth` at the 480 pixels it was tuned at: a ViT-B/16, a BERT that reads
the question with the patches beside it, and one that answers. The hub's copy of these weights (Salesforce/
blip-vqa-capfilt-large) was brought to 384 pixels when it was converted, which changes its table of positions: it does
not fit here. LayerNorms of the eye have the authors' 1e-6, where transformers' default is 1e-5.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from eval.extractors import hps
from eval.feed import Preparation
from eval.preparation import PilResize
from koala.errors import KoalaError
from koala.models.weights.checkpoint import Renamed
from koala.models.weights.fill import fill
from koala.types import Images

Answers: TypeAlias = Float[Tensor, "questions"]  # noqa: F821 - jaxtyping reads the name of an axis

FILE, TOKENIZER = "blip-vqa-capfilt-large", "minilm-tokenizer"  # MiniLM's tokenizer is that of BERT, uncased
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
# The authors' names of the eye's tensors (timm's), and those of transformers
_NAMES = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)
_SPECIAL = {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, "no": _NO, "yes": _YES}  # where BERT, uncased, has them


class Blip:
    """The network and its tokenizer, in fp32."""

    def __init__(self, file: Path, tokenizer: Path, device: torch.device):
        """Build it from the authors' file; `Misfit` where that holds another network."""
        from transformers import BlipConfig, BlipForQuestionAnswering

        with torch.device("meta"):
            skeleton = BlipForQuestionAnswering(BlipConfig(text_config=dict(TEXT), vision_config=dict(VISION)))
        self._network: Any = fill(skeleton, Renamed(str(file), _tensors(file)), device)
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


def _tensors(path: Path) -> dict[str, Tensor]:
    """The authors' tensors, which lie below "model" in their file, under the names of transformers."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise KoalaError(f"{path} is not a whole torch checkpoint of tensors ({reason}); fetch it again") from error
    tensors = found.get("model") if isinstance(found, Mapping) else None
    if not isinstance(tensors, Mapping):
        raise KoalaError(f'{path} holds no tensors below "model", as the authors\' file does')
    named = {key: tensor for key, tensor in tensors.items() if isinstance(tensor, Tensor)}
    return {_name(key): tensor for key, tensor in named.items() if not key.endswith("position_ids")}


def _name(key: str) -> str:
    for old, new in _NAMES:
        key = re.sub(old, new, key)
    return key


def _tokenizer(path: Path) -> Any:
    """The file's tokenizer, which cuts a question to 35 tokens; a `KoalaError` where it is none with BERT's tokens."""
    from tokenizers import Tokenizer

    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        odd = [word for word, token in _SPECIAL.items() if vocabulary[word] != token]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KoalaError(f"{path} is no tokenizer with BERT's tokens ({type(error).__name__}: {error})") from error
    if odd:
        raise KoalaError(f"{path} is no tokenizer with BERT's tokens: others stand for {', '.join(odd)}")
    made = Tokenizer.from_file(str(path))
    made.no_padding()
    made.enable_truncation(TOKENS)
    return made
