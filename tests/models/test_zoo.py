from dataclasses import replace

import pytest
import torch

from koala import aliases
from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.cost import unet_cost
from koala.models.load import load
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ModelSpec, Recipe
from koala.models.unet import build_unet
from koala.sampling import profiles
from koala.sampling.schedules import with_steps

# facts/papers.md sections 1.1 and 4.1 (KOALA's card prints 2,567M / 1,161M / 782M; BK-SDM's counts are the sums of its
# released tensors); SSD-1B and Vega: a quarter of the bytes of their released fp32 files, 5.33 and 2.98 GB.
SDXL_PARAMS, SD1_PARAMS, SD2_PARAMS = 2_567_463_684, 859_520_964, 865_910_724
PUBLISHED_PARAMS = {
    "sdxl": SDXL_PARAMS,
    "sdxl-turbo": SDXL_PARAMS,
    "sdxl-lightning-2step": SDXL_PARAMS,
    "sdxl-lightning-4step": SDXL_PARAMS,
    "sdxl-lightning-8step": SDXL_PARAMS,
    "dmd2-sdxl-4step": SDXL_PARAMS,
    "dmd2-sdxl-1step": SDXL_PARAMS,
    "dmd2-sdxl-4step-lora": SDXL_PARAMS,
    "bk-sdxl": 1_717_277_764,
    **dict.fromkeys(("koala-1b", "koala-1b-llava-cap", "koala-lightning-1b", "koala-turbo-1b"), 1_161_184_324),
    **dict.fromkeys(("koala-700m", "koala-700m-llava-cap", "koala-lightning-700m", "koala-turbo-700m"), 782_822_724),
    "ssd-1b": 1_331_334_404,
    "segmind-vega": 745_225_604,
    **dict.fromkeys(("sdm-v1.4", "sdm-v1.5", "realistic-vision-v4.0", "dmd2-sd15"), SD1_PARAMS),
    **dict.fromkeys(("sdm-v2.0", "sdm-v2.1-base"), SD2_PARAMS),
    **dict.fromkeys(("bk-sdm-base", "bk-sdm-base-2m", "segmind-small-sd"), 579_384_964),
    **dict.fromkeys(("bk-sdm-small", "bk-sdm-small-2m"), 482_346_884),
    **dict.fromkeys(("bk-sdm-tiny", "bk-sdm-tiny-2m", "segmind-tiny-sd", "segmind-portrait"), 323_384_964),
    "bk-sdm-v2-base": 583_480_964,
    "bk-sdm-v2-small": 485_787_524,
    "bk-sdm-v2-tiny": 326_825_604,
    # EDM prints 295.9M of its ImageNet-64 network; exactly, what tests/models/test_edm.py builds like it has
    **dict.fromkeys(("edm-imagenet64", "dmd2-imagenet64"), 295_899_267),
}
# GMAC of one U-Net call, batch 1, attention included: facts/papers.md sections 1.1 and 4.1.
PUBLISHED_GMAC = {
    ("sdxl", 1024): 3381,
    ("sdxl", 512): 794,
    ("bk-sdxl", 1024): 2252,
    ("bk-sdxl", 512): 532,
    ("koala-1b", 1024): 1716,
    ("koala-1b", 512): 401,
    ("koala-700m", 1024): 1351,
    ("koala-700m", 512): 311,
    ("sdm-v1.4", 512): 401.6,
    ("bk-sdm-base", 512): 261.5,
    ("bk-sdm-small", 512): 255.4,
    ("bk-sdm-tiny", 512): 242.8,
    ("sdm-v2.0", 768): 1074.6,
    ("bk-sdm-v2-base", 768): 690.8,
    ("bk-sdm-v2-small", 768): 677.3,
    ("bk-sdm-v2-tiny", 768): 648.8,
}
FIELDS = ("transformer_depths", "up_transformer_depths", "layers_per_block", "mid_depth", "linear_projection")


def test_every_entry_has_a_published_number_of_parameters():
    assert {name for name in zoo.names() if not zoo.get(name).folder} == set(PUBLISHED_PARAMS)


@pytest.mark.parametrize("name", zoo.names())
def test_every_unet_has_exactly_the_published_number_of_parameters(name):
    with torch.device("meta"):
        expected = zoo.get(name).unet_params
        assert count_params(build_unet(zoo.get(name).unet)) == PUBLISHED_PARAMS.get(name, expected) == expected


@pytest.mark.parametrize(("name", "resolution"), PUBLISHED_GMAC)
def test_every_unet_costs_what_was_computed_from_the_papers(name, resolution):
    published = PUBLISHED_GMAC[name, resolution]
    digits = 0 if isinstance(published, int) else 1
    assert round(unet_cost(zoo.get(name), resolution, 1).flops / 2e9, digits) == published


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


def test_text_encoders_and_autoencoder_of_stable_diffusion_have_their_real_sizes():
    # openai/clip-vit-large-patch14 and OpenCLIP ViT-H-14 without its last layer.
    assert count_params(meta_networks(zoo.get("sdm-v1.4"), ("text",))["text_encoder_0"]) == 123_060_480
    assert count_params(meta_networks(zoo.get("sdm-v2.0"), ("text",))["text_encoder_0"]) == 340_387_840
    assert count_params(meta_networks(zoo.get("sdm-v2.0"), ("autoencoder",))["autoencoder"]) == 83_653_863


@pytest.mark.parametrize("name", ["sdxl", "sdm-v1.4"])
def test_the_tiny_autoencoder_has_its_real_size(name):
    spec = profiles.get("tiny-vae").respec(zoo.get(name))
    # a quarter of the bytes of the tensors of taesdxl's released fp32 file
    assert count_params(meta_networks(spec, ("autoencoder",))["autoencoder"]) == 2_445_063
    assert spec.autoencoder.downscale == 8


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("sdxl-turbo", Recipe("euler-ancestral", 1, 0.0, "trailing")),
        ("sdxl-lightning-8step", Recipe("euler", 8, 0.0, "trailing")),
        ("koala-1b", Recipe("euler", 25, 7.5)),
        ("koala-700m-llava-cap", Recipe("euler", 25, 7.5)),
        ("koala-lightning-700m", Recipe("euler", 10, 3.5, "trailing")),
        ("koala-turbo-1b", Recipe("euler", 10, 3.5)),
        ("sdm-v2.0", Recipe("ddim", 25, 7.5)),
        ("bk-sdm-v2-tiny", Recipe("pndm", 25, 7.5)),
        ("dmd2-sdxl-4step", Recipe("lcm", 4, 0.0, timesteps=(999, 749, 499, 249))),
        ("dmd2-sdxl-1step", Recipe("lcm", 1, 0.0, timesteps=(399,))),
    ],
)
def test_every_recipe_is_the_one_its_authors_state(name, recipe):
    assert zoo.get(name).recipe == recipe


def test_only_stable_diffusion_2_at_768_pixels_and_the_emoji_predict_velocity():
    emoji = {n for n in zoo.names() if n.startswith("emoji-")}
    assert {n for n in zoo.names() if zoo.get(n).prediction == "v_prediction"} == {"sdm-v2.0"} | emoji
    assert {n for n in zoo.names() if zoo.get(n).prediction == "sample"} == {"edm-imagenet64", "dmd2-imagenet64"}
    assert (zoo.get("sdm-v2.0").prediction, zoo.get("sdm-v2.0").resolution) == ("v_prediction", 768)


def test_autoencoders_that_overflow_in_fp16_decode_in_fp32_and_koalas_does_not():
    plans = {n: zoo.get(n).autoencoder for n in zoo.names()}
    upcast = {n for n, plan in plans.items() if plan and plan.upcast_to_fp32}
    assert {"sdxl", "sdxl-turbo", "ssd-1b", "segmind-vega", "dmd2-sdxl-4step"} < upcast
    assert not upcast & {"koala-1b", "koala-lightning-700m", "sdm-v1.4", "bk-sdm-base", "sdm-v2.0"}


def test_segmind_small_is_bk_base_and_segmind_tiny_is_bk_tiny():
    assert zoo.get("segmind-small-sd").unet == zoo.get("bk-sdm-base").unet
    assert zoo.get("segmind-tiny-sd").unet == zoo.get("bk-sdm-tiny").unet == zoo.get("segmind-portrait").unet


def test_a_recipe_with_its_own_timesteps_takes_no_other_number_of_steps():
    with pytest.raises(KoalaError, match="999, 749, 499, 249; it cannot take 3 steps"):
        with_steps(zoo.get("dmd2-sdxl-4step").recipe, 3)
    assert with_steps(zoo.get("dmd2-sdxl-4step").recipe, 4).steps == 4
    assert with_steps(zoo.get("sdxl").recipe, 4).steps == 4


def test_koala_students_keep_the_layers_the_paper_says():
    one_b, small = zoo.get("koala-1b").unet, zoo.get("koala-700m").unet
    assert (one_b.transformer_depths, one_b.mid_depth, one_b.layers_per_block) == ((0, 2, 6), 6, 1)
    assert (small.transformer_depths, small.mid_depth, small.layers_per_block) == ((0, 2, 5), None, 1)


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
    assert spec.resolution % spec.downscale == 0
    if spec.folder:  # trained here: by which run, its notes say
        assert spec.notes == f"python -m koala train {name}" and "trained here" in spec.source
        return
    assert spec.weights or "No public checkpoint" in spec.notes or "no weights were released" in spec.notes


@pytest.mark.parametrize("name", zoo.names())
def test_a_twin_has_the_topology_of_its_model_and_few_weights(name):
    spec, twin = zoo.get(name), zoo.get(f"tiny-{name}")
    for field in FIELDS:
        assert getattr(twin.unet, field) == getattr(spec.unet, field)
    assert twin.twin_of == name

    def keys(plan):
        with torch.device("meta"):
            return set(build_unet(plan).state_dict())

    assert keys(twin.unet) == keys(spec.unet)
    with torch.device("meta"):
        smaller = 50 if name in PUBLISHED_PARAMS else 2
        assert count_params(build_unet(twin.unet)) * smaller < spec.unet_params


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("sdxl", "koala-700m", "sdxl"), ("sdxl", "koala-700m")),
        (("dmd2-sdxl-?step",), ("dmd2-sdxl-4step", "dmd2-sdxl-1step")),
        (("koala-1b", "koala-1b*"), ("koala-1b", "koala-1b-llava-cap")),
        (("tiny-segmind-s*",), ("tiny-segmind-small-sd",)),
        (("runs/train/[x]/final",), ("runs/train/[x]/final",)),
        (("nobody",), ("nobody",)),
    ],
)
def test_a_pattern_stands_for_the_models_that_it_matches_each_once(asked, found):
    assert set(zoo.matching(asked)) == set(found) and len(zoo.matching(asked)) == len(found)
    assert zoo.matching(asked)[0] == found[0]


def test_a_pattern_matches_all_that_begins_so_without_twins_and_one_that_matches_nothing_is_an_error():
    assert set(zoo.matching(("emoji-*",))) == {name for name in zoo.names() if name.startswith("emoji-")}
    assert zoo.matching(("*",)) == tuple(zoo.names())
    with pytest.raises(UnknownName, match=r"unknown model 'kola-\*'.*koala-700m"):
        zoo.matching(("kola-*",))
