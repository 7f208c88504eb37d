"""diffusers' own pipelines around our components: the reference that ours is held against, and a folder to save."""

from typing import Any

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from koala.errors import KoalaError
from koala.models.conditioning import ClipConditioner
from koala.models.load import Components
from koala.sampling.schedules import build_scheduler


def diffusers_pipeline(components: Components) -> StableDiffusionXLPipeline | StableDiffusionPipeline:
    """Stock diffusers: autoencoder in the model's dtype (the pipeline upcasts it), no watermark, no safety checker."""
    spec, text = components.spec, components.conditioner
    if not isinstance(text, ClipConditioner) or components.autoencoder is None:
        raise KoalaError(f"diffusers has no pipeline for {spec.name}: it wants CLIP text encoders and an autoencoder")
    common: dict[str, Any] = {
        "vae": nn.Module.to(components.autoencoder, dtype=components.dtype),  # diffusers' own warns of casting
        "unet": components.unet,
        "text_encoder": text.encoders[0],
        "tokenizer": text.tokenizers[0],
        "scheduler": build_scheduler(spec.recipe, spec.prediction, spec.noising),
    }
    if spec.unet.pooled_dim is None:
        return StableDiffusionPipeline(
            **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return StableDiffusionXLPipeline(
        **common,
        text_encoder_2=text.encoders[1],
        tokenizer_2=text.tokenizers[1],
        force_zeros_for_empty_prompt=text.plan.zero_unconditional,
        add_watermarker=False,
    )
