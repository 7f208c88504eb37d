"""Segmind's distilled models: small-sd and tiny-sd from a Stable Diffusion v1.5, SSD-1B and Vega from SDXL."""

from dataclasses import replace

from koala.models.spec import HubFile, Pretrained, Recipe
from koala.models.zoo.bk_sdm import BK_SDM_BASE, BK_SDM_TINY
from koala.models.zoo.sd import SDM_V1_5
from koala.models.zoo.sdxl import SDXL

REALISTIC_VISION = replace(
    SDM_V1_5,
    name="realistic-vision-v4.0",
    title="Realistic Vision 4.0",
    recipe=Recipe("dpm++", steps=25, guidance=7.0),
    weights=Pretrained(
        HubFile("SG161222/Realistic_Vision_V4.0_noVAE", revision="1685907c0283c7278ba26c5fe561506f564b48d3")
    ),
    source="Teacher of Segmind's distill-sd; DPM++ in 25 steps with guidance 7 as its inference script",
    notes="The repository that Segmind names is no longer listed; this is the author's own, with a plain autoencoder.",
)

SMALL_SD = replace(
    BK_SDM_BASE,
    name="segmind-small-sd",
    title="Segmind small-sd",
    recipe=REALISTIC_VISION.recipe,
    weights=Pretrained(HubFile("segmind/small-sd", revision="f8b087e68071a29bbe85a4b07e6e1e8998d59aa7")),
    source="Segmind distill-sd: the topology of BK-SDM-Base; recipe of its inference script",
    notes="Released as .bin only.",
)

TINY_SD = replace(
    SMALL_SD,
    name="segmind-tiny-sd",
    title="Segmind tiny-sd",
    unet=BK_SDM_TINY.unet,
    unet_params=BK_SDM_TINY.unet_params,
    weights=Pretrained(HubFile("segmind/tiny-sd")),
    source="Segmind distill-sd: the topology of BK-SDM-Tiny; recipe of its inference script",
)

PORTRAIT = replace(
    TINY_SD,
    name="segmind-portrait",
    title="Segmind tiny-sd, portraits",
    weights=Pretrained(HubFile("segmind/portrait-finetuned", revision="cac4664146c521261314635d4fd703c62db72860")),
    source="Segmind distill-sd: tiny-sd fine-tuned on 7,000 portraits at 768 px",
)

SSD_1B = replace(
    SDXL,
    name="ssd-1b",
    title="Segmind SSD-1B",
    unet=replace(
        SDXL.unet,
        transformer_depths=(0, 2, 4),
        mid_depth=0,
        up_transformer_depths=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
    ),
    recipe=Recipe("euler", steps=25, guidance=9.0),
    unet_params=1_331_334_404,
    weights=Pretrained(HubFile("segmind/SSD-1B", revision="60987f37e94cd59c36b1cba832b9f97b57395a10")),
    source="SSD-1B (Gupta et al., 2024); topology as ComfyUI's model detection states it, its size as listed",
    license="apache-2.0",
    notes="Guidance 9 from a mirror of its card; steps are not stated there, 25 are SDXL's.",
)

VEGA = replace(
    SSD_1B,
    name="segmind-vega",
    title="Segmind Vega",
    unet=replace(SDXL.unet, transformer_depths=(0, 1, 2), mid_depth=0),
    unet_params=745_225_604,
    weights=Pretrained(HubFile("segmind/Segmind-Vega", revision="1b9bccb893bebcf0b76513e2c0241ddf3bee698e")),
    source="Segmind-Vega (Gupta et al., 2024); topology as ComfyUI's model detection states it, its size as listed",
    notes="Guidance and steps are not verified: SSD-1B's stand here.",
)
