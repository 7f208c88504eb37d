"""ImageReward beside its network spelled out, in small and at its real size."""

import json

import pytest
import torch
from blip_spelled_out import Reward
from judge_files import MEAN, PROMPTS, STD, images, networks, random_state, scored
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torchvision import transforms

from eval import metrics
from eval.metrics import image_reward
from koala.errors import KoalaError

REAL = ((1024, 24, 16), (30_524, 768, 12, 12))
SMALL = ((64, 2, 4), (120, 768, 2, 12))
WORDS = ("a", "red", "apple", "on", "blue", "table", "two", "dogs")


@pytest.fixture
def tokenizer(tmp_path):
    """The file of a tokenizer with BERT's special tokens where BERT has them, and few words."""
    words = {f"[unused{place}]": place for place in range(1, 100)}
    words |= {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102} | {word: 103 + i for i, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def ids_of(prompts):
    """What the tokenizer makes of prompts of its words, padded with 0 to 35."""
    found = torch.zeros(len(prompts), 35, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids = [101, *(103 + WORDS.index(word) for word in prompt.split()[:33]), 102]
        found[row, : len(ids)] = torch.tensor(ids)
    return found


def spelled_out(sizes, pixels, prompts, path, dtype=torch.float32):
    """Rewards by the spelled-out network, whose checkpoint is written to `path`."""
    with torch.device("meta"):
        network = Reward(*sizes)
    state = random_state(network, dtype, gain=2.0)  # else prompts hardly tell
    torch.save(state, path)
    network.to_empty(device="cpu").eval().load_state_dict(state)
    prepare = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    with torch.no_grad():
        return network(torch.stack([prepare(Image.fromarray(one.numpy())) for one in pixels]), ids_of(prompts))


def ours(pixels, prompts, path, tokenizer, monkeypatch, sizes):
    eye, reader = sizes
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    vision = dict(zip(names, eye, strict=True)) | {"intermediate_size": 4 * eye[0]}
    text = dict(zip(("vocab_size", *names), reader, strict=True)) | {"encoder_hidden_size": eye[0]}
    monkeypatch.setattr(image_reward, "VISION", {**image_reward.VISION, **vision})
    monkeypatch.setattr(image_reward, "TEXT", {**image_reward.TEXT, **text})
    metric = metrics.load("image_reward")
    return scored(metric, pixels, prompts, networks({"image-reward": path, "minilm-tokenizer": tokenizer}))


@pytest.mark.parametrize("size", [(224, 224), (333, 500), (227, 300), (100, 64)])
def test_rewards_are_those_of_the_network_spelled_out(tmp_path, tokenizer, monkeypatch, size):
    pixels, path = images(3, *size), tmp_path / "ImageReward.pt"
    prompts = [*PROMPTS[:2], "red table " * 20]
    wanted = spelled_out(SMALL, pixels, prompts, path)
    torch.testing.assert_close(ours(pixels, prompts, path, tokenizer, monkeypatch, SMALL), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.02


def test_a_reward_depends_on_the_image_on_the_prompt_and_on_no_neighbour(tmp_path, tokenizer, monkeypatch):
    pixels, path = images(20, 224, 224), tmp_path / "ImageReward.pt"
    spelled_out(SMALL, pixels[:1], PROMPTS[:1], path)
    together = ours(pixels, ["two dogs"] * 20, path, tokenizer, monkeypatch, SMALL)
    alone = ours(pixels[19:], ["two dogs"], path, tokenizer, monkeypatch, SMALL)
    other = ours(pixels[19:], ["a red apple"], path, tokenizer, monkeypatch, SMALL)
    torch.testing.assert_close(together[19:], alone, rtol=1e-4, atol=1e-4)
    assert (together[18] - together[19]).abs() > 1e-3 and (alone - other).abs() > 1e-3


def test_prompts_of_more_than_35_tokens_are_counted(tmp_path, tokenizer, monkeypatch):
    spelled_out(SMALL, images(1), ["a"], tmp_path / "ImageReward.pt")
    metric = metrics.load("image_reward")
    ours(images(1), ["a"], tmp_path / "ImageReward.pt", tokenizer, monkeypatch, SMALL)
    metric.load(networks({"image-reward": tmp_path / "ImageReward.pt", "minilm-tokenizer": tokenizer}))
    assert metric.cut(["red " * 33, "red " * 34, "dogs"]) == 1, "33 words and the two at the ends are 35 tokens"
    assert metric.cut([]) == 0


@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name="image_reward", weights="random")
def test_rewards_at_the_real_size(tmp_path, tokenizer, monkeypatch):
    with torch.device("meta"):
        network = Reward(*REAL)
    assert sum(parameter.numel() for parameter in network.parameters()) == 446_665_953  # as the authors' package has
    assert len(network.state_dict()) == 625
    pixels, path = images(2, 333, 500), tmp_path / "ImageReward.pt"
    wanted = spelled_out(REAL, pixels, PROMPTS[:2], path, torch.float16)
    metric = metrics.load("image_reward")
    nets = networks({"image-reward": path, "minilm-tokenizer": tokenizer})
    torch.testing.assert_close(scored(metric, pixels, PROMPTS[:2], nets), wanted, rtol=1e-3, atol=1e-3)
    assert wanted.std() > 0.02
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("blip.visual_encoder.blocks.1.attn.qkv.bias"), "1 tensor is missing"),
        (lambda state: state.update({"mlp.layers.8.weight": torch.zeros(1)}), "1 tensor is unexpected"),
        (lambda state: state.update({"blip.text_encoder.cls": torch.zeros(1)}), "1 tensor is unexpected"),
        (lambda state: state.clear() or state.update(a=torch.zeros(1)), "missing"),
    ],
)
def test_another_networks_file_is_refused(tmp_path, tokenizer, monkeypatch, spoil, message):
    path = tmp_path / "ImageReward.pt"
    spelled_out(SMALL, images(1), ["a"], path)
    state = torch.load(path)
    spoil(state)
    torch.save(state, path)
    with pytest.raises(KoalaError, match=f"ImageReward.pt.*does not fit: .*{message}"):
        ours(images(1), ["a"], path, tokenizer, monkeypatch, SMALL)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"vocab": {"[PAD]": 1}}}'])
def test_a_tokenizer_that_is_not_berts_is_refused(tmp_path, monkeypatch, text):
    spelled_out(SMALL, images(1), ["a"], tmp_path / "ImageReward.pt")
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(KoalaError, match=r"other\.json is no tokenizer with BERT's tokens"):
        ours(images(1), ["a"], tmp_path / "ImageReward.pt", tmp_path / "other.json", monkeypatch, SMALL)


def test_a_tokenizer_with_bert_s_tokens_elsewhere_is_refused(tmp_path, tokenizer, monkeypatch):
    spelled_out(SMALL, images(1), ["a"], tmp_path / "ImageReward.pt")
    facts = json.loads(tokenizer.read_text())
    facts["model"]["vocab"] |= {"[CLS]": 102, "[SEP]": 101}
    tokenizer.write_text(json.dumps(facts))
    with pytest.raises(KoalaError, match=r"others stand for \[CLS\], \[SEP\]"):
        ours(images(1), ["a"], tmp_path / "ImageReward.pt", tokenizer, monkeypatch, SMALL)
