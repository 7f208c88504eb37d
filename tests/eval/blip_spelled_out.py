"""ImageReward's network in plain torch, with the names that the authors' checkpoint has: what ours is held against.

The parts and their order are those of image-reward 1.5: timm's vision transformer, and a BERT whose every layer attends
to the patches after it has attended to the words.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def attend(query, key, value, heads, mask=None):
    """Attention of every head, one after the other; `mask` is True where a key counts."""
    out = []
    for q, k, v in zip(*(part.chunk(heads, dim=-1) for part in (query, key, value)), strict=True):
        logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, :], -10_000.0)
        out.append(logits.softmax(dim=-1) @ v)
    return torch.cat(out, dim=-1)


class Block(nn.Module):
    """A block of the eye, norms first."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        x = x + self.attn["proj"](attend(*self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1), self.heads))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Eye(nn.Module):
    """Patches of 16 pixels with the class token before them."""

    def __init__(self, width, layers, heads):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, 16)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 14 * 14 + 1, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels):
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _dense_and_norm(before, width):
    return nn.ModuleDict({"dense": nn.Linear(before, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})


def _add(parts, x, before):
    return parts["LayerNorm"](parts["dense"](x) + before)


class Attention(nn.Module):
    """Attention of words to words, or to patches of another width."""

    def __init__(self, width, other, heads):
        super().__init__()
        self.heads = heads
        sizes = {"query": width, "key": other, "value": other}
        self.self = nn.ModuleDict({name: nn.Linear(size, width) for name, size in sizes.items()})
        self.output = _dense_and_norm(width, width)

    def forward(self, x, other, mask=None):
        seen = attend(self.self["query"](x), self.self["key"](other), self.self["value"](other), self.heads, mask)
        return _add(self.output, seen, x)


class Layer(nn.Module):
    """A layer of the reader, norms last."""

    def __init__(self, width, other, heads):
        super().__init__()
        self.attention, self.crossattention = Attention(width, width, heads), Attention(width, other, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = _dense_and_norm(4 * width, width)

    def forward(self, x, mask, patches):
        x = self.crossattention(self.attention(x, x, mask), patches)
        return _add(self.output, F.gelu(self.intermediate["dense"](x)), x)


class Reader(nn.Module):
    """BERT without kinds of tokens."""

    def __init__(self, words, width, layers, heads, other):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(words, width)
        self.embeddings.position_embeddings = nn.Embedding(512, width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(512, device="cpu").expand(1, -1))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([Layer(width, other, heads) for _ in range(layers)])})

    def forward(self, ids, patches):
        places = self.embeddings.position_embeddings.weight[: ids.shape[1]]
        x = self.embeddings.LayerNorm(self.embeddings.word_embeddings(ids) + places)
        for layer in self.encoder["layer"]:
            x = layer(x, ids != 0, patches)
        return x


class Reward(nn.Module):
    """Eye, reader and head; the two projections are in the checkpoint and in no reward."""

    def __init__(self, eye, reader):
        super().__init__()
        width = reader[1]
        self.blip = nn.ModuleDict({"visual_encoder": Eye(*eye), "text_encoder": Reader(*reader, eye[0])})
        self.blip["vision_proj"], self.blip["text_proj"] = nn.Linear(eye[0], 256), nn.Linear(width, 256)
        sizes = (width, 1024, 128, 64, 16, 1)
        linear = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        places = (0, 2, 4, 6, 7)  # dropouts are between
        self.mlp = nn.ModuleDict({"layers": nn.ModuleDict(dict(zip(map(str, places), linear, strict=True)))})

    def forward(self, pixels, ids):
        """One reward per image: the head's value less the training set's mean, over its deviation."""
        x = self.blip["text_encoder"](ids, self.blip["visual_encoder"](pixels))[:, 0]
        for linear in self.mlp["layers"].values():
            x = linear(x)
        return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072
