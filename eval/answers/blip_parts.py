"""What all networks of BLIP's authors share: how they name the tensors of the eye, and BERT's tokenizer."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from koala.errors import KoalaError

TOKENIZER = "minilm-tokenizer"  # MiniLM's tokenizer is that of BERT, uncased
# timm's names of a vision transformer's tensors, and those of transformers
_EYE = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


def eye_name(key: str) -> str:
    """What transformers calls a tensor of the eye."""
    for old, new in _EYE:
        key = re.sub(old, new, key)
    return key


def bert_tokenizer(path: Path, expected: Mapping[str, int]) -> Any:
    """The file's tokenizer; a `KoalaError` where it is none that has those words of BERT's at their places."""
    from tokenizers import Tokenizer

    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        odd = [word for word, token in expected.items() if vocabulary[word] != token]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KoalaError(f"{path} is no tokenizer with BERT's tokens ({type(error).__name__}: {error})") from error
    if odd:
        raise KoalaError(f"{path} is no tokenizer with BERT's tokens: others stand for {', '.join(odd)}")
    return Tokenizer.from_file(str(path))
