"""DMD2: SDXL and Stable Diffusion v1.5 distilled to four steps and to one (Yin et al., NeurIPS 2024)."""

from dataclasses import replace

from koala.models.spec import HubFile, Pretrained, Recipe
from koala.models.zoo.sd import SD15_BASE, SDM_V1_5
from koala.models.zoo.sdxl import SDXL, SDXL_BASE

_DMD2 = HubFile("tianweiy/DMD2", revision="be22767697a1f3ca656b73c776e15fa335c86c6c")
_SD15_BEST = (
    "model/sdv1.5/laion6.25_sd_baseline_8node_guidance1.75_lr5e-7_seed10_dfake10_diffusion1000_gan1e-3_resume_"
    "fid8.35_checkpoint_model_041000/pytorch_model.bin"
)

DMD2_4STEP = replace(
    SDXL,
    name="dmd2-sdxl-4step",
    title="DMD2-SDXL, 4 steps",
    recipe=Recipe("lcm", steps=4, guidance=0.0, timesteps=(999, 749, 499, 249)),
    weights=Pretrained(SDXL_BASE, unet=replace(_DMD2, path="dmd2_sdxl_4step_unet_fp16.safetensors")),
    source="DMD2 (Yin et al., NeurIPS 2024) and its model card",
    license="cc-by-nc-4.0",
    notes="A U-Net for SDXL-Base's pipeline.",
)

DMD2_1STEP = replace(
    DMD2_4STEP,
    name="dmd2-sdxl-1step",
    title="DMD2-SDXL, 1 step",
    recipe=replace(DMD2_4STEP.recipe, steps=1, timesteps=(399,)),
    weights=Pretrained(SDXL_BASE, unet=replace(_DMD2, path="dmd2_sdxl_1step_unet_fp16.bin")),
)

DMD2_4STEP_LORA = replace(
    DMD2_4STEP,
    name="dmd2-sdxl-4step-lora",
    title="DMD2-SDXL, 4 steps, LoRA",
    weights=Pretrained(SDXL_BASE, lora=replace(_DMD2, path="dmd2_sdxl_4step_lora_fp16.safetensors")),
    notes="An adapter for SDXL-Base, fused into its U-Net.",
)

DMD2_SD15 = replace(
    SDM_V1_5,
    name="dmd2-sd15",
    title="DMD2-SD1.5, 1 step",
    recipe=Recipe("lcm", steps=1, guidance=0.0, timesteps=(999,)),
    weights=Pretrained(SD15_BASE, unet=replace(_DMD2, path=_SD15_BEST)),
    source="DMD2 (Yin et al., NeurIPS 2024), Stable Diffusion v1.5 with FID 8.35; its training scripts",
    license="cc-by-nc-4.0",
    notes="The timestep of its single step is that of its training.",
)
