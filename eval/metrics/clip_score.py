"""CLIP score: cosine of image and caption features (Hessel et al., 2021), in the convention of a benchmark or a paper.

- `mlperf` (MLPerf inference, SDXL): ViT-B-32 of openai, x 100; 31.686 to 31.813 is valid there.
- `bk-sdm` (Kim et al., 2023): ViT-g-14 `laion2b_s34b_b88k` on images that PIL's default filter (bicubic)
  first brought to 256 x 256; the cosine itself. The paper gives only the model: the resize is what its code does.
- `dmd2` (Yin et al., 2024): ViT-g-14 `laion2b_s12b_b42k` on the centre square, Lanczos to 256, and "A photo
  depicts " before the caption; the cosine itself. The filter is what its code does; the paper says 256 pixels.
- `geneval` (Ghosh et al., 2023): ViT-L-14 of openai. GenEval itself only asks it for the colours of objects that it cut
  out; this is the cosine of whole image and prompt, which the paper does not define, nor its scale.
- `compbench` (Huang et al., 2023): ViT-B-32 of openai, the cosine itself: T2I-CompBench's non-spatial score. Its code
  refuses captions of more than 77 tokens, and drops the adjectives of complex prompts; neither is done here.
- Any other tag, as `clip_score:ViT-H-14/laion2b_s32b_b79k`: x 100, no prefix, no resize but the tag's own.

torchmetrics prints max(100 x cosine, 0), averaged: `mlperf` on images whose cosine is not below 0.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch.nn.functional as F

from eval.extractors import clip
from eval.feed import Feed, Preparation, Step
from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from eval.preparation import CenterSquare, PilResize
from koala.types import Features, Images, Scores


class ClipScore(ImageMetric):
    """`scale` times the cosine; `before` are the steps that a protocol puts before the tag's own preparation."""

    higher_is_better = True
    needs_prompts = True

    def __init__(self, tag: str, scale: float = 100.0, prefix: str = "", before: tuple[Step, ...] = ()):
        self.model, _, self.pretrained = tag.rpartition("/")
        self.scale, self.prefix, self.before = scale, prefix, before
        steps = (*before, *clip.preparation(self.model, self.pretrained).steps)
        self.feed: Feed = Feed(Preparation(steps), f"clip:{tag}")

    def settings(self) -> Mapping[str, Setting]:
        """What else has to be equal before two CLIP scores may be compared."""
        return {
            "model": self.model,
            "pretrained": self.pretrained,
            "prefix": self.prefix,
            "scale": self.scale,
            "resize": "; ".join(map(str, self.before)) or None,
        }

    def load(self, networks: Networks) -> None:
        """Keep the networks for the captions."""
        self._networks = networks

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image; captions are encoded once and cut short where the tokenizer does (see `cut`)."""
        captions = self._networks.texts(self.feed.extractor, self._captions(prompts), self.feed.dtype)
        return self.scale * F.cosine_similarity(images, captions.to(images.device), dim=1)

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are too long for the text tower, which sees only their beginning."""
        return sum(clip.Clip(self.model, self.pretrained).cut(self._captions(prompts)))

    def _captions(self, prompts: Sequence[str]) -> list[str]:
        return [self.prefix + prompt for prompt in prompts]


VARIANTS = {
    "mlperf": partial(ClipScore, "ViT-B-32/openai"),
    "bk-sdm": partial(ClipScore, "ViT-g-14/laion2b_s34b_b88k", scale=1.0, before=(PilResize(256, "bicubic"),)),
    "dmd2": partial(
        ClipScore,
        "ViT-g-14/laion2b_s12b_b42k",
        scale=1.0,
        prefix="A photo depicts ",
        before=(CenterSquare(), PilResize(256, "lanczos")),
    ),
    "geneval": partial(ClipScore, "ViT-L-14/openai", scale=1.0),
    "compbench": partial(ClipScore, "ViT-B-32/openai", scale=1.0),
}


def variant(name: str) -> ClipScore:
    """The score of any tag of open_clip."""
    clip.variant(name)  # an unknown tag is an error now
    return ClipScore(name)
