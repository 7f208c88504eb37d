"""KOALA-1B and -700M, and the block-removed SDXL their paper starts from (Lee et al., NeurIPS 2024)."""

from dataclasses import replace

from koala.models.spec import AutoencoderPlan, HubFile, ModelSpec, Pretrained, Recipe
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

assert isinstance(SDXL.autoencoder, AutoencoderPlan)
KOALA_1B = replace(
    BK_SDXL,
    name="koala-1b",
    title="KOALA-1B",
    unet=replace(BK_SDXL.unet, transformer_depths=(0, 2, 6), mid_depth=6),
    autoencoder=replace(SDXL.autoencoder, upcast_to_fp32=False),
    unet_params=1_161_184_324,
    weights=Pretrained(HubFile("etri-vilab/koala-1b", revision="289a475e09902323754dc19eb4722ca45d3dd78b")),
    source="KOALA (NeurIPS 2024) section 3.1.1; recipe from the authors' project page",
    license="openrail++ (non-commercial), ETRI (commercial)",
    notes="Its autoencoder is taken for sdxl-vae-fp16-fix, with which the paper trains; the released file's text was "
    "not seen, its size agrees. Licence: the authors' code repository; the model cards name none.",
)

KOALA_700M = replace(
    KOALA_1B,
    name="koala-700m",
    title="KOALA-700M",
    unet=replace(BK_SDXL.unet, transformer_depths=(0, 2, 5), mid_depth=None),
    unet_params=782_822_724,
    weights=Pretrained(HubFile("etri-vilab/koala-700m", revision="69ce091e6352f49647405c90c04a07e6995bb609")),
)


def _llava_cap(base: ModelSpec, revision: str) -> ModelSpec:
    name = f"{base.name}-llava-cap"
    return replace(
        base,
        name=name,
        title=f"{base.title}, LLaVA captions",
        weights=Pretrained(HubFile(f"etri-vilab/{name}", revision=revision)),
        source="KOALA (NeurIPS 2024) section 3.3: the base model trained on LLaVA-1.5 captions",
    )


def _lightning(base: ModelSpec, revision: str) -> ModelSpec:
    name = base.name.replace("koala", "koala-lightning")
    return replace(
        base,
        name=name,
        title=base.title.replace("KOALA", "KOALA-Lightning"),
        recipe=Recipe("euler", steps=10, guidance=3.5, timestep_spacing="trailing"),
        weights=Pretrained(HubFile(f"etri-vilab/{name}", revision=revision)),
        source="KOALA (NeurIPS 2024) sections 3.4 and A.3: distilled from SDXL-Lightning",
    )


def _turbo(base: ModelSpec) -> ModelSpec:
    return replace(
        base,
        name=base.name.replace("koala", "koala-turbo"),
        title=base.title.replace("KOALA", "KOALA-Turbo"),
        recipe=Recipe("euler", steps=10, guidance=3.5),
        resolution=512,
        weights=None,
        source="KOALA (NeurIPS 2024) sections 3.4 and A.3: distilled from SDXL-Turbo at 512 px",
        notes="No public checkpoint was found. Its autoencoder is taken for sdxl-vae-fp16-fix.",
    )


KOALA_1B_LLAVA = _llava_cap(KOALA_1B, "3572527edd95c31251f84fb385c7f0c20f047b7d")
KOALA_700M_LLAVA = _llava_cap(KOALA_700M, "d7992bd7b28b0df4e3b638d2eb820cf748047642")
KOALA_LIGHTNING_1B = _lightning(KOALA_1B, "b4114f7577bb08e08a6b9792eb3a3a8b34c95adb")
KOALA_LIGHTNING_700M = _lightning(KOALA_700M, "f19ed4f9ad739c4fd69cafb035d367d889d040f6")
KOALA_TURBO_1B, KOALA_TURBO_700M = _turbo(KOALA_1B), _turbo(KOALA_700M)
