"""Named speed and memory profiles: what each changes, saves and costs. `compiled+tiny-vae` is two of them together.

Importing this file imports no torch: the parent of a sweep knows profiles by name.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from koala.errors import KoalaError, UnknownName
from koala.models.spec import AutoencoderPlan, HubFile, ModelSpec, PatchPlan, TinyAutoencoderPlan

TAESD_CHANNELS = (64, 64, 64, 64)
JOIN = "+"
_TILE_PX = 512  # diffusers' own tile is the whole image at a model's native size


def _same(anything: Any) -> Any:
    return anything


def _no_obstacle(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    return None


@dataclass(frozen=True)
class Profile:
    """A way to run a model: `respec` before its weights are loaded, `tune` once they are.

    `obstacle(spec, device, dtype)` is why it cannot work there, or None. `storage` is where weights are loaded, and
    wait until they run unless `tune` moves them; None: on the device. `settles_after` calls, times are steady.
    `packages` do the work beside torch and diffusers. `excludes` names profiles that it cannot stand beside, with the
    reason in `clash`.
    """

    name: str
    saves: str
    costs: str
    respec: Callable[[ModelSpec], ModelSpec] = _same
    tune: Callable[[Any], Any] = _same
    obstacle: Callable[[ModelSpec, Any, str], str | None] = _no_obstacle
    storage: str | None = None
    settles_after: int = 1
    packages: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    clash: str = ""

    def check(self, spec: ModelSpec, device: Any, dtype: str) -> None:
        """Raise a `KoalaError` that says why this profile cannot work there."""
        if reason := self.obstacle(spec, device, dtype):
            raise KoalaError(f"the profile {self.name} cannot work here: {reason}")


def _fp16_vae(spec: ModelSpec) -> ModelSpec:
    plan = spec.autoencoder
    assert isinstance(plan, AutoencoderPlan)
    return replace(spec, autoencoder=replace(plan, upcast_to_fp32=False, weights=_where_released(spec, plan.fp16_fix)))


def _tiny_vae(spec: ModelSpec) -> ModelSpec:
    plan = spec.autoencoder
    assert isinstance(plan, AutoencoderPlan)
    return replace(spec, autoencoder=TinyAutoencoderPlan(TAESD_CHANNELS, _where_released(spec, plan.tiny)))


def _where_released(spec: ModelSpec, file: HubFile | None) -> HubFile | None:
    return file if spec.weights else None


def _no_fp16_vae(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    plan = spec.autoencoder
    if not isinstance(plan, AutoencoderPlan) or plan.fp16_fix is None:
        return f"no fp16-proof autoencoder is known for {spec.name}; it decodes in the model's dtype already"
    decodes_in_fp32 = dtype == "fp16" and plan.upcast_to_fp32
    return None if decodes_in_fp32 else f"{spec.name} decodes in {dtype} already"


def _no_tiny_vae(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    plan = spec.autoencoder
    known = isinstance(plan, AutoencoderPlan) and plan.tiny is not None
    return None if known else f"no tiny autoencoder is known for the latent space of {spec.name}"


def _no_torchao(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    return None if find_spec("torchao") else "torchao is not installed; pip install torchao"


def _no_fp8(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    if device.type != "cuda":
        return f"fp8 matrix products need an NVIDIA GPU of compute capability 8.9 or newer, not {device.type}"
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 9):
        return f"fp8 matrix products need compute capability 8.9; this GPU has {major}.{minor}"
    return _no_torchao(spec, device, dtype)


def _no_compiler(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    if device.type != "cuda":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        return None if shutil.which(compiler) else f"torch.compile needs the C++ compiler {compiler}, or another in CXX"
    if not find_spec("triton"):
        return "torch.compile needs triton on a GPU; pip install triton"
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        return "triton needs a C compiler, such as gcc, or another in CC"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.is_file() else f"triton needs Python's headers; {header} is missing"


def _quantise(config: str) -> Callable[[Any], Any]:
    """Quantise the U-Net's matrices one by one on their way to the device, where the rest then follows."""

    def matches(module: Any, name: str) -> bool:
        from torch import nn

        return isinstance(module, nn.Linear) and not (module.in_features % 16 or module.out_features % 16)

    def tune(components: Any) -> Any:
        from torchao import quantization

        if components.unet is not None:
            settings = getattr(quantization, config)(set_inductor_config=False)
            quantization.quantize_(components.unet, settings, filter_fn=matches, device=components.device)
        for network in components.networks:
            network.to(components.device)
        return components

    return tune


def _slice_and_tile(components: Any) -> Any:
    autoencoder = components.autoencoder
    if _decodes_by_network(components.spec):
        autoencoder.enable_slicing()
        autoencoder.enable_tiling()
        side = min(_TILE_PX, autoencoder.tile_sample_min_size)
        autoencoder.tile_sample_min_size = side
        autoencoder.tile_latent_min_size = side // components.spec.downscale
    return components


def _decodes_by_network(spec: ModelSpec) -> bool:
    return spec.autoencoder is not None and not isinstance(spec.autoencoder, PatchPlan)


def _compile(components: Any) -> Any:
    import torch

    on_gpu = components.device.type == "cuda"
    for network in filter(None, (components.unet, components.autoencoder)):
        fuse_projections(network)
        network.to(memory_format=torch.channels_last)
    if components.unet is not None:  # many small kernels: one CUDA graph launches them all
        components.unet.compile(mode="reduce-overhead" if on_gpu else "default", fullgraph=True, dynamic=False)
    if components.autoencoder is not None and _decodes_by_network(components.spec):
        components.autoencoder.decoder.compile(dynamic=False)
    return components


def fuse_projections(network: Any) -> None:
    """Fuse query, key and value into one matrix and let the parts go; attached adapters keep theirs apart."""
    from diffusers.models.attention_processor import Attention

    if not hasattr(network, "fuse_qkv_projections") or getattr(network, "peft_config", None):
        return
    network.fuse_qkv_projections()
    for module in network.modules():
        if isinstance(module, Attention) and module.fused_projections:
            for name in ("to_k", "to_v") if module.is_cross_attention else ("to_q", "to_k", "to_v"):
                delattr(module, name)


def _quantised(name: str, config: str, saves: str, costs: str, obstacle: Callable[..., str | None]) -> Profile:
    return Profile(
        name,
        saves,
        costs,
        tune=_quantise(config),
        obstacle=obstacle,
        storage="cpu",  # the unquantised weights never weigh on the GPU together
        packages=("torchao",),
        excludes=tuple(other for other in ("int8", "fp8", "low-vram") if other != name),
        clash="quantised weights stay in one format and in one place",
    )


EAGER = Profile("eager", saves="nothing", costs="nothing: the networks as they are built")

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        EAGER,
        Profile(
            "fp16-fix",
            saves="the fp32 decoding of SDXL's autoencoder: half the bytes of its weights and activations",
            costs="slightly other pixels",
            respec=_fp16_vae,
            obstacle=_no_fp16_vae,
            excludes=("tiny-vae",),
            clash="both replace the autoencoder",
        ),
        Profile(
            "tiny-vae",
            saves="nearly all time and memory of decoding: 1.2 million weights decode",
            costs="fine detail",
            respec=_tiny_vae,
            obstacle=_no_tiny_vae,
            excludes=("fp16-fix",),
            clash="both replace the autoencoder",
        ),
        Profile(
            "compiled",
            saves="time of each step: channels-last, fused projections, torch.compile with static shapes, CUDA graphs",
            costs="minutes before the first image, again at each new size",
            tune=_compile,
            obstacle=_no_compiler,
            settles_after=3,  # one call compiles, the next records CUDA graphs
            excludes=("low-vram",),
            clash="compiled networks cannot move between memories",
        ),
        _quantised(
            "int8",
            "Int8WeightOnlyConfig",
            saves="half the bytes of the U-Net's matrices (weights in int8, arithmetic in the model's dtype)",
            costs="time to widen them at each use, and rounding",
            obstacle=_no_torchao,
        ),
        _quantised(
            "fp8",
            "Float8DynamicActivationFloat8WeightConfig",
            saves="half the bytes of the U-Net's matrices, whose products are taken in fp8",
            costs="rounding of weights and activations",
            obstacle=_no_fp8,
        ),
        Profile(
            "low-vram",
            saves="all GPU memory but the largest network's: each is there only while it runs; decoding in tiles",
            costs="one transfer of every network per batch, and seams between tiles that are blended",
            tune=_slice_and_tile,
            storage="cpu",
            excludes=("int8", "fp8", "compiled"),
            clash="compiled or quantised networks cannot move between memories",
        ),
    )
}


def get(name: str) -> Profile:
    """The profile called `name`, or several joined by `+` (in the order of `PROFILES`, whatever order is asked)."""
    wanted = [part.strip() for part in name.split(JOIN)]
    for part in wanted:
        if part not in PROFILES:
            raise UnknownName("profile", part, PROFILES)
    chosen = [profile for profile in PROFILES.values() if profile.name in wanted and profile is not EAGER]
    for profile in chosen:
        if beside := [other.name for other in chosen if other.name in profile.excludes]:
            raise KoalaError(f"the profiles {profile.name} and {beside[0]} do not go together: {profile.clash}")
    return reduce(_together, chosen) if chosen else EAGER


def _together(first: Profile, second: Profile) -> Profile:
    return Profile(
        name=first.name + JOIN + second.name,
        saves=f"{first.saves}; {second.saves}",
        costs=f"{first.costs}; {second.costs}",
        respec=lambda spec: second.respec(first.respec(spec)),
        tune=lambda components: second.tune(first.tune(components)),
        obstacle=lambda spec, device, dtype: (
            first.obstacle(spec, device, dtype) or second.obstacle(spec, device, dtype)
        ),
        storage=first.storage or second.storage,
        packages=(*first.packages, *second.packages),
        settles_after=max(first.settles_after, second.settles_after),
    )
