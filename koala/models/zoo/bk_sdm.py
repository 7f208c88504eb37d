"""BK-SDM: Stable Diffusion with blocks removed and knowledge distilled back (Kim et al., ECCV 2024)."""

from dataclasses import replace

from koala.models.spec import HubFile, ModelSpec, Pretrained
from koala.models.zoo.sd import SDM_V1_4, SDM_V2_1_BASE

_SOURCE = "BK-SDM (Kim et al., ECCV 2024) and its model card; PNDM in 25 steps as in its evaluation"


def _released(spec: ModelSpec, name: str, title: str, revision: str | None) -> ModelSpec:
    return replace(
        spec,
        name=name,
        title=title,
        weights=Pretrained(HubFile(f"nota-ai/{name}", revision=revision)),
        source=_SOURCE,
        license="creativeml-openrail-m",
        notes="",
    )


def _family(teacher: ModelSpec, prefix: str, title: str, params: dict[str, int], revisions: dict[str, str]) -> list:
    """Base: one pair of blocks fewer per stage; small: no mid block either; tiny: nor the innermost stage."""
    base = replace(teacher, unet=replace(teacher.unet, layers_per_block=1))
    small = replace(base, unet=replace(base.unet, mid_depth=None))
    tiny_unet = replace(
        small.unet,
        channels=small.unet.channels[:-1],
        transformer_depths=small.unet.transformer_depths[:-1],
        heads=small.unet.heads[:-1],
    )
    plans = {"base": base, "small": small, "tiny": replace(small, unet=tiny_unet)}
    return [
        _released(
            replace(plan, unet_params=params[size]), f"{prefix}-{size}", f"{title}-{size.title()}", revisions.get(size)
        )
        for size, plan in plans.items()
    ]


BK_SDM_BASE, BK_SDM_SMALL, BK_SDM_TINY = _family(
    SDM_V1_4,
    "bk-sdm",
    "BK-SDM",
    {"base": 579_384_964, "small": 482_346_884, "tiny": 323_384_964},
    {
        "base": "0c03b7a0369b49f97d1acf7256d4ee55ced9b2e0",
        "small": "572238db7ed3a10858900803f3fc8cca53e893e0",
        "tiny": "0364108e53b7f7f4d2585e817a0b7a83dc261cfa",
    },
)
BK_SDM_V2_BASE, BK_SDM_V2_SMALL, BK_SDM_V2_TINY = _family(
    SDM_V2_1_BASE,
    "bk-sdm-v2",
    "BK-SDM-v2",
    {"base": 583_480_964, "small": 485_787_524, "tiny": 326_825_604},
    {
        "base": "21915be4c3a83f3fa45f93559750df44943509b1",
        "small": "ad82c51a3b568e855a7f79c5b893ea2f9ebb197f",
        "tiny": "68277af553777858cd47e133f92e4db47321bc74",
    },
)
BK_SDM_BASE_2M, BK_SDM_SMALL_2M, BK_SDM_TINY_2M = (
    _released(spec, f"{spec.name}-2m", f"{spec.title}-2M", revision=None)
    for spec in (BK_SDM_BASE, BK_SDM_SMALL, BK_SDM_TINY)
)
