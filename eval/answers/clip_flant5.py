"""CLIP-FlanT5 XL (Lin et al., 2024): how likely it is to answer yes to whether an image shows a text.

CLIP's ViT-L/14 at 336 pixels sees the image; two linear layers bring its 576 patches, as they are before the last
block, to where T5 XL has words. The file is that of the hub (zhiqiulin/clip-flant5-xl): all three parts in bf16, which
is what the authors' package (t2v_metrics) computes in. That package drops the 28 rows of T5's table that stand for no
token.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.extractors import hps
from eval.feed import Preparation
from eval.preparation import PilResize, UInt8Images
from koala.errors import KoalaError
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import fill
from koala.types import Images, Scores

FILE, TOKENIZER = "clip-flant5-xl", "flan-t5-tokenizer"
SYSTEM = (  # Vicuna's, which CLIP-FlanT5 was tuned with
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "Yes"
TOKENS, SIDE = 2048, 336
VISION: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": SIDE,
    "patch_size": 14,
}
TEXT: Mapping[str, Any] = {
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,  # which also says that the last states are not scaled
}
_EYE, _PROJECTOR = "vision_tower.vision_tower.vision_model.", "mm_projector."
_TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight")
_END, _EXTRA = 1, 100  # T5's end of a text; its marks for what was left out, which its file of pieces does not have


@dataclass(frozen=True)
class SquareOf:
    """The whole image in the middle of a square of one colour, as wide as its longest side."""

    colour: tuple[int, int, int]

    def __call__(self, images: UInt8Images) -> UInt8Images:
        """Square images; those that are square as they are."""
        height, width = images.shape[2:]
        side = max(height, width)
        square = torch.tensor(self.colour, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
        square = square.repeat(len(images), 1, side, side)
        top, left = (side - height) // 2, (side - width) // 2
        square[:, :, top : top + height, left : left + width] = images
        return square

    def __str__(self) -> str:
        return "a square of {}, {}, {} around the image".format(*self.colour)


# 255 x CLIP's mean, cut to whole numbers, and CLIP's mean and deviation
PREPARED = Preparation((SquareOf((122, 116, 104)), PilResize(SIDE, "bicubic"), hps.preparation().steps[-1]))


class ClipFlanT5:
    """Eye, projector and T5 in one dtype; the authors' is bf16."""

    def __init__(self, file: Path, tokenizer: Path, device: torch.device, dtype: torch.dtype = torch.bfloat16):
        """Fill the three from one file; `Misfit` where it holds another network."""
        checkpoint = Checkpoint([file])
        self._pieces = _pieces(tokenizer)
        self._known = self._pieces.get_piece_size() + _EXTRA
        self._eye: Any = fill(_eye().to(dtype), _part(checkpoint, _EYE), device)
        self._projector = fill(_projector().to(dtype), _part(checkpoint, _PROJECTOR), device)
        self._t5: Any = fill(_t5(checkpoint).to(dtype), _language(checkpoint), device)
        self._device, self._dtype = device, dtype

    def yes(self, images: Images, prompts: Sequence[str]) -> Scores:
        """The chance of "Yes" and the end of the answer, the geometric mean of the two; on the CPU."""
        with torch.inference_mode(), self._precision():
            embedded, mask = self._inputs(images, prompts)
            answer = torch.tensor([self._tokens(ANSWER)], device=self._device).expand(len(prompts), -1)
            begun = F.pad(answer[:, :-1], (1, 0), value=0)
            logits = self._t5(
                inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=begun, use_cache=False
            ).logits[:, :, : self._known]
            chances = logits.float().log_softmax(dim=2).gather(2, answer.unsqueeze(2))
        return chances.squeeze(2).mean(dim=1).exp().cpu()

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts make a question of more than 2048 tokens."""
        room = TOKENS - len(self._tokens(_before())) - 1
        return sum(len(self._tokens(_after(prompt))) > room for prompt in prompts)

    def _precision(self) -> AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)  # as the authors compute: softmax and norms stay in fp32

    def _inputs(self, images: Images, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What T5 reads, n x tokens x width: what comes before the image, its patches, the question; and its mask."""
        pixels = PREPARED(images.to(self._device).permute(0, 3, 1, 2)).to(self._dtype)
        seen = self._eye(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        patches = self._projector(seen).to(self._dtype)
        before = self._tokens(_before())
        after = [self._tokens(_after(prompt))[: TOKENS - len(before) - 1] for prompt in prompts]  # an image counts 1
        longest = max(map(len, after))
        words = torch.tensor([[*before, *one, *[0] * (longest - len(one))] for one in after], device=self._device)
        embedded = self._t5.shared(words)
        parts = (embedded[:, : len(before)], patches, embedded[:, len(before) :])
        mask = torch.ones(len(prompts), len(before) + patches.shape[1] + longest, device=self._device)
        for row, one in zip(mask, after, strict=True):
            row[len(row) - longest + len(one) :] = 0
        return torch.cat(parts, dim=1), mask.long()

    def _tokens(self, text: str) -> list[int]:
        return [*self._pieces.encode(text), _END]


def _before() -> str:
    return f"{SYSTEM} USER: "


def _after(prompt: str) -> str:
    return f"\n{QUESTION.format(prompt)} ASSISTANT: "


def _eye() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        return CLIPVisionModel(CLIPVisionConfig(**VISION))


def _projector() -> nn.Module:
    width, wanted = VISION["hidden_size"], TEXT["d_model"]
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(width, wanted), nn.GELU(), nn.Linear(wanted, wanted))


def _t5(checkpoint: Checkpoint) -> nn.Module:
    """T5 with as many rows in its table as the file has, and a last layer of its own: transformers 5 ties the two."""
    from transformers import T5Config, T5ForConditionalGeneration

    rows = checkpoint.shapes.get("lm_head.weight", (32_128,))[0]
    with torch.device("meta"):
        network = T5ForConditionalGeneration(T5Config(vocab_size=rows, **TEXT))
        network.lm_head = nn.Linear(TEXT["d_model"], rows, bias=False)
    network.encoder.embed_tokens = network.decoder.embed_tokens = network.shared
    return network


def _part(checkpoint: Checkpoint, prefix: str) -> Renamed:
    """The tensors below `prefix`."""
    found = {key.removeprefix(prefix): checkpoint.tensor(key) for key in checkpoint.shapes if key.startswith(prefix)}
    return Renamed(f"{checkpoint}, {prefix}*", found)


def _language(checkpoint: Checkpoint) -> Renamed:
    """All other tensors: T5's. Its table is one tensor, whichever of its names the file has."""
    rest = [key for key in checkpoint.shapes if not key.startswith((_EYE, _PROJECTOR)) and key not in _TABLES]
    found = {key: checkpoint.tensor(key) for key in rest}
    if table := next((key for key in _TABLES if key in checkpoint.shapes), None):
        found |= dict.fromkeys(_TABLES[:3], checkpoint.tensor(table))
    return Renamed(f"{checkpoint}, T5", found)


def _pieces(path: Path) -> Any:
    """The SentencePiece model at `path`; a `KoalaError` where there is none, or not with T5's end of a text."""
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise KoalaError(f"{path} is no SentencePiece model; fetch it again") from error
    if pieces.piece_to_id("</s>") != _END or pieces.piece_to_id("<pad>") != 0:
        raise KoalaError(f"{path} is no SentencePiece model of T5, whose first pieces are <pad> and </s>")
    return pieces
