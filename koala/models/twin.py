"""Small twins: the topology of a real model with few channels, for tests, demos and the smoke sweep."""

from dataclasses import replace

from koala.models.spec import AutoencoderPlan, ModelSpec, TextEncoderPlan, UNetPlan

TWIN_PREFIX = "tiny-"
_WIDTH = 32  # diffusers' group norms want multiples of 32 channels


def tiny_twin(spec: ModelSpec) -> ModelSpec:
    """`spec` with the same stages, depths, blocks and conditioning, a few hundred times fewer weights."""
    text_encoders = tuple(_tiny_text_encoder(plan) for plan in spec.text_encoders)
    return replace(
        spec,
        name=TWIN_PREFIX + spec.name,
        title=f"{spec.title}, tiny twin",
        unet=_tiny_unet(spec.unet, sum(plan.width for plan in text_encoders)),
        text_encoders=text_encoders,
        autoencoder=_tiny_autoencoder(spec.autoencoder),
        resolution=spec.resolution // 8,
        unet_params=None,
        weights=None,
        twin_of=spec.name,
        notes="A test model: same topology, few channels, never trained.",
    )


def _tiny_unet(plan: UNetPlan, context_dim: int) -> UNetPlan:
    narrowest = plan.channels[0]
    return replace(
        plan,
        channels=tuple(_WIDTH * channels // narrowest for channels in plan.channels),
        heads=tuple(max(1, _WIDTH * channels // narrowest // 16) for channels in plan.channels),
        context_dim=context_dim,
        pooled_dim=None if plan.pooled_dim is None else _WIDTH,
        time_id_dim=8,
    )


def _tiny_text_encoder(plan: TextEncoderPlan) -> TextEncoderPlan:
    return replace(plan, width=_WIDTH, layers=2, heads=2)


def _tiny_autoencoder(plan: AutoencoderPlan) -> AutoencoderPlan:
    return replace(plan, channels=(_WIDTH,) * len(plan.channels), layers_per_block=1)
