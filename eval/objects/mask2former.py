"""Mask2Former (Cheng et al., 2022) with a Swin-S backbone on COCO's instances, as transformers has it.

The architecture is that of GenEval's detector; the weights are those of facebook/mask2former-swin-small-coco-instance,
where GenEval takes mmdet's own training of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eval.objects.detection import CLASSES, Detection, Detector, filled
from koala.types import Images

SIDE = 384  # what transformers' post-processing scales masks to, for all of these models
_BATCH = 4


class Mask2Former(Detector):
    """80 classes, a mask and a score for each of 100 queries."""

    weights = "mask2former-swin-s-coco"
    config: Mapping[str, Any] = {}  # transformers' defaults are this network

    def settings(self) -> Mapping[str, str]:
        """How images are prepared."""
        return {"detector_resize": f"bilinear to {SIDE}x{SIDE}", "detector_scores": "class x mask, transformers' own"}

    def load(self, file: Path, device: torch.device) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

        network = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=len(CLASSES), **self.config))
        self._network: Any = filled(network, file, device)
        self._processor: Any = Mask2FormerImageProcessor(size={"height": SIDE, "width": SIDE})
        self._device = device

    def find(self, images: Images, threshold: float) -> list[list[Detection]]:
        """For each image what was found with at least that score, the surest first."""
        parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        return [found for part in parts for found in self._batch(part, threshold)]

    def _batch(self, images: Images, threshold: float) -> list[list[Detection]]:
        channels_first = list(images.to(self._device).permute(0, 3, 1, 2))
        pixels = self._processor(channels_first, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.inference_mode():
            outputs = self._network(pixel_values=pixels)
        results = self._processor.post_process_instance_segmentation(
            outputs,
            threshold=threshold,
            target_sizes=[tuple(images.shape[1:3])] * len(images),
            return_binary_maps=True,
        )
        return [_detections(result) for result in results]


def _detections(result: Mapping[str, Any]) -> list[Detection]:
    """One image's, from transformers' result."""
    masks = result["segmentation"]
    found = []
    for segment in result["segments_info"]:
        mask = masks[segment["id"]].bool().cpu()
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        found.append(Detection(CLASSES[segment["label_id"]], segment["score"], box, mask))
    return sorted(found, key=lambda one: -one.score)
