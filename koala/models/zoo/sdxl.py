"""SDXL-Base 1.0, the teacher of every model in KOALA's paper, and the few-step models distilled from it."""

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

CLIP_L = TextEncoderPlan(768, 12, 12, "quick_gelu", projected=False, pad_token="<|endoftext|>")
SDXL_BASE = HubFile("stabilityai/stable-diffusion-xl-base-1.0", revision="462165984030d82259a11f4367a4eed129e94a7b")
_LIGHTNING = HubFile("ByteDance/SDXL-Lightning", revision="c9a24f48e1c025556787b0c58dd67a091ece2e44")

SDXL = ModelSpec(
    name="sdxl",
    title="SDXL-Base 1.0",
    unet=UNetPlan(
        channels=(320, 640, 1280),
        transformer_depths=(0, 2, 10),
        layers_per_block=2,
        mid_depth=10,
        heads=(5, 10, 20),
        context_dim=2048,
        pooled_dim=1280,
    ),
    conditioning=ClipText(
        (CLIP_L, TextEncoderPlan(1280, 32, 20, "gelu", projected=True, pad_token="!")),
        penultimate=True,
        zero_unconditional=True,
    ),
    autoencoder=AutoencoderPlan(
        (128, 256, 512, 512),
        layers_per_block=2,
        scaling_factor=0.13025,
        upcast_to_fp32=True,
        fp16_fix=HubFile("madebyollin/sdxl-vae-fp16-fix", revision="207b116dae70ace3637169f1ddd2434b91b3a8cd"),
        tiny=HubFile("madebyollin/taesdxl", revision="b20258aaef75ef61e659c1e0f14f251cf0ad153e"),
    ),
    recipe=Recipe("euler", steps=25, guidance=7.5),
    resolution=1024,
    unet_params=2_567_463_684,
    weights=Pretrained(SDXL_BASE),
    source="SDXL (Podell et al., 2023); 25 steps as in KOALA (NeurIPS 2024) Table 1 and its model card",
    license="openrail++",
    notes="Guidance 7.5 is the one KOALA's base models use; the paper does not print SDXL's own.",
)

SDXL_TURBO = replace(
    SDXL,
    name="sdxl-turbo",
    title="SDXL-Turbo",
    recipe=Recipe("euler-ancestral", steps=1, guidance=0.0, timestep_spacing="trailing"),
    resolution=512,
    weights=Pretrained(HubFile("stabilityai/sdxl-turbo", revision="71153311d3dbb46851df1931d3ca6e939de83304")),
    source="Adversarial diffusion distillation (Sauer et al., 2023); its model card: 1 to 4 steps, no guidance",
    license="sai-nc-community",
    notes="",
)


def _lightning(steps: int) -> ModelSpec:
    return replace(
        SDXL,
        name=f"sdxl-lightning-{steps}step",
        title=f"SDXL-Lightning, {steps} steps",
        recipe=Recipe("euler", steps=steps, guidance=0.0, timestep_spacing="trailing"),
        weights=Pretrained(SDXL_BASE, unet=replace(_LIGHTNING, path=f"sdxl_lightning_{steps}step_unet.safetensors")),
        source="SDXL-Lightning (Lin et al., 2024); its model card",
        notes="A U-Net for SDXL-Base's pipeline.",
    )


SDXL_LIGHTNING_2STEP, SDXL_LIGHTNING_4STEP, SDXL_LIGHTNING_8STEP = map(_lightning, (2, 4, 8))
