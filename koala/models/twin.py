"""Small twins: the topology of a real model with few channels, for tests, demos and the smoke sweep."""

from dataclasses import replace
from math import ceil

from koala.models.spec import (
    ADM,
    TRANSFORMER,
    AutoencoderPlan,
    ClipText,
    Coder,
    Conditioning,
    ModelSpec,
    SentenceStates,
    TextEncoderPlan,
    UNetPlan,
)

TWIN_PREFIX = "tiny-"
_WIDTH = 32  # diffusers' group norms want multiples of 32 channels
_LEAST_SAMPLES = 8  # along a side of what is denoised
_NARROWEST = {TRANSFORMER: _WIDTH, ADM: 16}  # channels of the first stage; ADM's norms have fewer groups there
_HEAD = 16  # channels


def tiny_twin(spec: ModelSpec) -> ModelSpec:
    """`spec` with the same stages, depths, blocks and conditioning, a few hundred times fewer weights."""
    conditioning = _tiny_conditioning(spec.conditioning)
    return replace(
        spec,
        name=TWIN_PREFIX + spec.name,
        title=f"{spec.title}, tiny twin",
        unet=_tiny_unet(spec.unet, conditioning),
        conditioning=conditioning,
        autoencoder=_tiny_autoencoder(spec.autoencoder),
        resolution=max(spec.resolution // 8, min(spec.resolution, _LEAST_SAMPLES * spec.downscale)),
        unet_params=None,
        weights=None,
        folder=None,
        attached=None,
        twin_of=spec.name,
        notes="A test model: same topology, few channels, never trained.",
    )


def _tiny_unet(plan: UNetPlan, conditioning: Conditioning) -> UNetPlan:
    channels = tuple(_NARROWEST[plan.blocks] * ceil(width / plan.channels[0]) for width in plan.channels)
    return replace(
        plan,
        channels=channels,
        heads=tuple(max(1, width // _HEAD) for width in channels),
        context_dim=conditioning.context_shape and conditioning.context_shape[1],
        pooled_dim=None if plan.pooled_dim is None else _WIDTH,
        time_id_dim=8,
    )


def _tiny_conditioning(plan: Conditioning) -> Conditioning:
    if isinstance(plan, ClipText):
        return replace(plan, encoders=tuple(_tiny_text_encoder(encoder) for encoder in plan.encoders))
    if isinstance(plan, SentenceStates):
        small = replace(plan.encoder, width=_WIDTH, layers=2, heads=2, weights=None, tokenizer=None)
        return SentenceStates(small)
    return plan


def _tiny_text_encoder(plan: TextEncoderPlan) -> TextEncoderPlan:
    return replace(plan, width=_WIDTH, layers=2, heads=2)


def _tiny_autoencoder(plan: Coder | None) -> Coder | None:
    if isinstance(plan, AutoencoderPlan):
        return replace(plan, channels=(_WIDTH,) * len(plan.channels), layers_per_block=1)
    return plan
