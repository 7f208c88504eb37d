from dataclasses import replace

import pytest
import torch

from koala import aliases
from koala.errors import UnknownName
from koala.models import zoo
from koala.models.cost import unet_cost
from koala.models.load import count_params, load, meta_networks
from koala.models.spec import ModelSpec
from koala.models.unet import build_unet

# KOALA (NeurIPS 2024) and its model card print 2,567M / 1,161M / 782M; the integers are facts/papers.md section 1.1.
PUBLISHED_PARAMS = {
    "sdxl": 2_567_463_684,
    "koala-1b": 1_161_184_324,
    "koala-700m": 782_822_724,
    "bk-sdxl": 1_717_277_764,
}
# GMAC of one U-Net call, batch 1, attention included, at 1024 and 512 px: facts/papers.md section 1.1.
PUBLISHED_GMAC = {"sdxl": (3381, 794), "bk-sdxl": (2252, 532), "koala-1b": (1716, 401), "koala-700m": (1351, 311)}


@pytest.mark.parametrize("name", zoo.names())
def test_every_unet_has_exactly_the_published_number_of_parameters(name):
    with torch.device("meta"):
        assert count_params(build_unet(zoo.get(name).unet)) == PUBLISHED_PARAMS[name] == zoo.get(name).unet_params


@pytest.mark.parametrize("name", zoo.names())
def test_every_unet_costs_what_was_computed_from_the_paper(name):
    for resolution, gmac in zip((1024, 512), PUBLISHED_GMAC[name], strict=True):
        assert round(unet_cost(zoo.get(name), resolution, 1).flops / 2e9) == gmac


def test_a_wrong_parameter_count_is_caught_before_anything_is_loaded():
    wrong = replace(zoo.get("koala-700m"), unet_params=782_822_725)
    with pytest.raises(AssertionError, match="782,822,725 published"):
        load(wrong, "cpu")


def test_text_encoders_and_autoencoder_of_sdxl_have_their_real_sizes():
    networks = meta_networks(zoo.get("sdxl"), ("text", "autoencoder"))
    # openai/clip-vit-large-patch14, OpenCLIP ViT-bigG-14 text towers and SDXL's autoencoder.
    assert {name: count_params(n) for name, n in networks.items()} == {
        "text_encoder_0": 123_060_480,
        "text_encoder_1": 694_659_840,
        "autoencoder": 83_653_863,
    }


def test_koala_students_keep_the_layers_the_paper_says():
    one_b, small = zoo.get("koala-1b").unet, zoo.get("koala-700m").unet
    assert (one_b.transformer_depths, one_b.mid_block, one_b.layers_per_block) == ((0, 2, 6), True, 1)
    assert (small.transformer_depths, small.mid_block, small.layers_per_block) == ((0, 2, 5), False, 1)


@pytest.mark.parametrize("alias", aliases.MODELS)
def test_published_names_lead_to_the_same_entry(alias):
    assert zoo.get(alias) is zoo.get(aliases.MODELS[alias])


@pytest.mark.parametrize("name", ["koala-70m", "tiny-koala-70m"])
def test_an_unknown_model_is_answered_with_the_known_ones(name):
    with pytest.raises(UnknownName, match=r"did you mean 'koala-700m'.*sdxl"):
        zoo.get(name)


@pytest.mark.parametrize("name", zoo.names())
def test_every_entry_cites_its_source_and_licence(name):
    spec = zoo.get(name)
    assert isinstance(spec, ModelSpec)
    assert spec.source
    assert spec.license
    assert spec.resolution % spec.autoencoder.downscale == 0


@pytest.mark.parametrize("name", zoo.names())
def test_a_twin_has_the_topology_of_its_model_and_few_weights(name):
    spec, twin = zoo.get(name), zoo.get(f"tiny-{name}")
    for field in ("transformer_depths", "layers_per_block", "mid_block", "linear_projection"):
        assert getattr(twin.unet, field) == getattr(spec.unet, field)
    assert twin.twin_of == name

    def keys(plan):
        with torch.device("meta"):
            return set(build_unet(plan).state_dict())

    assert keys(twin.unet) == keys(spec.unet)
    with torch.device("meta"):
        assert count_params(build_unet(twin.unet)) * 50 < PUBLISHED_PARAMS[name]
