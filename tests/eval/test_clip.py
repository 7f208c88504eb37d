import os
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from clip_files import TINY, TINY_CONFIG, TINY_NAME, SomeWeights, network, random_file, safetensors, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from eval import extractors, metrics
from eval.extractor import Extractor, TextExtractor
from eval.extractors import clip
from eval.features import FeatureSet
from eval.networks import Networks
from koala.errors import KoalaError, UnknownName

CPU = torch.device("cpu")
GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="gigabytes: set KOALA_FULLSIZE=1")


@pytest.fixture
def tiny(tmp_path):
    with tiny_model(tmp_path):
        yield tmp_path


def loaded(path, dtype=torch.float32, name=TINY_NAME):
    extractor = extractors.load(f"clip:{name}")
    extractor.load({extractor.weights[0]: path}, CPU, dtype)
    return extractor


def images(n=3, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_open_clips_own_network(tiny):
    own = network(TINY)
    extractor = loaded(safetensors(own, tiny / "weights.safetensors"))
    assert isinstance(extractor, Extractor) and isinstance(extractor, TextExtractor)
    texts = ["a cat", "two dogs on a sofa", ""]
    torch.testing.assert_close(extractor.features(images()), own.encode_image(images()), rtol=0, atol=0)
    tokens = open_clip.get_tokenizer(TINY)(texts)
    torch.testing.assert_close(extractor.texts(texts), own.encode_text(tokens), rtol=0, atol=0)
    assert extractor.features(images()).shape == (3, extractor.dim)


@pytest.mark.parametrize("nested", [False, True])
def test_torchs_own_format_is_read_whether_or_not_training_wrapped_it(tiny, nested):
    own = network(TINY)
    state = {f"module.{key}": tensor for key, tensor in own.state_dict().items()} if nested else own.state_dict()
    torch.save({"epoch": 1, "state_dict": state} if nested else state, tiny / "weights.pt")
    torch.testing.assert_close(loaded(tiny / "weights.pt").features(images()), own.encode_image(images()))


@pytest.mark.parametrize("quick", [True, False])
def test_the_activation_is_the_one_the_tag_was_trained_with(tmp_path, quick):
    with tiny_model(tmp_path, tag={"quick_gelu": quick}):
        ours = loaded(safetensors(network(TINY, quick), tmp_path / "weights.safetensors")).features(images())
        same, other = (network(TINY, kind).encode_image(images()) for kind in (quick, not quick))
    torch.testing.assert_close(ours, same, rtol=0, atol=0)
    assert (ours - other).abs().max() > 1e-4


@pytest.mark.parametrize(("model", "tag"), [name.rsplit("/", 1) for name in clip.PRESETS])
def test_openai_models_have_quick_gelu_and_laions_do_not(model, tag):
    kinds = {type(module).__name__ for module in clip._network(model, tag, torch.float32).modules()}
    assert ("QuickGELU" in kinds, "GELU" in kinds) == (tag == "openai", tag != "openai")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_fp32_features(tiny, dtype):
    path = safetensors(network(TINY), tiny / "weights.safetensors")
    full, half = loaded(path), loaded(path, dtype)
    for exact, coarse in ((full.features(images()), half.features(images())), (full.texts(["a"]), half.texts(["a"]))):
        assert coarse.dtype == torch.float32
        assert 0 < (exact - coarse).abs().max() < 0.05 * exact.abs().max()


SEPARATE_TEXT = TINY_CONFIG | {"custom_text": True}
ROPE_TOWER = TINY_CONFIG | {
    "vision_cfg": {
        "timm_model_name": "eva02_tiny_patch14_224",
        "timm_pool": "token",
        "timm_proj": None,
        "image_size": 224,
    },
    "embed_dim": 192,
}


@pytest.mark.parametrize("config", [SEPARATE_TEXT, ROPE_TOWER], ids=["separate text tower", "tower of timm with rope"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_architectures_are_built_with_all_their_buffers(tmp_path, config, dtype):
    with tiny_model(tmp_path, config, {"quick_gelu": False}):
        own = network(TINY, quick_gelu=False)
        extractor = loaded(safetensors(own, tmp_path / "weights.safetensors"), dtype)
        x, tokens = images(side=own.visual.image_size[0]), open_clip.get_tokenizer(TINY)(["a cat on a mat"])
        near = {"rtol": 0, "atol": 1e-6 if dtype == torch.float32 else 0.1}
        torch.testing.assert_close(extractor.features(x), own.encode_image(x), **near)
        torch.testing.assert_close(extractor.texts(["a cat on a mat"]), own.encode_text(tokens), **near)


def test_a_checkpoint_from_before_text_towers_were_separate_is_read(tmp_path):
    with tiny_model(tmp_path, SEPARATE_TEXT):
        own = network(TINY)
        tensors = {key.removeprefix("text."): tensor.contiguous() for key, tensor in own.state_dict().items()}
        save_file(tensors, tmp_path / "old.safetensors")
        torch.testing.assert_close(loaded(tmp_path / "old.safetensors").features(images()), own.encode_image(images()))


def test_a_caption_is_known_as_cut_exactly_when_it_has_too_many_tokens(tiny):
    # "cat" is one token, and start and end take two of the twelve places
    lengths = range(16)
    assert clip.variant(TINY_NAME).cut(["cat " * words for words in lengths]) == [words > 10 for words in lengths]


def test_a_caption_of_500_words_works_and_counts_as_its_beginning(tiny):
    extractor = loaded(safetensors(network(TINY), tiny / "weights.safetensors"))
    long, beginning = "cat " * 500, "cat " * 10
    assert extractor.cut([long, beginning]) == [True, False]
    torch.testing.assert_close(extractor.texts([long]), extractor.texts([beginning]))


TRANSFORMED = ["ViT-B-32/openai", "ViT-B-16-SigLIP/webli", "ViT-L-14-CLIPA/datacomp1b", "MobileCLIP-S1/datacompdr"]


@given(height=st.integers(200, 420), width=st.integers(200, 420), tag=st.sampled_from(TRANSFORMED))
@settings(max_examples=25, deadline=None)
def test_images_are_prepared_as_open_clips_transform_does_but_for_rounding(height, width, tag):
    model, _, pretrained = tag.rpartition("/")
    facts = open_clip.get_pretrained_cfg(model, pretrained)
    wanted = PreprocessCfg(
        size=open_clip.get_model_config(model)["vision_cfg"]["image_size"],
        **{key: facts[key] for key in ("mean", "std", "interpolation", "resize_mode")},
    )
    # PIL and torch round bytes unlike: by 1 of 255, and by 2 in one value of a million.
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    theirs = image_transform_v2(wanted, is_train=False)(image)
    ours = clip.preparation(model, pretrained)(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]
    off = (ours - theirs).abs() * torch.tensor(facts["std"]).view(3, 1, 1) * 255
    assert ours.shape == theirs.shape and off.max() < 2.001 and (off > 1.001).float().mean() < 1e-4


def test_an_unknown_tag_is_answered_with_those_of_the_model():
    with pytest.raises(UnknownName, match="did you mean 'ViT-B-32/openai'") as error:
        extractors.load("clip:ViT-B-32/opnai")
    assert "ViT-L-14/" not in str(error.value)
    with pytest.raises(UnknownName, match="ViT-B-32/openai"):
        extractors.load("clip:ViTB32")


def archive(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def objects(path):
    torch.save({"weights": zipfile.ZipInfo("code could run")}, path)


def other_size(path):
    save_file({"visual.proj": torch.zeros(3, 3)}, path)


WRONG = {"archive.pt": archive, "objects.pt": objects, "other.safetensors": other_size}
WRONG |= {"page.pt": lambda path: path.write_text("<html>"), "empty.safetensors": lambda path: path.touch()}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named(tiny, name):
    WRONG[name](tiny / name)
    with pytest.raises(KoalaError, match=name):
        loaded(tiny / name)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_openais_own_archives_are_refused_with_what_to_take_instead(tiny):
    archive(tiny / "ViT-B-32.pt")
    with pytest.raises(KoalaError, match=r"TorchScript archive.*python -m eval weights"):
        loaded(tiny / "ViT-B-32.pt")


def test_weights_of_the_same_model_at_another_resolution_do_not_fit(tmp_path):
    with tiny_model(tmp_path):
        path = safetensors(network(TINY), tmp_path / "weights.safetensors")
    larger = TINY_CONFIG | {"vision_cfg": TINY_CONFIG["vision_cfg"] | {"image_size": 64}}
    with tiny_model(tmp_path, larger), pytest.raises(KoalaError, match="positional_embedding"):
        loaded(path)


@pytest.mark.parametrize("name", clip.PRESETS)
def test_a_network_takes_no_memory_before_its_weights_come(name):
    built = clip._network(*name.rsplit("/", 1), torch.float32)
    assert all(tensor.is_meta for tensor in (*built.parameters(), *built.buffers()))
    assert built.state_dict()["text_projection"].shape[1] == clip.variant(name).dim


FULL = {
    "clip_score:mlperf": 151_277_313,
    "aesthetic": 427_616_513,
    "cmmd": 427_944_193,
    "clip_score:bk-sdm": 1_366_678_273,
    "clip_score:ViT-H-14/laion2b_s32b_b79k": 986_109_441,
}
SMALL = ("clip_score:mlperf", "aesthetic")


@pytest.mark.proves("metric", param="name", weights="random")
@pytest.mark.fullsize
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SMALL else [GATED]) for name in FULL])
def test_random_weights_of_real_size_go_from_file_to_score(tmp_path, monkeypatch, name):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    metric = metrics.load(name)
    extractor = extractors.load(metric.feed.extractor)
    files = {extractor.weights[0]: random_file(extractor.model, tmp_path / "clip.safetensors")}
    networks = Networks(SomeWeights(files | head_file(metric, tmp_path)), CPU)
    metric.load(networks)
    pixels = torch.randint(0, 256, (1, 3, 280, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = networks.features(metric.feed, metric.feed.preparation(pixels))
    assert sum(p.numel() for p in networks.extractor(metric.feed.extractor)._network.parameters()) == FULL[name]
    assert features.shape == (1, extractor.dim) and features.isfinite().all()
    if name == "cmmd":
        sets = [FeatureSet.of(torch.cat([features + i * shift for i in range(3)])) for shift in (1.0, -1.0)]
        scores = torch.tensor([metric.compute(*sets).value])
    else:
        scores = metric.score(features, ["word " * 500])
    assert scores.isfinite().all() and scores.abs().max() > 0


def head_file(metric, folder):
    if "laion-aesthetic-v2" not in metric.weights:
        return {}
    widths = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
    layers = {f"layers.{i}": torch.nn.Linear(*width) for i, width in widths.items()}
    state = {f"{key}.{part}": getattr(layer, part).data for key, layer in layers.items() for part in ("weight", "bias")}
    torch.save(state, folder / "head.pth")
    return {"laion-aesthetic-v2": folder / "head.pth"}
