"""T2I-CompBench's score of complex prompts: which scores enter the mean, which objects are looked for, the mean."""

import os
from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_files import TAG_FACTS, SomeWeights, network, random_file, safetensors, tiny_model
from judge_files import images, networks, random_state
from PIL import Image
from transformers import Owlv2Config, Owlv2ForObjectDetection
from vqa_spelled_out import Answerer, write_tokenizer

from eval import metrics
from eval.answers import attributes, phrases
from eval.metrics import compbench_complex
from eval.networks import Networks
from eval.objects.compbench_rules import Pair, complex_parts, spatial_score, told_in_words
from eval.objects.detection import Detection
from eval.objects.owlv2 import Owlv2

SPATIAL = "The red plum was on the left of the tall vase."
ACTION = "The old dog slept under the wide bridge."
BOTH = "The grey duck swam near the green reed."
PERSONS = "The young girl stood near the old woman."  # both are persons, whom even random weights find
PROMPTS = [SPATIAL, ACTION, BOTH]
PHRASES = {SPATIAL: ["a red car"], ACTION: ["a blue rug"], BOTH: ["a green bench"], PERSONS: ["a red car"]}
KINDS = {"D": "DET", "A": "ADJ", "N": "NOUN", "P": "PROPN", "V": "VERB", "X": "ADP", "C": "CCONJ", ".": "PUNCT"}


def words(tagged):
    """'red:A plum:N' as spaCy would give it; a preposition without a mark."""
    pairs = (word.partition(":") for word in tagged.split())
    return [(word, KINDS[kind or "X"]) for word, _, kind in pairs]


WORDS = {
    SPATIAL: words("The:D red:A plum:N was:V on the:D left of the:D tall:A vase:N .:."),
    ACTION: words("The:D old:A dog:N slept:V under the:D wide:A bridge:N .:."),
    BOTH: words("The:D grey:A duck:N swam:V near the:D green:A reed:N .:."),
    PERSONS: words("The:D young:A girl:N stood:V near the:D old:A woman:N .:."),
}


# ---- which scores


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (SPATIAL, ("attributes", "spatial")),
        ("The old boots were next to the wet coat.", ("attributes", "spatial")),
        ("The mug is on top of the tray.", ("attributes", "spatial")),
        (ACTION, ("attributes", "action")),
        ("The mirror was hung above the sink.", ("attributes", "action")),
        ("The waves broke on the cliffs below.", ("attributes", "action")),
        ("The kite moved in a linear way.", ("attributes", "action")),
        (BOTH, ("attributes", "spatial", "action")),
        ("The cone was hanging next to the cube and the ball.", ("attributes", "spatial", "action")),
        ("The moon sank below the hills.", ("attributes", "spatial", "action")),
    ],
)
def test_the_words_of_a_prompt_say_which_scores_enter(prompt, parts):
    assert complex_parts(prompt) == parts


# ---- which objects


@pytest.mark.parametrize(
    ("tagged", "pair"),
    [
        ("The:D red:A plum:N was:V on the:D left of the:D tall:A vase:N .:.", Pair("plum", "on the left of", "vase")),
        ("The:D cat:N sat:V on top:N of the:D hat:N rack:N .:.", Pair("cat", "on top of", "hat")),
        ("The:D girl:N stood:V next to the:D bus:N and:C the:D car:N .:.", Pair("person", "next to", "bus")),
        ("Rex:P slept:V near Fido:P .:.", Pair("Rex", "near", "Fido")),
        ("The:D cat:N slept:V near the:D Grey:P Lion:P Inn:P .:.", Pair("cat", "near", "Inn")),
        ("The:D cat:N slept:V near Rex:P and:C a:D dog:N .:.", Pair("cat", "near", "dog")),
        ("The:D cat:N slept:V near Rex:P", None),
        ("The:D cat:N slept:V .:.", None),
        ("near the:D cat:N", None),
        ("A:D cat:N near a:D dog:N next to a:D cow:N", None),
        ("A:D cat:N near", None),
    ],
)
def test_the_objects_are_the_nouns_around_the_only_preposition(tagged, pair):
    found = words(tagged)
    assert told_in_words(" ".join(word for word, _ in found), found) == pair


@pytest.mark.parametrize("relation", ["on the left of", "on the right of", "next to", "near", "on side of"])
def test_every_preposition_is_told_with_its_relation(relation):
    tagged = " ".join(["A:D cat:N was:V", *(f"{word}:X" for word in relation.split()), "a:D dog:N"])
    assert told_in_words(f"A cat was {relation} a dog", words(tagged)) == Pair("cat", relation, "dog")


def test_words_are_spacys_tokens_with_their_parts_of_speech(monkeypatch):
    parsed = [SimpleNamespace(text="red", pos_="ADJ"), SimpleNamespace(text="plum", pos_="NOUN")]
    monkeypatch.setattr(phrases, "parsed", lambda prompt: parsed)
    assert compbench_complex.tagged_words(["red plum"] * 2) == [[("red", "ADJ"), ("plum", "NOUN")]] * 2


# ---- the mean


class Told(Owlv2):
    """A detector that finds both objects side by side."""

    def load(self, file, device):
        self.asked = []

    def find(self, images, names):
        self.asked += [(image[0, 0, 0].item(), pair) for image, pair in zip(images, names, strict=True)]
        return [
            [Detection(one, 0.8, (0.0, 0.0, 9.0, 9.0)), Detection(other, 0.6, (20.0, 0.0, 29.0, 9.0))]
            for one, other in names
        ]


@pytest.fixture
def cut(monkeypatch):
    """Words and phrases without spaCy."""
    monkeypatch.setattr(phrases, "noun_phrases", lambda prompts: [PHRASES.get(prompt, []) for prompt in prompts])
    monkeypatch.setattr(compbench_complex, "tagged_words", lambda prompts: [WORDS.get(of, []) for of in prompts])


@pytest.fixture
def small(monkeypatch, tmp_path, cut):
    """The metric with a toy CLIP, answers and objects that it is told."""
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))

    class Sure:
        def yes(self, images, places, questions):
            return torch.tensor(
                [{"a red car?": 0.4, "a blue rug?": 0.6, "a green bench?": 0.2}[of] for of in questions]
            )

    monkeypatch.setattr(attributes, "load", lambda networks: Sure())
    with tiny_model(tmp_path) as name:
        model, tag = name.split("/")
        monkeypatch.setattr(compbench_complex, "_MODEL", model)
        monkeypatch.setattr(compbench_complex, "_TAG", tag)
        monkeypatch.setattr(compbench_complex, "_CLIP", f"clip:{name}")
        reference = network(model)
        (tmp_path / "owl").write_bytes(b"")
        files = {f"clip/{name}": safetensors(reference, tmp_path / "c.safetensors"), Told.weights: tmp_path / "owl"}
        metric = compbench_complex.CompbenchComplex(Told)
        metric.load(Networks(SomeWeights(files), torch.device("cpu")))
        yield metric, reference


def cosine(reference, picture, text):
    """Of open_clip's own network and transform, for the toy tag."""
    prepare = open_clip.image_transform(32, is_train=False, **TAG_FACTS)
    seen = reference.encode_image(prepare(Image.fromarray(picture.numpy())).unsqueeze(0))
    tokens = open_clip.get_tokenizer("tiny-clip")([text])
    return F.cosine_similarity(seen, reference.encode_text(tokens)).item()


def test_the_score_is_the_mean_of_what_a_prompt_asks_for(small):
    metric, reference = small
    pixels = images(3, 48, 48)
    spatial, action, both = metric.score(pixels, PROMPTS).tolist()
    placed = 0.5 + 0.25 * 1.4
    slept = cosine(reference, pixels[1], "The dog slept under the bridge .")
    swam = cosine(reference, pixels[2], "The duck swam near the reed .")
    assert spatial == pytest.approx((0.4 + placed) / 2)
    assert action == pytest.approx((0.6 + slept) / 2, abs=1e-4)
    assert both == pytest.approx((0.2 + placed + swam) / 3, abs=1e-4)
    firsts = [picture[0, 0, 0].item() for picture in pixels]
    assert metric._detector.asked == [(firsts[0], ("plum", "vase")), (firsts[2], ("duck", "reed"))]


def test_a_score_is_the_same_whatever_other_prompts_are_scored(small):
    metric, _ = small
    pixels = images(3, 48, 48)
    together = metric.score(pixels, PROMPTS).tolist()
    alone = [metric.score(pixels[i : i + 1], PROMPTS[i : i + 1]).item() for i in range(3)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_without_two_objects_the_place_is_worth_nothing_and_without_phrases_there_is_no_score(small, monkeypatch):
    metric, _ = small
    monkeypatch.setitem(WORDS, SPATIAL, words("It:N"))
    scores = metric.score(images(2, 48, 48), [SPATIAL, "it is so"])
    assert scores[0].item() == pytest.approx(0.4 / 2) and scores[1].isnan()


# ---- at its real size


def write_files(folder):
    """Random weights of the three networks, as their files have them."""
    with torch.device("meta"):
        answerer, owl = (
            Answerer((768, 12, 12), (768, 12, 12)),
            Owlv2ForObjectDetection(Owlv2Config(text_config={}, vision_config={"image_size": 960}, projection_dim=512)),
        )
    state = random_state(answerer, torch.float16, gain=2.0)
    state["text_decoder.cls.predictions.bias"] = state["text_decoder.cls.predictions.decoder.bias"]
    torch.save({"model": state}, folder / "blip.pth")
    state = random_state(owl)
    state["class_head.logit_scale.bias"].fill_(5)
    torch.save(state, folder / "owl.pt")
    return {
        "blip-vqa-capfilt-large": folder / "blip.pth",
        "minilm-tokenizer": write_tokenizer(folder / "tokenizer.json"),
        "owlv2-base-patch16-ensemble": folder / "owl.pt",
        "clip/ViT-B-32/openai": random_file("ViT-B-32", folder / "clip.safetensors"),
    }


@pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="gigabytes: set KOALA_FULLSIZE=1")
@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name="compbench_complex:owlv2-base", weights="random", remark="words told by hand")
def test_the_score_goes_from_the_files_at_their_real_size_to_a_mean(tmp_path, cut, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    files = write_files(tmp_path)
    nets, pixels, prompts = networks(files), images(2, 512, 512), [ACTION, PERSONS]
    metric = metrics.load("compbench_complex:owlv2-base")
    metric.load(nets)
    kept, find = {}, metric._detector.find
    metric._detector.find = lambda *asked: kept.setdefault("found", find(*asked))
    action, both = metric.score(pixels, prompts).tolist()
    sure = attributes.attribute_scores(metric._blip, pixels, prompts).tolist()
    place = spatial_score(kept["found"][0], told_in_words(PERSONS, WORDS[PERSONS]), 512, 512)
    clip_score = metrics.load("clip_score:compbench")
    clip_score.load(nets)
    texts = ["The dog slept under the bridge .", "The girl stood near the woman ."]
    seen = nets.features(clip_score.feed, clip_score.feed.preparation(pixels.permute(0, 3, 1, 2)))
    done = clip_score.score(seen, texts).tolist()
    for file in files.values():
        file.unlink()
    assert action == pytest.approx((sure[0] + done[0]) / 2, abs=1e-5)
    assert both == pytest.approx((sure[1] + place + done[1]) / 3, abs=1e-5)
    assert place > 0.5 and len(kept["found"]) == 1
