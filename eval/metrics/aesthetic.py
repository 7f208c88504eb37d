"""LAION's aesthetic predictor, version 2 (sac+logos+ava1-l14-linearMSE): about 1 to 10, of CLIP ViT-L-14's features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from eval.extractors import clip
from eval.feed import Feed
from eval.metric import ImageMetric
from eval.networks import Networks
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fill
from koala.types import Features, Images, Scores

HEAD = "laion-aesthetic-v2"


class Head(nn.Module):
    """Five linear layers without activations between them; the dropouts only give the file's keys their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(768, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


class Aesthetic(ImageMetric):
    """How much people would like an image, whatever it was asked to show."""

    higher_is_better = True
    feed = Feed(clip.preparation("ViT-L-14", "openai"), "clip:ViT-L-14/openai")
    weights = (HEAD,)

    def load(self, networks: Networks) -> None:
        """Read the head; `Misfit` where the file holds another one."""
        with torch.device("meta"):
            skeleton = Head()
        head = fill(skeleton, Checkpoint([networks.weights.find(HEAD).path]), networks.device)
        assert isinstance(head, Head)
        self._head = head

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """The head's value of each image's features, which it was trained on at length 1."""
        with torch.inference_mode():
            device = next(self._head.parameters()).device
            return self._head.layers(F.normalize(images.to(device), dim=1)).squeeze(1)


METRIC = Aesthetic
