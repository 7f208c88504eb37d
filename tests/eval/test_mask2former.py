"""Mask2Former against transformers' own, at toy size and at its real one."""

import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from eval.objects.detection import CLASSES
from eval.objects.mask2former import Mask2Former
from koala.errors import KoalaError

CPU = torch.device("cpu")
SMALL = {
    "backbone_config": {
        "model_type": "swin",
        "embed_dim": 24,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 7,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "num_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 12,
}


def check_detector(monkeypatch, tmp_path, config, params=None, sides=(96, 120)):
    monkeypatch.setattr(Mask2Former, "config", config)
    torch.manual_seed(0)
    network = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=80, **config)).eval()
    assert params is None or sum(parameter.numel() for parameter in network.parameters()) == params
    with torch.no_grad():  # sure of its classes, or nothing would be found
        network.class_predictor.weight.mul_(200)
    path = tmp_path / "model.pt"
    torch.save(network.state_dict(), path)
    detector = Mask2Former()
    detector.load(path, CPU)
    images = torch.randint(0, 256, (2, *sides, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    ours = detector.find(images, 0.05)
    processor = Mask2FormerImageProcessor(size={"height": 384, "width": 384})
    for image, found in zip(images, ours, strict=True):
        inputs = processor(image.numpy(), return_tensors="pt")
        with torch.no_grad():
            outputs = network(pixel_values=inputs["pixel_values"])
        (theirs,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.05, target_sizes=[sides], return_binary_maps=True
        )
        infos = sorted(theirs["segments_info"], key=lambda info: -info["score"])
        assert [round(one.score, 3) for one in found] == [round(info["score"], 3) for info in infos]
        assert sorted(one.label for one in found) == sorted(CLASSES[info["label_id"]] for info in infos)
        assert len(found) > 0
        for one in found:
            left, top, right, bottom = map(int, one.box)
            assert one.mask[top:bottom, left:right].any() and one.mask.sum() == one.mask[top:bottom, left:right].sum()


def test_the_detector_finds_what_transformers_finds_in_small(monkeypatch, tmp_path):
    check_detector(monkeypatch, tmp_path, SMALL)


@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.proves("metric", name="geneval:mask2former-swin-s", weights="random")
def test_the_detector_at_its_real_size(monkeypatch, tmp_path):
    check_detector(monkeypatch, tmp_path, {}, params=68_741_083)


def test_another_networks_file_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(KoalaError, match="does not fit"):
        Mask2Former().load(tmp_path / "model.pt", CPU)
