"""Two heads of two layers that put images and texts into one space, and how they are trained (CLIP's loss)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from koala.types import Features

WIDTH, JOINT = 256, 128
_FIRST, _LARGEST = math.log(1 / 0.07), math.log(100.0)  # of the logarithm of the scale, as CLIP has them
_LR, _DECAY, _WARM = 3e-3, 0.1, 0.05
_DROPPED = 0.2
BATCH = 256


class Head(nn.Module):
    """From frozen features to the joint space, length 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, WIDTH)
        self.last = nn.Linear(WIDTH, JOINT)

    def forward(self, features: Features) -> Float[Tensor, "n joint"]:
        """One row of length 1 a row of features."""
        inside = F.dropout(F.gelu(self.first(self.norm(features))), _DROPPED, self.training)
        return F.normalize(self.last(inside), dim=1)


class Heads(nn.Module):
    """A head of images, a head of texts and the learnt scale of their cosines."""

    def __init__(self, image_dim: int, text_dim: int):
        super().__init__()
        self.image, self.text = Head(image_dim), Head(text_dim)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST))


def info_nce(images: Features, texts: Features, scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The symmetric contrastive loss of n pairs (Radford et al., 2021, figure 3): row i of both is one pair."""
    logits = scale * images @ texts.T
    pairs = torch.arange(len(logits))
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


@dataclass(frozen=True)
class Pairs:
    """What is learnt from: features of images as they are seen at several sizes, and of texts, by captions of each."""

    images: Float[Tensor, "sizes n d"]
    texts: Float[Tensor, "m e"]
    captions: Sequence[Sequence[int]]  # of each image, places in `texts`

    def batch(self, size: int, random: torch.Generator) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b e"]]:
        """Some of the images, each at a size and with a caption drawn by lot."""
        chosen = torch.randperm(len(self.captions), generator=random)[:size]
        lots = torch.rand(2, len(chosen), generator=random)
        seen = self.images[(lots[0] * len(self.images)).long(), chosen]
        said = [self.captions[i][int(lot * len(self.captions[i]))] for i, lot in zip(chosen, lots[1], strict=True)]
        return seen, self.texts[said]


def trained(pairs: Pairs, steps: int, seed: int, progress: Callable[[int], None] = lambda step: None) -> Heads:
    """Heads trained on a CPU for so many steps; one seed, one result."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(pairs.images.shape[2], pairs.texts.shape[1]).train()
        adam = torch.optim.AdamW(heads.parameters(), _LR, weight_decay=_DECAY)
        for step in range(steps):
            adam.param_groups[0]["lr"] = _LR * rate(step, steps)
            seen, said = pairs.batch(BATCH, random)
            loss = info_nce(heads.image(seen), heads.text(said), heads.log_scale.clamp(max=_LARGEST).exp())
            adam.zero_grad()
            loss.backward()
            adam.step()
            progress(step + 1)
    return heads.eval().requires_grad_(False)


def rate(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a short ascent, then half a cosine down to none."""
    warm = max(1, round(_WARM * steps))
    return min((step + 1) / warm, (1 + math.cos(math.pi * step / steps)) / 2)
