"""What the metrics ask: images and prompts in the joint space of a head file."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from eval.networks import Networks
from eval.toyclip import head_file
from eval.toyclip.captions import Caption
from eval.toyclip.features import TEXTS
from koala.types import Features


class Judge:
    """The heads of the file that `networks` finds; a `KoalaError` if they were trained on other features than here."""

    def __init__(self, networks: Networks):
        path = networks.weights.find(head_file.NAME).path
        self._heads, self._about = head_file.read(path)
        head_file.refuse_other_features(path, self._about, networks.weights)
        self._networks = networks

    @property
    def captions(self) -> Sequence[Caption]:
        """Those that an image is told from."""
        return self._about.captions

    def images(self, features: Features) -> Float[Tensor, "n joint"]:
        """Rows of length 1, on the CPU."""
        with torch.inference_mode():
            return self._heads.image(features.cpu())

    def texts(self, texts: Sequence[str]) -> Features:
        """Rows of length 1, on the CPU."""
        with torch.inference_mode():
            return self._heads.text(self._networks.texts(TEXTS, texts))
