"""Class-conditional ImageNet at 64 pixels: EDM's network, and DMD2's generator of one step made of it."""

from dataclasses import replace

from koala.models.spec import ADM, ClassLabels, ModelSpec, Recipe, UNetPlan

CLASSES = 1000
_FILES = "its file is given by --weights: one with EDM's own tensor names, saved as .safetensors or as plain tensors"

EDM_IMAGENET64 = ModelSpec(
    name="edm-imagenet64",
    title="EDM, ImageNet 64x64",
    unet=UNetPlan(
        channels=(192, 384, 576, 768),
        transformer_depths=(0, 1, 1, 1),
        layers_per_block=3,
        mid_depth=1,
        heads=(3, 6, 9, 12),
        context_dim=None,
        class_labels=CLASSES,
        sample_channels=3,
        blocks=ADM,
    ),
    conditioning=ClassLabels(tuple(map(str, range(CLASSES))), droppable=False, dataset="imagenet"),
    autoencoder=None,
    recipe=Recipe("heun", steps=256, guidance=1.0),
    resolution=64,
    unet_params=295_899_267,
    weights=None,
    source="EDM (Karras et al., NeurIPS 2022), ADM (Dhariwal and Nichol, NeurIPS 2021) table 11; recipe: DMD2's table",
    license="cc-by-nc-sa-4.0",
    prediction="sample",
    noising="edm",
    notes=f"No public checkpoint is opened by name, for EDM's are pickles of code; {_FILES}. Its recipe is the ODE "
    "sampler of 511 calls that DMD2 compares with. Classes are called by their numbers in the order of ImageNet's "
    "synsets. Unverified: the licence; the number of parameters against a released file (EDM prints 295.9M)",
)

DMD2_IMAGENET64 = replace(
    EDM_IMAGENET64,
    name="dmd2-imagenet64",
    title="DMD2, ImageNet 64x64, 1 step",
    recipe=Recipe("lcm", steps=1, guidance=0.0, timesteps=(999,)),
    source="DMD2 (Yin et al., NeurIPS 2024): sigma 80 is timestep 999 of EDM's 1000",
    license="cc-by-nc-4.0",
    notes="No public checkpoint is downloaded by name, for the path of DMD2's in its repository is unverified; "
    f"{_FILES}. It was trained in bf16: DMD2 reports that fp16 diverges",
)
