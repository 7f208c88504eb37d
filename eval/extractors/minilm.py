"""all-MiniLM-L6-v2, a sentence encoder (Reimers and Gurevych, 2019): 384 numbers of length 1 a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from eval.extractor import TextExtractor
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fit
from koala.types import Features

_MOST_TOKENS = 256  # its sentence_bert_config.json; a longer text is cut
_BATCH = 64


class MiniLm(TextExtractor):
    """The BERT of transformers, its last states averaged over a text's tokens."""

    weights = ("minilm", "minilm-tokenizer")
    dim = 384

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the encoder and its tokenizer; `Misfit` where the file holds another network."""
        from transformers import BertConfig, BertModel

        network = BertModel(
            BertConfig(hidden_size=self.dim, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        )
        checkpoint = Checkpoint((files["minilm"],))
        names = fit(network, checkpoint)
        network.load_state_dict({ours: checkpoint.tensor(theirs) for theirs, ours in names.items()})
        self._network = network.eval().requires_grad_(False).to(device, dtype)
        self._tokenizer, self._device = _tokenizer(files["minilm-tokenizer"]), device

    def texts(self, texts: Sequence[str]) -> Features:
        """fp32 features of length 1, on the network's device."""
        parts = [self._batch(list(texts[start : start + _BATCH])) for start in range(0, len(texts), _BATCH)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self._device)

    def _batch(self, texts: list[str]) -> Features:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt")
        tokens = tokens.to(self._device)
        states = self._network(**tokens).last_hidden_state.float()
        real = tokens["attention_mask"].unsqueeze(-1).float()
        return F.normalize((states * real).sum(dim=1) / real.sum(dim=1), dim=1)


def cut(texts: Sequence[str], tokenizer: Path) -> int:
    """How many of the texts are longer than what is read of them."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_truncation()
    long = [text for text in texts if len(text) > _MOST_TOKENS - 2]  # a token has at least one character
    return sum(len(encoding.ids) > _MOST_TOKENS for encoding in encoder.encode_batch(long))


def cut_to(tokenizer: Any, tokens: int) -> Any:
    """The tokenizer, which from now on cuts and pads every text to so many tokens."""
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=0, pad_token="[PAD]")
    return tokenizer


def _tokenizer(path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]")


EXTRACTOR = MiniLm
