"""DINOv2 ViT-L/14 (Oquab et al., 2023): the class token after the last norm, 1024 numbers."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.extractor import Extractor
from eval.feed import Feed, Preparation
from eval.preparation import Normalise, PilResize
from koala.models.weights.checkpoint import Checkpoint, Renamed, Tensors
from koala.models.weights.fill import fill
from koala.types import Features, FloatImages

NORMALISE = Normalise(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
# As dgm-eval, the code of Stein et al. (2023), does unless told otherwise: Pillow's bicubic on bytes, to a square.
SIDE = 224
FEED = Feed(Preparation((PilResize(SIDE, "bicubic"), NORMALISE)), "dinov2")

_PATCH = 14
_POSITIONS = "embeddings.position_embeddings"
# What the releases of transformers call the parts of an attention; files have the older names, networks either.
_NEW_NAMES = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}
_OLD = re.compile("|".join(map(re.escape, _NEW_NAMES)))


class Dinov2(Extractor):
    """The network of transformers; its weights as in the repository facebook/dinov2-large."""

    weights: tuple[str, ...] = ("dinov2-large",)
    dim = 1024
    layers, heads = 24, 16

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        from transformers import Dinov2Config, Dinov2Model

        config = Dinov2Config(
            hidden_size=self.dim,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            image_size=SIDE,
            patch_size=_PATCH,
            use_mask_token=False,  # it is read in training only
        )
        with torch.device("meta"):
            skeleton = Dinov2Model(config).to(dtype)
        own = {_new_name(key): key for key in skeleton.state_dict()}
        found = self.tensors(files[self.weights[0]])
        tensors = {
            own.get(_new_name(key), key): found.tensor(key) for key in found.shapes if key != "embeddings.mask_token"
        }
        if _POSITIONS in tensors:
            tensors[_POSITIONS] = self._resampled(tensors[_POSITIONS])
        self._network = fill(skeleton, Renamed(str(found), tensors), device)
        self._device, self._dtype = device, dtype

    def tensors(self, path: Path) -> Tensors:
        """The file's tensors, named as transformers names them or used to."""
        return Checkpoint((path,))

    def resample(self, table: Tensor, side: int) -> Tensor:
        """A table of positions (1 d h w) for `side` patches a side, as Meta's own code and so dgm-eval makes it.

        It aims 0.1 patches too far, against rounding, where transformers does not: facebookresearch/dino issue 8.
        """
        return F.interpolate(table, scale_factor=(side + 0.1) / table.shape[-1], mode="bicubic")

    def features(self, images: FloatImages) -> Features:
        """The class token, normalised by the last layer norm."""
        return self._network(images.to(self._device, self._dtype)).pooler_output.float()

    def _resampled(self, positions: Tensor) -> Tensor:
        """The positions of images of `SIDE` pixels, from those of the images that the network was trained on."""
        own, patches = positions.float().split([1, positions.shape[1] - 1], dim=1)
        table = patches.mT.unflatten(2, 2 * (math.isqrt(patches.shape[1]),))
        return torch.cat([own, self.resample(table, SIDE // _PATCH).flatten(2).mT], dim=1)


def _new_name(key: str) -> str:
    return _OLD.sub(lambda old: _NEW_NAMES[old.group()], key)


EXTRACTOR = Dinov2
