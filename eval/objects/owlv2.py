"""OWLv2 (Minderer et al., 2023), base with patches of 16: finds whatever objects are named, as transformers has it.

The weights are those of google/owlv2-base-patch16-ensemble. Images are padded with black to a square and brought to
960 pixels, as that repository's processor says. A box belongs to the name that fits it best, if only a little.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip import SimpleTokenizer

from eval.metric import Setting
from eval.objects.detection import Detection, filled
from koala.types import Images

SIDE, TOKENS = 960, 16
THRESHOLD = 0.2  # ours: its authors state none, and its scores are lower than those of detectors of fixed classes
QUERY = "a photo of a {}"  # one of those that it was trained with
_BATCH = 4
TEXT: Mapping[str, Any] = {}  # transformers' defaults are this network, but for the side of images
VISION: Mapping[str, Any] = {"image_size": SIDE}
PROJECTION = 512


class Owlv2:
    """The network, in fp32."""

    weights = "owlv2-base-patch16-ensemble"

    def settings(self) -> Mapping[str, Setting]:
        """How images and names are prepared, and what counts as found."""
        return {
            "detector_resize": f"black to a square, bilinear to {SIDE}x{SIDE}",
            "detector_query": QUERY,
            "detector_threshold": THRESHOLD,
        }

    def load(self, file: Path, device: torch.device) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor

        config = Owlv2Config(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=PROJECTION)
        self._network: Any = filled(Owlv2ForObjectDetection(config), file, device)
        side = config.vision_config.image_size
        self._processor: Any = Owlv2ImageProcessor(size={"height": side, "width": side})
        self._tokens = SimpleTokenizer(context_length=TOKENS)
        self._device = device

    def find(self, images: Images, names: Sequence[tuple[str, str]]) -> list[list[Detection]]:
        """For each image what was found of its two names, the surest first."""
        starts = range(0, len(images), _BATCH)
        parts = [(images[start : start + _BATCH], names[start : start + _BATCH]) for start in starts]
        return [found for part in parts for found in self._batch(*part)]

    def _batch(self, images: Images, names: Sequence[tuple[str, str]]) -> list[list[Detection]]:
        channels_first = list(images.to(self._device).permute(0, 3, 1, 2))
        pixels = self._processor(channels_first, return_tensors="pt")["pixel_values"].to(self._device)
        queries = self._tokens([QUERY.format(name) for pair in names for name in pair]).to(self._device)
        with torch.inference_mode():
            outputs = self._network(input_ids=queries, pixel_values=pixels)
        results = self._processor.post_process_object_detection(
            outputs, threshold=THRESHOLD, target_sizes=[tuple(images.shape[1:3])] * len(images)
        )
        return [_detections(result, pair) for result, pair in zip(results, names, strict=True)]


def _detections(result: Mapping[str, Any], names: tuple[str, str]) -> list[Detection]:
    """One image's, from transformers' result."""
    rows = zip(*(result[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
    found = [Detection(names[label], score, (box[0], box[1], box[2], box[3])) for score, label, box in rows]
    return sorted(found, key=lambda one: -one.score)
