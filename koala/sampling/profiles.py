"""Named speed and memory profiles: what each changes, saves and costs. `compiled+tiny-vae` is two of them together.

Importing this file imports no torch: the parent of a sweep knows profiles by name.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from importlib.util import find_spec
from typing import Any

from koala.errors import KoalaError, UnknownName
from koala.models.spec import AutoencoderPlan, HubFile, ModelSpec, TinyAutoencoderPlan

TAESD_CHANNELS = (64, 64, 64, 64)
JOIN = "+"


def _same(anything: Any) -> Any:
    return anything


def _no_obstacle(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    return None


@dataclass(frozen=True)
class Profile:
    """A way to run a model: `respec` before its weights are loaded, `tune` once they are.

    `obstacle(spec, device, dtype)` is why it cannot work there, or None. `storage` is where weights are loaded, and
    wait until they run unless `tune` moves them; None: on the device. `settles_after` calls, times are steady.
    `excludes` names profiles that it cannot stand beside, with the reason in `clash`.
    """

    name: str
    saves: str
    costs: str
    respec: Callable[[ModelSpec], ModelSpec] = _same
    tune: Callable[[Any], Any] = _same
    obstacle: Callable[[ModelSpec, Any, str], str | None] = _no_obstacle
    storage: str | None = None
    settles_after: int = 1
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
    return None


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
    found = any(map(shutil.which, ("g++", "clang++", "c++")))
    return None if found else "torch.compile needs a C++ compiler on the PATH, such as g++"


def _quantise(config: str, **settings: Any) -> Callable[[Any], Any]:
    def tune(components: Any) -> Any:
        from torch import nn
        from torchao import quantization

        if components.unet is not None:
            quantization.quantize_(
                components.unet,
                getattr(quantization, config)(**settings),
                filter_fn=lambda module, name: (
                    isinstance(module, nn.Linear) and not (module.in_features % 16 or module.out_features % 16)
                ),
            )
        for network in components.networks:
            network.to(components.device)
        return components

    return tune


def _slice_and_tile(components: Any) -> Any:
    if components.autoencoder is not None:
        components.autoencoder.enable_slicing()
        components.autoencoder.enable_tiling()
    return components


def _compile(components: Any) -> Any:
    import torch

    on_gpu = components.device.type == "cuda"
    for network in filter(None, (components.unet, components.autoencoder)):
        if hasattr(network, "fuse_qkv_projections"):
            network.fuse_qkv_projections()
        network.to(memory_format=torch.channels_last)
    if components.unet is not None:  # many small kernels: one CUDA graph launches them all
        components.unet.compile(mode="reduce-overhead" if on_gpu else "default", fullgraph=True, dynamic=False)
    if components.autoencoder is not None:
        components.autoencoder.decoder.compile(dynamic=False)
    return components


EAGER = Profile("eager", saves="nothing", costs="nothing: the networks as they are built")

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        EAGER,
        Profile(
            "fp16-fix",
            saves="the fp32 decoding of SDXL's autoencoder: half its memory and more than half its time",
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
            "int8",
            saves="half the bytes of the U-Net's matrices (weights in int8, arithmetic in the model's dtype)",
            costs="time to widen them at each use, and rounding",
            tune=_quantise("Int8WeightOnlyConfig"),
            obstacle=_no_torchao,
            storage="cpu",  # quantised there: the unquantised weights never weigh on the GPU
            excludes=("fp8", "low-vram"),
            clash="quantised weights stay in one format and in one place",
        ),
        Profile(
            "fp8",
            saves="half the bytes of the U-Net's matrices, and time on GPUs that multiply fp8",
            costs="rounding of weights and activations",
            tune=_quantise("Float8DynamicActivationFloat8WeightConfig"),
            obstacle=_no_fp8,
            excludes=("int8", "low-vram"),
            clash="quantised weights stay in one format and in one place",
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
        Profile(
            "compiled",
            saves="time of each step: channels-last, fused projections, torch.compile with static shapes, CUDA graphs",
            costs="minutes before the first image, again at each new size; projections are held twice",
            tune=_compile,
            obstacle=_no_compiler,
            settles_after=3,  # one call compiles, the next records CUDA graphs
            excludes=("low-vram",),
            clash="compiled networks cannot move between memories",
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
        settles_after=max(first.settles_after, second.settles_after),
    )
