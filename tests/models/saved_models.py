"""Models to save and to load: every twin of the zoo, and shapes that the zoo may come to hold."""

from dataclasses import replace
from functools import cache

import torch

from koala.models import single_file, zoo
from koala.models.networks import PARTS, meta_networks
from koala.models.random_weights import materialise
from koala.models.spec import AutoencoderPlan


def first_of_each(kind):
    """The names of the models, of several that are the same in `kind` the first."""
    specs = [spec for spec in map(zoo.get, zoo.names()) if isinstance(spec.autoencoder, AutoencoderPlan)]
    return list({kind(spec): spec.name for spec in reversed(specs)}.values())[::-1]


MODELS = first_of_each(lambda spec: spec.unet)
# Models that differ in more than their U-Net, and one whose U-Net lacks most.
FAMILIES = [*first_of_each(lambda spec: (spec.conditioning, spec.autoencoder)), "koala-700m"]
TWINS, FAMILY_TWINS = ([f"tiny-{name}" for name in names] for names in (MODELS, FAMILIES))
SDXL, SDM_V1, SDM_V2 = (zoo.get(name) for name in ("tiny-sdxl", "tiny-sdm-v1.4", "tiny-sdm-v2.1-base"))


def shape(name, base, **changes):
    return replace(base, name=name, unet=replace(base.unet, **changes))


SHAPES = {
    spec.name: spec
    for spec in (
        shape("one residual layer in the middle", SDXL, mid_depth=0),
        shape(
            "three stages",
            SDM_V1,
            channels=(32, 64, 128),
            transformer_depths=(1, 1, 1),
            heads=(2, 4, 8),
            layers_per_block=1,
            mid_depth=None,
        ),
        shape("unlike blocks", SDXL, mid_depth=0, up_transformer_depths=((4, 4, 10), (2, 1, 1), (0, 0, 0))),
        shape("no attention in the lowest stage", SDXL, transformer_depths=(2, 2, 0), mid_depth=1),
        shape("classes", SDXL, transformer_depths=(0, 1, 1), mid_depth=1, pooled_dim=None, class_labels=11),
    )
}
SPECS = {**{name: zoo.get(name) for name in TWINS}, **SHAPES}


meta_networks_of = cache(meta_networks)


@cache
def networks_of(spec, parts=PARTS):
    """Networks with weights; not to be changed."""
    networks = meta_networks(spec, parts)
    return {name: materialise(network, "cpu", seed) for seed, (name, network) in enumerate(networks.items())}


def meta_original(spec, parts=PARTS):
    with torch.device("meta"):
        return single_file.original(meta_networks_of(spec, parts), spec)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
