"""What a detector finds, and what a detector is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fit
from koala.types import Images

# COCO's 80 classes in the order of its annotations, four of them by the names that GenEval gives them
_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    "backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, "
    "baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, "
    "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, "
    "potted plant, bed, dining table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush"
)
CLASSES = tuple(_NAMES.split(", "))
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Detection:
    """One object that was found."""

    label: str
    score: float  # 0 to 1
    box: Box
    mask: Bool[Tensor, "h w"] | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the box."""
        left, top, right, bottom = self.box
        return abs(right - left), abs(bottom - top)


@runtime_checkable
class Detector(Protocol):
    """A network that finds COCO's classes."""

    weights: str  # its file in `eval/weights`

    def settings(self) -> Mapping[str, str]:
        """How images are prepared."""
        ...

    def load(self, file: Path, device: torch.device) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        ...

    def find(self, images: Images, threshold: float) -> list[list[Detection]]:
        """For each image what was found with at least that score, the surest first."""
        ...


@torch.no_grad()
def filled(network: nn.Module, file: Path, device: torch.device) -> nn.Module:
    """The network with the file's tensors, for inference; buffers that no file holds stay as the network made them."""
    checkpoint = Checkpoint((file,))
    targets = network.state_dict()
    for theirs, ours in fit(network, checkpoint).items():
        targets[ours].copy_(checkpoint.tensor(theirs))
    return network.eval().requires_grad_(False).to(device)
