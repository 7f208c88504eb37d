"""KOALA-1B and -700M, and the block-removed SDXL their paper starts from (Lee et al., NeurIPS 2024)."""

from dataclasses import replace

from koala.models.spec import HubFile
from koala.models.zoo.sdxl import SDXL

BK_SDXL = replace(
    SDXL,
    name="bk-sdxl",
    title="BK-SDXL",
    unet=replace(SDXL.unet, layers_per_block=1),
    unet_params=1_717_277_764,
    weights=None,
    source="KOALA (NeurIPS 2024) section 3.1: BK-SDM's block removal on SDXL, a 33% cut",
    notes="A baseline of the paper; no weights were released.",
)

KOALA_1B = replace(
    BK_SDXL,
    name="koala-1b",
    title="KOALA-1B",
    unet=replace(BK_SDXL.unet, transformer_depths=(0, 2, 6)),
    unet_params=1_161_184_324,
    weights=HubFile("etri-vilab/koala-1b"),
    source="KOALA (NeurIPS 2024) section 3.1.1; recipe from the authors' project page",
    license="not verified",
    notes="The autoencoder of the released pipeline is not verified; SDXL's own is assumed.",
)

KOALA_700M = replace(
    KOALA_1B,
    name="koala-700m",
    title="KOALA-700M",
    unet=replace(BK_SDXL.unet, transformer_depths=(0, 2, 5), mid_block=False),
    unet_params=782_822_724,
    weights=HubFile("etri-vilab/koala-700m"),
)
