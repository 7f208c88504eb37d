"""What a forward costs, counted from its operators on the meta device: no weights, no arithmetic.

Attention counts as the one fused operator that it runs as, not as the products and the softmax behind it.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from koala.models.conditioning import random_condition, size_ids
from koala.models.load import DTYPES
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ClipText, ModelSpec

_META = torch.device("meta")
_aten: Any = torch.ops.aten
# Nothing is read or written: the memory is only reserved.
_FREE = {_aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided, _aten.new_empty_strided}
# Of their first argument, a table, only the rows that come out are read.
_GATHERS = {_aten.embedding, _aten.index, _aten.index_select, _aten.gather}
# What their first argument held before is not read.
_OVERWRITES = {_aten.copy_, _aten.fill_, _aten.zero_}


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (2 a multiply-add), weights, the most activation bytes alive, and bytes moved.

    `moved_bytes` are those of the distinct tensors that each operator reads and of those it writes, in eager mode:
    weights count each time, views are free. Caches may keep part of that traffic away from a GPU's memory.
    """

    params: int
    flops: int
    activation_bytes: int
    moved_bytes: int = 0

    def then(self, later: "Cost") -> "Cost":
        """Both, one after the other; activations of the first are freed before the second."""
        return Cost(
            self.params + later.params,
            self.flops + later.flops,
            max(self.activation_bytes, later.activation_bytes),
            self.moved_bytes + later.moved_bytes,
        )


NOTHING = Cost(0, 0, 0, 0)


@lru_cache(maxsize=256)
def unet_cost(spec: ModelSpec, resolution: int, batch_size: int, dtype: str = "fp16") -> Cost:
    """Cost of one U-Net call on a batch of square images of `resolution` pixels; guidance doubles the batch."""
    unet = _networks(spec, "unet", dtype)["unet"]
    inputs = unet_inputs(spec, resolution, batch_size, DTYPES[dtype], _META)
    return forward_cost(unet, lambda: unet(**inputs, return_dict=False), inputs)


@lru_cache(maxsize=256)
def text_cost(spec: ModelSpec, prompts: int, dtype: str = "fp16") -> Cost:
    """Cost of encoding that many different prompts with all text encoders; nothing where prompts are class labels."""
    total = NOTHING
    if prompts == 0:
        return total
    penultimate = isinstance(spec.conditioning, ClipText) and spec.conditioning.penultimate
    networks = _networks(spec, "text", dtype)
    for encoder, plan in zip(networks.values(), spec.text_encoders, strict=True):
        tokens = torch.zeros(prompts, plan.max_tokens, dtype=torch.long, device=_META)
        total = total.then(_encoder_cost(encoder, tokens, penultimate))
    return total


def _encoder_cost(encoder: nn.Module, tokens: Tensor, penultimate: bool) -> Cost:
    return forward_cost(encoder, lambda: encoder(tokens, output_hidden_states=penultimate), tokens)


@lru_cache(maxsize=256)
def decode_cost(spec: ModelSpec, resolution: int, batch_size: int, dtype: str = "fp16") -> Cost:
    """Cost of decoding a batch of latents to images; nothing for a model in pixel space.

    In fp32 where the rest is fp16 and the autoencoder must be upcast, as `load` has it. All its weights count, those
    of its encoder too, for they are loaded.
    """
    if spec.autoencoder is None:
        return NOTHING
    decodes_in = "fp32" if dtype == "fp16" and spec.autoencoder.upcast_to_fp32 else dtype
    autoencoder: Any = _networks(spec, "autoencoder", decodes_in)["autoencoder"]
    side = resolution // spec.downscale
    shape = (batch_size, spec.unet.sample_channels, side, side)
    latents = torch.empty(shape, dtype=DTYPES[decodes_in], device=_META)
    return forward_cost(autoencoder, lambda: autoencoder.decode(latents, return_dict=False), latents)


def image_cost(spec: ModelSpec, resolution: int, batch_size: int, dtype: str, unet_calls: int) -> Cost:
    """Cost of one pipeline call, prompt to a batch of images that share it; scheduler and guidance are left out.

    `unet_calls` says how often each image goes through the U-Net, twice a step where the recipe is guided. The prompt
    is encoded once, and so is what guidance contrasts it with, unless that is zeros.
    """
    rows = 2 if spec.recipe.guided else 1
    step = unet_cost(spec, resolution, batch_size * rows, dtype)
    denoise = Cost(
        step.params,
        step.flops * unet_calls // rows,
        step.activation_bytes,
        step.moved_bytes * unet_calls // rows,
    )
    text = text_cost(spec, _prompts(spec), dtype)
    return text.then(denoise).then(decode_cost(spec, resolution, batch_size, dtype))


def _networks(spec: ModelSpec, part: str, dtype: str) -> dict[str, nn.Module]:
    """The networks as `load` has them: without gradients, on which torch's choice of operators depends."""
    networks = meta_networks(spec, (part,), DTYPES[dtype])
    return {name: network.requires_grad_(False) for name, network in networks.items()}


def _prompts(spec: ModelSpec) -> int:
    """Texts that a call with one prompt encodes."""
    recipe = spec.recipe
    zeros = isinstance(spec.conditioning, ClipText) and spec.conditioning.zero_unconditional
    return 2 if recipe.guided and not (zeros and recipe.negative is None) else 1


def unet_inputs(spec: ModelSpec, resolution: int, batch_size: int, dtype: torch.dtype, device: torch.device) -> dict:
    """Arguments of a U-Net call of the right shapes: random latents and conditioning, the last timestep."""
    side = resolution // spec.downscale
    sizes = size_ids((resolution, resolution), None, (0, 0), batch_size).to(device, dtype)
    return {
        "sample": torch.randn(batch_size, spec.unet.sample_channels, side, side, device=device).to(dtype),
        "timestep": torch.tensor(999, device=device),
        **random_condition(spec, batch_size, dtype, device).unet_arguments(sizes),
    }


def forward_cost(network: nn.Module, forward: Callable[[], object], inputs: object) -> Cost:
    """Cost of `forward`, which runs `network` on `inputs` (any nest of tensors), best on the meta device."""
    flops = FlopCounterMode(display=False)
    traffic = Traffic(network, inputs)
    attention = _FusedAttention(traffic)
    with torch.inference_mode(False), torch.no_grad(), traffic, flops, attention:
        forward()
    return Cost(
        count_params(network), flops.get_total_flops() + attention.flops, traffic.peak_bytes, traffic.moved_bytes
    )


class _FusedAttention(TorchFunctionMode):
    """Takes attention as one operator: reads q, k, v and mask, writes its output, and computes two products."""

    def __init__(self, traffic: "Traffic") -> None:
        super().__init__()
        self._traffic = traffic
        self.flops = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        out = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        self._traffic.move([query, key, value, attn_mask], [out])
        self.flops += sdpa_flop_count(query.shape, key.shape, value.shape)
        return out


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operators read and write, and follows every storage they make until it is freed.

    Weights are read but make nobody's activations.
    """

    def __init__(self, network: nn.Module, inputs: object) -> None:
        super().__init__()
        self._weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
        self._alive: dict[int, int] = {}
        self._now = 0
        self.peak_bytes = 0
        self.moved_bytes = 0
        for tensor in _tensors(inputs):
            self._follow(tensor.untyped_storage())

    def move(self, reads: object, writes: object) -> None:
        """Count the distinct tensors read and those written; what is read and written counts twice."""
        for side in (reads, writes):
            self.moved_bytes += sum({_place(tensor): _bytes(tensor) for tensor in _tensors(side)}.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._follow(tensor.untyped_storage())
        kind = func.overloadpacket
        if kind not in _FREE and not _is_view(func, (args, kwargs), out):
            reads: object = (args, kwargs)
            if kind in _GATHERS:
                reads = (args[1:], kwargs, out)
            elif kind in _OVERWRITES:
                reads = (args[1:], kwargs)
            self.move(reads, out)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive and key not in self._weights:
            self._alive[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._alive.pop(key)


def _tensors(nest: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]


def _is_view(func: Any, inputs: object, out: object) -> bool:
    """Whether an operator gives nothing but other looks at its inputs' memory."""
    if func._schema.is_mutable:
        return False
    known = {tensor.untyped_storage()._cdata for tensor in _tensors(inputs)}
    return all(tensor.untyped_storage()._cdata in known for tensor in _tensors(out))


def _place(tensor: Tensor) -> tuple:
    """What tells the memory of one tensor from another's."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def _bytes(tensor: Tensor) -> int:
    """Bytes of the different elements of a tensor; those of an expanded dimension are the same ones."""
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride or not length else 1
    return elements * tensor.element_size()
