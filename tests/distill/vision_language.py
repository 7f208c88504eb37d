"""Image-text-to-text models of transformers with random weights, in folders as a hub has them, made without one."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
GRID = [[28, 56], [56, 28], [56, 56]]  # so that images of unlike shapes have unlike numbers of tokens
TEMPLATE = (
    "{% for turn in messages %}{{ turn.role | upper }}: {% for part in turn.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    "{{ ' ASSISTANT:' if add_generation_prompt }}"
)
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 32,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 1024,
    "vocab_size": 400,
    "pad_token_id": 3,
}


def byte_tokenizer(size: int = 400) -> PreTrainedTokenizerFast:
    """Reads bytes; the rest of its `size` tokens are words that only a model can write."""
    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = [f"Ġword{i}" for i in range(size - len(symbols))]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate([*symbols, *words])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def llava_processor(side: int = 28, words: int = 400) -> LlavaProcessor:
    """As LLaVA-1.5's, without a chat template."""
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(images, byte_tokenizer(words), 14, "default", num_additional_image_tokens=1)


@torch.no_grad()
def varied(model: nn.Module) -> nn.Module:
    """`model` with matrices that keep the size of what they multiply, so that answers depend on the image."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def write_llava(folder: Path) -> Path:
    """A small LLaVA-1.5."""
    config = LlavaConfig(vision_config=VISION, text_config=TEXT, image_token_index=4)
    varied(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    llava_processor().save_pretrained(folder)
    return folder


def write_llava_next(folder: Path) -> Path:
    """A small LLaVA-NeXT: a chat template, and as many tokens for an image as its shape asks for."""
    config = LlavaNextConfig(vision_config=VISION, text_config=TEXT, image_token_index=4, image_grid_pinpoints=GRID)
    varied(LlavaNextForConditionalGeneration(config)).save_pretrained(folder)
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=GRID
    )
    LlavaNextProcessor(
        images, byte_tokenizer(), 14, "default", chat_template=TEMPLATE, num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder
