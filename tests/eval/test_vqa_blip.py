"""BLIP's answers and T2I-CompBench's score of attributes: the network spelled out, the questions, the product."""

import gc
import math
from importlib.util import find_spec

import pytest
import torch
from judge_files import MEAN, STD, images, networks, random_state
from PIL import Image
from torchvision import transforms
from vqa_spelled_out import Answerer, ids_of, write_tokenizer

from eval import metrics, plan
from eval.answers import attributes, blip, phrases
from eval.weights import Weights
from koala.errors import KoalaError
from koala.models.weights.fill import Misfit

REAL, SMALL = ((768, 12, 12), (768, 12, 12)), ((64, 2, 4), (64, 2, 4))
PARAMS = 384_951_928
PROMPTS = ["a green bench and a red car", "a blue rug", "it is so"]
PHRASES = {PROMPTS[0]: ["a green bench", "a red car"], PROMPTS[1]: ["a blue rug"], PROMPTS[2]: []}
SPACY = pytest.mark.skipif(
    not all(map(find_spec, ("spacy", "en_core_web_sm"))), reason="spaCy's en_core_web_sm is not installed"
)


def written(sizes, path, dtype=torch.float32):
    """The spelled-out network, whose checkpoint is written to `path` as the authors' file has it."""
    with torch.device("meta"):
        network = Answerer(*sizes)
    state = random_state(network, dtype, gain=2.0)  # else questions hardly tell
    state["text_decoder.cls.predictions.bias"] = state["text_decoder.cls.predictions.decoder.bias"]
    torch.save({"model": state}, path)
    network.to_empty(device="cpu").eval().load_state_dict(state)
    return network


def asked(network, picture, question):
    """The spelled-out network's answer about one picture."""
    prepare = transforms.Compose(
        [
            transforms.Resize((480, 480), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    with torch.no_grad():
        return network(prepare(Image.fromarray(picture.numpy())).unsqueeze(0), ids_of(question)).item()


@pytest.fixture
def small(monkeypatch):
    """The network in small."""
    eye, text = ({"hidden_size": w, "num_hidden_layers": n, "num_attention_heads": h} for w, n, h in SMALL)
    monkeypatch.setattr(blip, "VISION", {**blip.VISION, **eye, "intermediate_size": 4 * SMALL[0][0]})
    monkeypatch.setattr(blip, "TEXT", {**blip.TEXT, **text, "intermediate_size": 4 * SMALL[1][0]})


@pytest.fixture
def cut(monkeypatch):
    """Noun phrases without spaCy, which was not here when a prompt was cut by hand."""
    monkeypatch.setattr(phrases, "noun_phrases", lambda prompts: [PHRASES[prompt] for prompt in prompts])


def files(folder):
    path, tokenizer = folder / "blip.pth", write_tokenizer(folder / "tokenizer.json")
    return networks({"blip-vqa-capfilt-large": path, "minilm-tokenizer": tokenizer})


# ---- the network


@pytest.mark.parametrize("size", [(480, 480), (333, 500), (100, 64)])
def test_answers_are_those_of_the_network_spelled_out(tmp_path, small, size):
    reference, pixels = written(SMALL, tmp_path / "blip.pth"), images(2, *size)
    questions = ["a green bench?", "the rug?", "a red car?", "red " * 50 + "?"]
    found = attributes.load(files(tmp_path)).yes(pixels, [0, 0, 1, 1], questions)
    wanted = [asked(reference, pixels[i // 2], question) for i, question in enumerate(questions)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4) and max(wanted) - min(wanted) > 0.02


def test_an_answer_is_the_same_whatever_else_is_asked(tmp_path, small):
    written(SMALL, tmp_path / "blip.pth")
    network, pixels = attributes.load(files(tmp_path)), images(2)
    questions = [f"a {colour} car?" for colour in ("red", "blue", "green")] * 7
    together = network.yes(pixels, [1] * 21, questions)
    assert together[:3].tolist() == pytest.approx(network.yes(pixels[1:], [0] * 3, questions[:3]).tolist(), abs=1e-5)
    assert network.yes(pixels, [], []).tolist() == []


@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name="compbench_attributes", weights="random", remark="phrases cut by hand")
def test_the_score_goes_from_the_file_at_its_real_size_to_a_product_of_answers(tmp_path, cut):
    pixels = images(3, 512, 512)
    reference = written(REAL, tmp_path / "blip.pth", torch.float16)
    answers = [asked(reference, pixels[i], f"{phrase}?") for i in (0, 1) for phrase in PHRASES[PROMPTS[i]]]
    del reference
    gc.collect()
    metric = metrics.load("compbench_attributes")
    metric.load(files(tmp_path))
    bench, rug, nothing = metric.score(pixels, PROMPTS).tolist()
    assert bench == pytest.approx(answers[0] * answers[1], abs=1e-3) and rug == pytest.approx(answers[2], abs=1e-3)
    assert math.isnan(nothing), "no phrase, no score"
    assert sum(parameter.numel() for parameter in set(metric._network._network.parameters())) == PARAMS
    (tmp_path / "blip.pth").unlink()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"visual_encoder.cls_token": torch.zeros(1, 1, 64)}}, "missing"),
        ({"model": [1]}, "holds no tensors by name"),
        (b"not a checkpoint", "blip.pth is damaged, or holds objects other than tensors"),
    ],
)
def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path, small, content, said):
    found = files_of(tmp_path, content)
    with pytest.raises(KoalaError, match=said) as raised:
        attributes.load(found)
    assert "blip.pth" in str(raised.value)


def files_of(folder, content):
    if isinstance(content, bytes):
        (folder / "blip.pth").write_bytes(content)
    else:
        torch.save(content, folder / "blip.pth")
    return files(folder)


def test_the_hubs_copy_at_384_pixels_does_not_fit(tmp_path, small):
    state = random_state(Answerer(*SMALL))
    state["visual_encoder.pos_embed"] = torch.zeros(1, 24 * 24 + 1, SMALL[0][0])
    with pytest.raises(Misfit, match=r"position_embedding \(1, 577, 64\), not \(1, 901, 64\)"):
        attributes.load(files_of(tmp_path, {"model": state}))


def test_a_tokenizer_with_other_tokens_is_refused(tmp_path, small):
    written(SMALL, tmp_path / "blip.pth")
    found = files(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(
        text.replace('"yes":2748', '"yes":2749').replace('"yes": 2748', '"yes": 2749')
    )
    with pytest.raises(KoalaError, match="others stand for yes"):
        attributes.load(found)


# ---- questions and products


def test_questions_are_the_first_eight_phrases_in_blips_letters():
    assert phrases.questions(["The (red) bench", 'a "Blue" rug.']) == ["the red bench?", "a blue rug?"]
    assert phrases.questions([f"thing {place}" for place in range(11)]) == [f"thing {place}?" for place in range(8)]
    assert phrases.questions(["very " * 60 + "long"]) == [" ".join(["very"] * 50)]


class Remembered:
    """Answers that were given before."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def yes(self, images, places, questions):
        self.asked += [
            (images[place, 0, 0, 0].item(), question) for place, question in zip(places, questions, strict=True)
        ]
        return torch.tensor([self.answers[question] for question in questions])


def test_a_score_is_the_product_over_an_images_own_phrases(cut):
    network = Remembered({"a green bench?": 0.5, "a red car?": 0.8, "a blue rug?": 0.3})
    pixels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 2, 2, 3)
    scores = attributes.attribute_scores(network, pixels, [PROMPTS[place % 3] for place in range(20)])
    assert scores[[0, 1, 18]].tolist() == pytest.approx([0.4, 0.3, 0.4]) and scores[2::3].isnan().all()
    assert network.asked[:3] == [(0, "a green bench?"), (0, "a red car?"), (1, "a blue rug?")]
    assert network.asked[-1] == (19, "a blue rug?"), "batches do not mix images up"


def test_without_spacy_the_metric_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    there = plan.Situation("", "", "", False, False, lambda feed, dim: None)
    _, (missing,) = plan.plan(["brightness", "compbench_attributes"], there, Weights(), all_of_them=False)
    assert "pip install 'koala-bench[compbench]' && python -m spacy download en_core_web_sm" in missing.reason


@SPACY
def test_spacy_cuts_prompts_of_the_benchmark_into_its_phrases():
    prompts = ["a green bench and a red car", "the oval sink and rectangular mirror"]
    assert phrases.noun_phrases(prompts) == [
        ["a green bench", "a red car"],
        ["the oval sink", "rectangular mirror"],
    ]
    assert phrases.pipeline_version() in attributes.settings()["noun_phrases"]
    assert metrics.load("compbench_attributes").cut(["a cat, " * 9 + "a dog", prompts[0]]) == 1
