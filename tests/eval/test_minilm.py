import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import weight_files
from safetensors.torch import save_file

from eval import extractors
from koala.models.weights.fill import Misfit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def minilm():
    extractor = extractors.load("minilm")
    extractor.load(weight_files("minilm", "minilm-tokenizer"), CPU, torch.float32)
    return extractor


def embedded(minilm, texts):
    with torch.inference_mode():
        return minilm.texts(texts)


@pytest.mark.proves("extractor", name="minilm", weights="real")
def test_similarities_are_those_that_sentence_transformers_documents(minilm):
    features = embedded(minilm, ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    # The example of the documentation of sentence-transformers, with four digits.
    documented = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(features @ features.T, documented, atol=6e-5, rtol=0)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=2, max_size=5))
def test_a_text_does_not_change_in_company(minilm, texts):
    together = embedded(minilm, texts)
    alone = torch.cat([embedded(minilm, [text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(texts)))


def test_a_caption_of_500_words_is_cut_to_256_tokens(minilm):
    words = [("a", "red", "koala", "rests")[i % 4] for i in range(500)]
    long, cut = embedded(minilm, [" ".join(words), " ".join(words[:254])])  # the two others open and close the text
    torch.testing.assert_close(long, cut, atol=1e-6, rtol=0)


def test_no_texts_give_no_rows(minilm):
    assert embedded(minilm, []).shape == (0, minilm.dim)


def test_another_network_is_refused(tmp_path):
    save_file({"embeddings.LayerNorm.bias": torch.zeros(8)}, tmp_path / "model.safetensors")
    files = {"minilm": tmp_path / "model.safetensors", "minilm-tokenizer": tmp_path / "tokenizer.json"}
    with pytest.raises(Misfit, match=r"model.safetensors does not fit.*missing"):
        extractors.load("minilm").load(files, CPU, torch.float32)
