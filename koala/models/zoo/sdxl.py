"""SDXL-Base 1.0, the teacher of every model in KOALA's paper (Podell et al., 2023)."""

from koala.models.spec import AutoencoderPlan, HubFile, ModelSpec, Recipe, TextEncoderPlan, UNetPlan

SDXL = ModelSpec(
    name="sdxl",
    title="SDXL-Base 1.0",
    unet=UNetPlan(
        channels=(320, 640, 1280),
        transformer_depths=(0, 2, 10),
        layers_per_block=2,
        mid_block=True,
        heads=(5, 10, 20),
        context_dim=2048,
        pooled_dim=1280,
    ),
    text_encoders=(
        TextEncoderPlan(768, 12, 12, "quick_gelu", projected=False, pad_token="<|endoftext|>"),
        TextEncoderPlan(1280, 32, 20, "gelu", projected=True, pad_token="!"),
    ),
    autoencoder=AutoencoderPlan((128, 256, 512, 512), layers_per_block=2, scaling_factor=0.13025, upcast_to_fp32=True),
    recipe=Recipe("euler", steps=25, guidance=7.5),
    resolution=1024,
    unet_params=2_567_463_684,
    weights=HubFile("stabilityai/stable-diffusion-xl-base-1.0"),
    source="SDXL (Podell et al., 2023); 25 steps as in KOALA (NeurIPS 2024) Table 1 and its model card",
    license="CreativeML Open RAIL++-M",
    notes="Guidance 7.5 is the one KOALA's base models use; the paper does not print SDXL's own.",
)
