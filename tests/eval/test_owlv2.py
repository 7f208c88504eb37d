"""The open detector against transformers' own network, processor and tokenizer's rules."""

import pytest
import torch
from judge_files import images, networks, random_state
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor

from eval import metrics
from eval.objects import owlv2
from eval.objects.compbench_rules import spatial_score, told
from eval.objects.detection import Detection
from koala.errors import KoalaError

CPU = torch.device("cpu")
PARAMS = 154_966_792
NAMES = [("cat", "dog"), ("lamp", "person"), ("dog", "lamp")]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"cat": 2368, "dog": 1929, "lamp": 10725, "person": 2533}  # CLIP's
A_PHOTO_OF_A = (49406, 320, 1125, 539, 320)


def written(path, text, vision, projection):
    """A network of random weights that finds things, whose checkpoint is written as transformers names it."""
    config = Owlv2Config(text_config=dict(text), vision_config=dict(vision), projection_dim=projection)
    network = Owlv2ForObjectDetection(config).eval()
    state = random_state(network)
    state["class_head.logit_scale.bias"].fill_(5)  # else all names fit all boxes alike
    state["class_head.logit_shift.weight"].zero_()
    state["class_head.logit_shift.bias"].zero_()
    network.load_state_dict(state)
    torch.save(state, path)
    return network


def theirs(network, image, names, side):
    """What transformers finds in one image."""
    processor = Owlv2ImageProcessor(size={"height": side, "width": side})
    rows = [(*A_PHOTO_OF_A, IDS[name], 49407) for name in names]
    queries = torch.tensor([row + (0,) * (16 - len(row)) for row in rows])
    pixels = processor(image.numpy(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = network(input_ids=queries, attention_mask=(queries > 0).long(), pixel_values=pixels)
    (found,) = processor.post_process_object_detection(
        outputs, threshold=owlv2.THRESHOLD, target_sizes=[tuple(image.shape[:2])]
    )
    order = found["scores"].argsort(descending=True)
    labels = [names[label] for label in found["labels"][order].tolist()]
    return found["scores"][order], labels, found["boxes"][order]


def assert_same(ours, scores, labels, boxes):
    assert [one.score for one in ours] == pytest.approx(scores.tolist(), abs=1e-3)
    assert sorted(one.label for one in ours) == sorted(labels)
    assert ours[0].label == labels[0] and ours[0].box == pytest.approx(boxes[0].tolist(), abs=0.5)
    found = torch.tensor([one.box for one in ours])
    assert torch.allclose(found.sort(dim=0).values, boxes.sort(dim=0).values, atol=0.5)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(owlv2, "TEXT", SMALL)
    monkeypatch.setattr(owlv2, "VISION", {**SMALL, "image_size": 96})
    monkeypatch.setattr(owlv2, "PROJECTION", 32)


@pytest.mark.parametrize("size", [(96, 96), (64, 120), (130, 50)])
def test_it_finds_what_transformers_finds(tmp_path, small, size):
    network = written(tmp_path / "w.pt", SMALL, owlv2.VISION, 32)
    detector = owlv2.Owlv2()
    detector.load(tmp_path / "w.pt", CPU)
    pixels = images(3, *size)
    everything = detector.find(pixels, NAMES)
    for image, names, found in zip(pixels, NAMES, everything, strict=True):
        assert_same(found, *theirs(network, image, names, 96))
    assert len({one.label for found in everything for one in found}) > 1, "some tell names apart"
    assert all(found[0].score - found[-1].score > 0.05 for found in everything)


def test_what_it_finds_does_not_depend_on_the_other_images(tmp_path, small):
    written(tmp_path / "w.pt", SMALL, owlv2.VISION, 32)
    detector = owlv2.Owlv2()
    detector.load(tmp_path / "w.pt", CPU)
    pixels, names = images(6, 96, 96), NAMES * 2
    together = detector.find(pixels, names)
    for place in (0, 5):
        (alone,) = detector.find(pixels[place : place + 1], names[place : place + 1])
        assert [one.label for one in together[place]] == [one.label for one in alone]
        assert [one.score for one in together[place]] == pytest.approx([one.score for one in alone], abs=1e-4)
    assert detector.find(pixels[:0], []) == []


def test_another_networks_file_is_not_taken_for_it(tmp_path, small):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(KoalaError, match="does not fit"):
        owlv2.Owlv2().load(tmp_path / "w.pt", CPU)


@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name="compbench_spatial:owlv2-base", weights="random")
def test_the_spatial_score_goes_from_the_file_at_its_real_size_to_a_value(tmp_path):
    network = written(tmp_path / "w.pt", {}, {"image_size": 960}, 512)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMS
    image, prompt = images(1, 512, 512), "a girl next to a woman"  # both are persons, and so both are found
    scores, labels, boxes = theirs(network, image[0], ("person", "person"), 960)
    metric = metrics.load("compbench_spatial:owlv2-base")
    metric.load(networks({"owlv2-base-patch16-ensemble": tmp_path / "w.pt"}))
    (tmp_path / "w.pt").unlink()
    kept = {}
    find = metric._detector.find
    metric._detector.find = lambda *asked: kept.setdefault("found", find(*asked))
    (value,) = metric.score(image, [prompt]).tolist()
    assert_same(kept["found"][0], scores, labels, boxes)
    wanted = [
        Detection(label, score, tuple(box))
        for score, label, box in zip(scores.tolist(), labels, boxes.tolist(), strict=True)
    ]
    assert value > 0.5
    assert value == pytest.approx(spatial_score(wanted, told(prompt), 512, 512), abs=2e-3)
