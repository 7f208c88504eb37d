"""HPS, PickScore and ImageReward: each against another way to compute it, at toy size and at its real one."""

import os

import pytest
import torch
import torch.nn.functional as F
from clip_files import network as clip_network
from clip_files import tiny_model
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import functional as vision
from torchvision.transforms import v2
from transformers import BlipTextConfig, CLIPConfig, CLIPModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from eval import metrics
from eval.extractors import hps, pick_score
from eval.metrics import image_reward
from eval.metrics.aesthetic import Head
from eval.networks import Networks
from eval.preparation import LongestSide
from eval.weights import Weights
from koala.errors import KoalaError

CPU = torch.device("cpu")
GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="gigabytes: set KOALA_FULLSIZE=1")
PROMPTS = ["a red apple on a blue table", "two dogs", "two dogs"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOALA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("KOALA_WEIGHTS", raising=False)
        yield


def images(n=3, height=40, width=40):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (n, height, width, 3), generator=generator, dtype=torch.uint8)


def networks(**files):
    return Networks(Weights({name.replace("_", "-"): path for name, path in files.items()}), CPU)


def scored(metric, pixels, prompts, nets):
    metric.load(nets)
    if metric.feed is None:
        return metric.score(pixels, prompts)
    features = nets.features(metric.feed, metric.feed.preparation(pixels.permute(0, 3, 1, 2)))
    return metric.score(features, prompts)


def random_state(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(tensor.shape, generator=generator) * (tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.1)
        for key, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


# ---- HPS


@pytest.mark.parametrize("size", [(40, 40), (224, 224), (300, 200), (61, 333)])
def test_hps_prepares_images_as_the_authors_transforms_do(size):
    pixels = images(2, *size)
    side = 224
    theirs = []
    for picture in pixels:
        tensor = picture.permute(2, 0, 1).float() / 255
        scale = side / max(size)
        if scale != 1:
            new = [round(d * scale) for d in size]
            tensor = vision.resize(tensor, new, v2.InterpolationMode.BICUBIC, antialias=True)
            down, right = side - new[0], side - new[1]
            tensor = vision.pad(tensor, [right // 2, down // 2, right - right // 2, down - down // 2])
        theirs.append(vision.normalize(tensor, MEAN, STD))
    ours = hps.preparation()(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-4, atol=1e-4)


def test_the_longest_side_says_what_it_does():
    assert str(LongestSide(224)) == "float antialiased bicubic to a longest side of 224, black around it"


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_hps_is_100_times_the_cosine_of_its_own_weights(tmp_path, monkeypatch, version):
    with tiny_model(tmp_path) as tiny:
        model, _, tag = tiny.partition("/")
        monkeypatch.setattr(hps, "MODEL", model)
        monkeypatch.setattr(hps, "ROOTS", tag)
        monkeypatch.setattr(hps, "TAG", tiny)
        monkeypatch.setattr(hps, "SIDE", 32)
        network = clip_network(model).eval()
        network.load_state_dict(random_state(network) | {}, strict=False)
        path = tmp_path / "HPS.pt"
        torch.save({"epoch": 1, "state_dict": network.state_dict()}, path)
        metric = metrics.load(f"hps:{version}")
        ours = scored(metric, images(), PROMPTS, networks(**{f"hps_{version}": path}))
        tokens = hps.Hps(version).tokenizer(PROMPTS)
        pixels = hps.preparation()(images().permute(0, 3, 1, 2))
        with torch.no_grad():
            theirs = 100 * (network.encode_image(pixels, True) * network.encode_text(tokens, True)).sum(1)
        assert metric.cut(PROMPTS) == 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    assert metric.needs_prompts and metric.higher_is_better


def test_the_two_versions_of_hps_share_no_feed():
    assert metrics.load("hps:v2.0").feed != metrics.load("hps:v2.1").feed


# ---- PickScore

SMALL = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "projection_dim": 16,
        "eos_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": 56,
        "hidden_act": "gelu",
        "projection_dim": 16,
    },
    "projection_dim": 16,
}


def test_pick_score_is_the_logit_of_transformers_own_clip(tmp_path, monkeypatch):
    from koala.models.tokenizers import clip_tokenizer

    monkeypatch.setattr(pick_score.PickScore, "towers", SMALL)
    monkeypatch.setattr(pick_score.PickScore, "dim", 16)
    theirs = CLIPModel(CLIPConfig(**SMALL)).eval()
    theirs.load_state_dict(random_state(theirs, 3), strict=False)
    nn.init.constant_(theirs.logit_scale, 4.6)
    path = tmp_path / "model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}, path)
    ours = scored(metrics.load("pick_score"), images(), PROMPTS, networks(pick_score_v1=path))
    tokens = clip_tokenizer("<|endoftext|>", 77)(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    pixels = metrics.load("pick_score").feed.preparation(images().permute(0, 3, 1, 2))
    with torch.no_grad():
        logits = theirs(input_ids=tokens.input_ids, pixel_values=pixels).logits_per_image.diagonal()
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-3)


# ---- ImageReward


class TimmBlock(nn.Module):
    """A block of the vision transformer that BLIP's own code has, spelled out."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.heads = heads

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].mT * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.attn["proj"]((weights @ qkv[2]).transpose(1, 2).reshape(n, tokens, width))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class TimmVision(nn.Module):
    """The vision transformer with the names that BLIP's own checkpoints have."""

    def __init__(self, width, layers, heads, side=224, patch=16):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList([TimmBlock(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels):
        patches = self.patch_embed["proj"](pixels).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def reward_model(vision_plan, text_plan, dtype=torch.float32):
    """The parts of ImageReward with random weights, and its state dict under the authors' names."""
    width = vision_plan["hidden_size"]
    eye = TimmVision(width, vision_plan["num_hidden_layers"], vision_plan["num_attention_heads"]).eval()
    reader = BlipTextModel(BlipTextConfig(**text_plan), add_pooling_layer=False).eval()
    head = Head().eval()
    state = {}
    for prefix, part, seed in (("blip.visual_encoder.", eye, 1), ("blip.text_encoder.", reader, 2), ("mlp.", head, 3)):
        size = 3 if part is head else 1
        own = {key: (size * tensor).to(dtype) for key, tensor in random_state(part, seed).items()}
        part.load_state_dict({key: tensor.float() for key, tensor in own.items()}, strict=False)
        state |= {prefix + key: tensor for key, tensor in own.items()}
    extras = {
        "blip.vision_proj.weight": torch.zeros(2, 2),
        "blip.text_encoder.embeddings.position_ids": torch.arange(512),
    }
    return eye, reader, head, state | extras


@pytest.fixture
def vocabulary(tmp_path):
    """A tokenizer's file with BERT's special tokens and few words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "apple", "on", "blue", "table", "two", "dogs"]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def expected_reward(eye, reader, head, pixels, token_ids):
    prepared = torch.stack(
        [
            vision.normalize(
                v2.functional.center_crop(
                    vision.resize(picture, [224], v2.InterpolationMode.BICUBIC, antialias=True), [224]
                ).float()
                / 255,
                MEAN,
                STD,
            )
            for picture in pixels.permute(0, 3, 1, 2)
        ]
    )
    mask = (token_ids != 0).long()
    with torch.no_grad():
        seen = eye(prepared)
        states = reader(
            input_ids=token_ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2]),
        )
        value = head.layers(states.last_hidden_state[:, 0]).squeeze(1)
    return (value - 0.16717362830052426) / 1.0333394966054072


def check_reward(tmp_path, vocabulary, vision_plan, text_plan, monkeypatch, dtype):
    monkeypatch.setattr(image_reward, "VISION", vision_plan)
    monkeypatch.setattr(image_reward, "TEXT", text_plan)
    eye, reader, head, state = reward_model(vision_plan, text_plan, dtype)
    path = tmp_path / "ImageReward.pt"
    torch.save(state, path)
    metric = metrics.load("image_reward")
    nets = networks(image_reward=path, minilm_tokenizer=vocabulary)
    ours = scored(metric, images(3, 448, 448), PROMPTS, nets)
    ids = torch.zeros(3, 35, dtype=torch.long)
    for row, words in enumerate(([2, 4, 5, 6, 7, 4, 8, 9, 3], [2, 10, 11, 3], [2, 10, 11, 3])):
        ids[row, : len(words)] = torch.tensor(words)
    theirs = expected_reward(eye, reader, head, images(3, 448, 448), ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)
    assert float(ours.std()) > 0.02
    assert metric.cut([*PROMPTS, "red " * 40]) == 1


def test_image_reward_is_blips_own_forward_in_small(tmp_path, vocabulary, monkeypatch):
    small = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**image_reward.TEXT, "encoder_hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 40}
    check_reward(tmp_path, vocabulary, {**image_reward.VISION, **small}, text, monkeypatch, torch.float32)


@pytest.mark.fullsize
@pytest.mark.proves("metric", name="image_reward", weights="random")
def test_image_reward_at_its_real_size(tmp_path, vocabulary, monkeypatch):
    check_reward(tmp_path, vocabulary, image_reward.VISION, image_reward.TEXT, monkeypatch, torch.float16)


def test_another_networks_file_is_refused(tmp_path, vocabulary):
    path = tmp_path / "ImageReward.pt"
    torch.save({"blip.visual_encoder.cls_token": torch.zeros(1, 1, 8)}, path)
    with pytest.raises(KoalaError, match="does not fit"):
        metrics.load("image_reward").load(networks(image_reward=path, minilm_tokenizer=vocabulary))


# ---- at their real size


@GATED
@pytest.mark.fullsize
@pytest.mark.proves("metric", name=("hps:v2.0", "hps:v2.1"), weights="random")
@pytest.mark.proves("extractor", name=("hps:v2.0", "hps:v2.1"), weights="random")
@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_hps_at_its_real_size(tmp_path, version):
    from eval.extractors.clip import _network

    skeleton = _network(hps.MODEL, hps.ROOTS, torch.float32)
    state = {key: tensor.half() for key, tensor in sized(skeleton).items()}
    path = tmp_path / "HPS_compressed.pt"
    torch.save({"state_dict": state}, path)
    assert sum(tensor.numel() for tensor in skeleton.parameters()) == 986_109_441
    nets = networks(**{f"hps_{version}": path})
    ours = scored(metrics.load(f"hps:{version}"), images(2, 256, 256), PROMPTS[:2], nets)
    assert ours.shape == (2,) and torch.isfinite(ours).all() and ours.abs().max() <= 100


@GATED
@pytest.mark.fullsize
@pytest.mark.proves("metric", name="pick_score", weights="random")
@pytest.mark.proves("extractor", name="pick_score", weights="random")
def test_pick_score_at_its_real_size(tmp_path):
    with torch.device("meta"):
        skeleton = CLIPModel(CLIPConfig(**pick_score.PickScore.towers))
    assert sum(parameter.numel() for parameter in skeleton.parameters()) == 986_109_441
    path = tmp_path / "model.safetensors"
    save_file({key: tensor.half() for key, tensor in sized(skeleton).items()}, path)
    ours = scored(metrics.load("pick_score"), images(2, 256, 256), PROMPTS[:2], networks(pick_score_v1=path))
    assert ours.shape == (2,) and torch.isfinite(ours).all()


def sized(skeleton):
    """Random tensors of a skeleton's shapes, made one after the other."""
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    found = {}
    for key, tensor in skeleton.state_dict().items():
        if tensor.is_floating_point():
            n = tensor.numel()
            values = noise.repeat(-(-n // len(noise)))[:n].view(tensor.shape)
            found[key] = (values * (tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.1)).clone()
    return found
