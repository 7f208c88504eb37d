"""HPS and PickScore beside what their authors' code does, at toy size and at the real one."""

import gc
import os
import re

import open_clip
import pytest
import torch
from clip_files import network as clip_network
from clip_files import tiny_model
from judge_files import MEAN, PROMPTS, STD, images, networks, random_state, scored
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import functional as vision
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from eval import metrics
from eval.extractors import hps, pick_score
from eval.preparation import LongestSide
from koala.errors import KoalaError
from koala.models.tokenizers import clip_tokenizer

GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="gigabytes: set KOALA_FULLSIZE=1")
SIZES = [(40, 40), (224, 224), (300, 200), (61, 333), (227, 224)]
RESIZES = {"": True, "-aliased": False}  # the end of a variant's name -> whether tensors are antialiased
VIT_H_PARAMS = 986_109_441  # open_clip's and transformers'


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOALA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("KOALA_WEIGHTS", raising=False)
        yield


@pytest.fixture
def freed():
    """Collects what a test leaves, and says how to do so in the middle: two of these networks are 8 GB."""
    yield gc.collect
    gc.collect()


def pil(pixels):
    return [Image.fromarray(picture.numpy()) for picture in pixels]


# ---- HPS


def hps_pixels(pixels, side, antialias):
    """hpsv2's transform: to a tensor, to the longest side, black around it, CLIP's mean and deviation."""
    prepared = []
    for picture in pil(pixels):
        tensor = vision.to_tensor(picture)
        scale = side / max(picture.size)
        if scale != 1:
            new = [round(length * scale) for length in tensor.shape[1:]]
            tensor = vision.resize(tensor, new, vision.InterpolationMode.BICUBIC, antialias=antialias)
            down, right = side - new[0], side - new[1]
            tensor = vision.pad(tensor, [right // 2, down // 2, right - right // 2, down - down // 2])
        prepared.append(vision.normalize(tensor, MEAN, STD))
    return torch.stack(prepared)


def hps_scores(network, tokens, pixels, side, antialias):
    """100 x the cosine, by open_clip's network."""
    with torch.no_grad():
        seen = network.encode_image(hps_pixels(pixels, side, antialias), normalize=True)
        return 100 * (seen * network.encode_text(tokens, normalize=True)).sum(dim=1)


@pytest.mark.parametrize("antialias", RESIZES.values())
@pytest.mark.parametrize("size", SIZES)
def test_hps_prepares_images_as_the_authors_transform_does(size, antialias):
    pixels = images(2, *size)
    ours = hps.preparation(antialias)(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(ours, hps_pixels(pixels, 224, antialias), rtol=1e-4, atol=1e-4)


def test_the_two_resizes_differ_and_say_so():
    pixels = images(1, 512, 512)
    now, before = (hps_pixels(pixels, 224, antialias) for antialias in RESIZES.values())
    assert (now - before).abs().max() > 0.5
    assert str(LongestSide(224)) == "float antialiased bicubic to a longest side of 224, black around it"
    assert str(LongestSide(224, antialias=False)).startswith("float bicubic without antialias to a longest side of 224")


@pytest.fixture
def tiny_hps(tmp_path, monkeypatch):
    """A network that stands for ViT-H-14, and the checkpoint's file as training leaves it."""
    with tiny_model(tmp_path, tag={"quick_gelu": False}) as tiny:
        monkeypatch.setattr(hps, "MODEL", tiny.partition("/")[0])
        monkeypatch.setattr(hps, "ROOTS", tiny.partition("/")[2])
        monkeypatch.setattr(hps, "TAG", tiny)
        monkeypatch.setattr(hps, "SIDE", 32)
        network = clip_network(hps.MODEL, quick_gelu=False)
        network.load_state_dict(random_state(network))
        torch.save({"epoch": 1, "state_dict": network.state_dict()}, tmp_path / "HPS.pt")
        yield network, tmp_path / "HPS.pt"


@pytest.mark.parametrize("end", RESIZES)
@pytest.mark.parametrize("version", hps.VARIANTS)
def test_hps_is_100_times_the_cosine_of_its_own_weights(tiny_hps, version, end):
    network, path = tiny_hps
    metric, pixels = metrics.load(f"hps:{version}{end}"), images(3, 61, 50)
    ours = scored(metric, pixels, PROMPTS, networks({f"hps-{version}": path}))
    tokens = hps.Hps(version).tokenizer(PROMPTS)
    torch.testing.assert_close(ours, hps_scores(network, tokens, pixels, 32, RESIZES[end]), rtol=1e-4, atol=1e-3)
    assert ours.std() > 0.1
    assert metric.cut([*PROMPTS, "word " * 40]) == 1


def test_versions_and_resizes_of_hps_share_no_feed():
    feeds = {metrics.load(name).feed for name in metrics.names() if name.startswith("hps")}
    assert len(feeds) == 4


def test_a_network_with_a_tensor_less_is_not_that_of_hps(tiny_hps):
    network, path = tiny_hps
    torch.save({"state_dict": {k: v for k, v in network.state_dict().items() if k != "text_projection"}}, path)
    with pytest.raises(KoalaError, match=f"{re.escape(str(path))} does not fit: 1 tensor is missing: text_projection"):
        scored(metrics.load("hps:v2.1"), images(), PROMPTS, networks({"hps-v2.1": path}))


@GATED
@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name=("hps:v2.0", "hps:v2.1"), weights="random")
@pytest.mark.proves("metric", name=("hps:v2.0-aliased", "hps:v2.1-aliased"), weights="random")
@pytest.mark.proves("extractor", name=("hps:v2.0", "hps:v2.1"), weights="random")
@pytest.mark.parametrize("version", hps.VARIANTS)
def test_hps_at_its_real_size(tmp_path, version, freed):
    path, pixels = tmp_path / "HPS.pt", images(2, 300, 256)
    with torch.device("meta"):
        skeleton = open_clip.create_model(hps.MODEL, load_weights=False, device="meta")
    assert sum(parameter.numel() for parameter in skeleton.parameters()) == VIT_H_PARAMS
    torch.save({"state_dict": random_state(skeleton, torch.float16)}, path)
    network = clip_network(hps.MODEL, quick_gelu=False)
    network.load_state_dict(torch.load(path, mmap=True)["state_dict"])
    tokens = hps.Hps(version).tokenizer(PROMPTS[:2])
    wanted = {end: hps_scores(network, tokens, pixels, 224, antialias) for end, antialias in RESIZES.items()}
    del network
    freed()
    nets = networks({f"hps-{version}": path})
    for end, theirs in wanted.items():
        ours = scored(metrics.load(f"hps:{version}{end}"), pixels, PROMPTS[:2], nets)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)
    assert (wanted[""] - wanted["-aliased"]).abs().max() > 0.01
    path.unlink()


# ---- PickScore

_SMALL_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "hidden_act": "gelu",
    "projection_dim": 16,
}
SMALL = {
    "text_config": {**_SMALL_TOWER, "eos_token_id": 49407},
    "vision_config": {**_SMALL_TOWER, "patch_size": 56},
    "projection_dim": 16,
}
LONG = "word " * 90
TEXTS = ["a red apple on a blue table", "déjà vu: 猫 &amp; “dogs”", LONG]


def pick_logits(network, pixels, prompts):
    """The logit of each image and its prompt, as the model card computes it with transformers."""
    seen = CLIPImageProcessorPil()(images=pil(pixels), return_tensors="pt")
    read = clip_tokenizer("<|endoftext|>")(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        return network(**read, **seen).logits_per_image.diagonal()


def write_as_transformers_did(network, path, dtype=torch.float32):
    """The network's weights with the tables of positions that releases of 2023 saved too."""
    places = torch.arange(77).expand(1, -1).contiguous()
    positions = {f"{part}.embeddings.position_ids": places.clone() for part in ("text_model", "vision_model")}
    save_file(random_state(network, dtype) | positions, path)


@pytest.mark.parametrize("size", [size for size in SIZES if max(size) < 448])
def test_pick_score_prepares_images_as_transformers_processor_does(size):
    pixels = images(2, *size)
    theirs = CLIPImageProcessorPil()(images=pil(pixels), return_tensors="pt").pixel_values
    torch.testing.assert_close(pick_score.preparation()(pixels.permute(0, 3, 1, 2)), theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture
def tiny_pick(tmp_path, monkeypatch):
    """transformers' CLIP in small, and its file."""
    monkeypatch.setattr(pick_score.PickScore, "towers", SMALL)
    monkeypatch.setattr(pick_score.PickScore, "dim", 16)
    network = CLIPModel(CLIPConfig(**SMALL)).eval()
    write_as_transformers_did(network, tmp_path / "model.safetensors")
    network.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    return network, tmp_path / "model.safetensors"


def test_pick_score_is_the_logit_of_transformers_own_clip(tiny_pick):
    network, path = tiny_pick
    metric, pixels = metrics.load("pick_score"), images(3, 227, 224)
    ours = scored(metric, pixels, TEXTS, networks({"pick-score-v1": path}))
    torch.testing.assert_close(ours, pick_logits(network, pixels, TEXTS), rtol=1e-4, atol=1e-3)
    assert ours.std() > 0.1


def test_prompts_that_pick_score_cuts_are_counted():
    metric = metrics.load("pick_score")
    assert metric.cut(TEXTS) == 1
    assert metric.cut(["dog " * 75, "dog " * 76]) == 1, "75 words and the two markers are 77 tokens"
    assert metric.cut([]) == 0


def test_a_network_of_another_width_is_not_that_of_pick_score(tiny_pick):
    network, path = tiny_pick
    save_file(random_state(network) | {"text_projection.weight": torch.zeros(8, 32)}, path)
    with pytest.raises(
        KoalaError, match=r"does not fit: 1 tensor is of another shape: text_projection.weight \(8, 32\)"
    ):
        metrics.load("pick_score").load(networks({"pick-score-v1": path}))


@GATED
@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name="pick_score", weights="random")
@pytest.mark.proves("extractor", name="pick_score", weights="random")
def test_pick_score_at_its_real_size(tmp_path, freed):
    path, pixels = tmp_path / "model.safetensors", images(2, 300, 256)
    with torch.device("meta"):
        network = CLIPModel(CLIPConfig(**pick_score.PickScore.towers)).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == VIT_H_PARAMS
    write_as_transformers_did(network, path, torch.float16)
    network = network.to_empty(device="cpu")
    for part in (network.text_model, network.vision_model):
        places = part.embeddings.position_ids
        places.copy_(torch.arange(places.shape[1]))
    network.load_state_dict(load_file(path), strict=False)
    wanted = pick_logits(network, pixels, TEXTS[1:])
    del network
    freed()
    ours = scored(metrics.load("pick_score"), pixels, TEXTS[1:], networks({"pick-score-v1": path}))
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=2e-3)
    path.unlink()
