"""A network's tensors out of a checkpoint, strictly: every tensor is there, none is left over, all shapes agree."""

import re
from collections.abc import Mapping

import torch
from torch import nn

from koala.errors import KoalaError, first_few
from koala.models.weights.checkpoint import Tensors

# What older releases of transformers and diffusers called a tensor, tried in this order where a name is unknown.
_OLD_NAMES = (
    (r"^text_model\.", ""),
    (r"^", "text_model."),
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out.0."),
)
_NOT_WEIGHTS = re.compile(r".*\bposition_ids$")  # a table of positions that older releases saved

Shapes = Mapping[str, tuple[int, ...]]


class Misfit(KoalaError):
    """A checkpoint that is not the network's."""


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the network's state dict."""
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


@torch.no_grad()
def fill(skeleton: nn.Module, checkpoint: Tensors, device: torch.device | str) -> nn.Module:
    """`skeleton`, built on the meta device, with the checkpoint's tensors in its own dtype, for inference.

    Tensors are copied one by one. `Misfit` says what differs.
    """
    names = fit(skeleton, checkpoint)
    network = skeleton.to_empty(device=device).eval().requires_grad_(False)
    targets = network.state_dict()
    for theirs, ours in names.items():
        tensor = checkpoint.tensor(theirs)
        if not tensor.is_floating_point():
            raise KoalaError(f"{checkpoint}: {theirs} is {tensor.dtype}; quantised weights are not read")
        targets[ours].copy_(tensor)
    restore_buffers(network)
    return network


def restore_buffers(module: nn.Module) -> None:
    """Fill the buffers that no checkpoint holds: tables of positions, and BERT's of which sentence it is."""
    for name, buffer in module.named_buffers():
        if name.endswith("token_type_ids"):
            buffer.zero_()
            continue
        assert name.endswith("position_ids"), f"no rule restores the buffer {name}"
        buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand_as(buffer))


def fit(network: nn.Module, checkpoint: Tensors) -> dict[str, str]:
    """A checkpoint's name -> the network's name, for all tensors of both; `Misfit` says what differs."""
    own = shapes_of(network)
    names = own_names(own, checkpoint.shapes)
    if wrong := difference(own, {names.get(key, key): shape for key, shape in checkpoint.shapes.items()}):
        raise Misfit(f"{checkpoint} does not fit: {wrong}")
    return names


def own_names(own: Shapes, found: Shapes) -> dict[str, str]:
    """A checkpoint's name -> the network's name, for every tensor that the network has."""
    names = {key: key for key in found if key in own}
    taken = set(names)
    for key in found:
        now = _renamed(key, own)
        if key not in names and now is not None and now not in taken:
            names[key] = now
            taken.add(now)
    return names


def difference(own: Shapes, found: Shapes) -> str:
    """What `found` lacks, has too much, or has in other shapes, counted and the first ones named; empty if nothing."""
    missing = [key for key in own if key not in found]
    unexpected = [key for key in found if key not in own and not _NOT_WEIGHTS.match(key)]
    reshaped = [
        f"{key} {found[key]}, not {shape}" for key, shape in own.items() if key in found and found[key] != shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(
        f"{len(keys)} tensor{'s are' if len(keys) > 1 else ' is'} {kind}: {first_few(keys)}"
        for kind, keys in kinds.items()
        if keys
    )


def _renamed(key: str, own: Shapes) -> str | None:
    for old, new in _OLD_NAMES:
        if (name := re.sub(old, new, key, count=1)) in own:
            return name
    return None
