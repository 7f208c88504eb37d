"""The papers' protocols as data: one name fixes suite, images, recipe, sizes and metrics, and says what was left open.

A reference set is the user's to give (`--reference`): `reference` says which images the paper took. Recipes are the
models' own, but for the fields of `recipe`. Sizes of comparison and resizes are the metrics' (`fid:bk-sdm` is at 256).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from koala.errors import UnknownName


@dataclass(frozen=True)
class Part:
    """The images of one suite and the metrics that they are scored with."""

    suite: str
    metrics: tuple[str, ...]
    images_per_prompt: int = 1


@dataclass(frozen=True)
class Protocol:
    """How a paper or benchmark evaluates a model."""

    title: str
    source: str
    parts: tuple[Part, ...]
    benchmark: str | None = None  # what results/reference calls its published numbers
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what replaces a model's own
    resolution: int | None = None  # None: each model's own
    dtype: str = "auto"
    seed: int = 0
    reference: str | None = None
    start_latents: bool = False  # every image begins with the suite's own latents
    accepts: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # metric -> range of valid values
    obstacle: str | None = None  # why it cannot be run here
    left_open: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """How many images of a model it asks for."""
        from eval.prompts.load import entry

        return sum(entry(part.suite).count * part.images_per_prompt for part in self.parts)


_PER_IMAGE = "the paper seeds the noise of a batch; here each image has a seed of its own, so that other noise is drawn"
_COMPBENCH = (
    "compbench_attributes",
    "compbench_spatial:owlv2-base",
    "compbench_complex:owlv2-base",
    "clip_score:compbench",
)
_DETECTOR = "T2I-CompBench looks for objects with UniDet, which does not run here: OWLv2 in its place is another number"

PROTOCOLS: dict[str, Protocol] = {
    "koala": Protocol(
        title="KOALA (Lee et al., NeurIPS 2024), section 4 and its checklist",
        source="https://arxiv.org/abs/2312.04005",
        parts=(
            Part("hpsv2", ("hps:v2.0", "hps:v2.1", "hps:v2.0-aliased", "hps:v2.1-aliased")),
            Part("t2i-compbench-plus", _COMPBENCH, images_per_prompt=10),
        ),
        benchmark="hpsv2",
        left_open=(
            "neither the version of HPS nor the torchvision that resized its images is stated: all four are computed",
            "the checklist counts 2,400 images for HPSv2, whose benchmark has 3,200 prompts: all are drawn",
            "which of T2I-CompBench's scores enter its mean is not stated; 24,000 images are 8 categories of 3,000; "
            "those of numbers and 3-D relations are not computed",
            _DETECTOR,
        ),
    ),
    "bk-sdm": Protocol(
        title="BK-SDM (Kim et al., ECCV 2024), section 5.1 and its code",
        source="https://github.com/Nota-NetsPresso/BK-SDM",
        parts=(Part("coco-30k", ("fid:bk-sdm", "inception_score:bk-sdm", "clip_score:bk-sdm")),),
        benchmark="coco30k",
        recipe={"scheduler": "pndm", "steps": 25, "guidance": 7.5},
        resolution=512,
        seed=1234,
        reference="all 40,504 images of COCO val2014",
        left_open=(
            "one generator is seeded 1234 and runs through all images; here each image has a seed of its own",
            "the guidance scale is the pipeline's default",
            "images are scored from JPEG files there, from PNG here",
        ),
    ),
    "segmind": Protocol(
        title="Segmind distill-sd, its inference script",
        source="https://github.com/segmind/distill-sd",
        parts=(Part("koala-core", ("clip_score:mlperf", "aesthetic", "hps:v2.1", "pick_score")),),
        recipe={"scheduler": "dpm++", "steps": 25, "guidance": 7.0},
        resolution=512,
        left_open=("Segmind published no quality metric at all: suite and metrics are ours, the recipe is theirs",),
    ),
    "dmd2-coco10k": Protocol(
        title="DMD2 (Yin et al., NeurIPS 2024), SDXL on COCO 10K",
        source="https://arxiv.org/abs/2405.14867",
        parts=(Part("coco-10k", ("fid:dmd2", "patch_fid:clean", "clip_score:dmd2")),),
        benchmark="coco10k-sdxl",
        resolution=1024,
        dtype="fp32",
        reference="the 10,000 images of COCO val2014 that the captions are of",
        left_open=("which 10,000 captions is published in a pickle alone: ours are others", _PER_IMAGE),
    ),
    "dmd2-coco30k": Protocol(
        title="DMD2 (Yin et al., NeurIPS 2024), Stable Diffusion 1.5 on COCO 30K",
        source="https://arxiv.org/abs/2405.14867",
        parts=(Part("coco-30k", ("fid:dmd2-256", "clip_score:dmd2")),),
        benchmark="coco30k-sd15",
        resolution=512,
        dtype="fp32",
        reference="all 40,504 images of COCO val2014",
        left_open=("whether its 30,000 captions are BK-SDM's is not known", _PER_IMAGE),
    ),
    "edm-imagenet64": Protocol(
        title="EDM (Karras et al., 2022) and DMD2, ImageNet at 64 px",
        source="https://github.com/NVlabs/edm",
        parts=(),
        benchmark="imagenet64",
        resolution=64,
        reference="EDM's statistics of ImageNet at 64 px",
        obstacle="it draws classes, 50,000 images of ImageNet's, and there is no suite of classes here",
    ),
    "mlperf": Protocol(
        title="MLPerf inference, Stable Diffusion XL",
        source="https://github.com/mlcommons/inference/tree/master/text_to_image",
        parts=(Part("coco-mlperf-5k", ("fid:pytorch-fid", "clip_score:mlperf")),),
        benchmark="mlperf-inference-sdxl",
        recipe={
            "scheduler": "euler",
            "steps": 20,
            "guidance": 8.0,
            "negative": "normal quality, low quality, worst quality, low res, blurry, nsfw, nude",
        },
        resolution=1024,
        dtype="fp32",
        reference="MLPerf's val2014.npz, statistics of COCO val2014",
        start_latents=True,
        accepts={
            "fid:pytorch-fid": (23.01085758, 23.95007626),
            "clip_score:mlperf": (31.68631873, 31.81331801),
        },
        left_open=("the ranges are of the SDXL base model alone",),
    ),
    "geneval": Protocol(
        title="GenEval (Ghosh et al., NeurIPS 2023)",
        source="https://github.com/djghosh13/geneval",
        parts=(Part("geneval", ("geneval:mask2former-swin-s", "clip_score:geneval"), images_per_prompt=4),),
        benchmark="geneval",
        left_open=("its own detector is mmdet's Mask2Former, which does not run here: another one has another name",),
    ),
    "compbench": Protocol(
        title="T2I-CompBench (Huang et al., NeurIPS 2023)",
        source="https://github.com/Karine-Huang/T2I-CompBench",
        parts=(Part("t2i-compbench", _COMPBENCH, images_per_prompt=10),),
        benchmark="t2i-compbench",
        left_open=(
            _DETECTOR,
            "each score is of its own categories, which the tables by tag show apart",
            "recipes and seeds are each model's own; a fixed seed is asked for, not which",
        ),
    ),
    "emoji": Protocol(
        title="The emoji family, which is trained here: captions that it saw and captions that it did not",
        source="https://github.com/microsoft/fluentui-emoji",
        parts=(
            Part(
                "emoji",
                (
                    *("kd_dinov2s_imgfocus", "kd_effnet_lite0", "toyclip_score"),
                    *(f"toyclip_accuracy{part}" for part in ("", ":role", ":gender", ":tone", ":colour", ":shape")),
                ),
            ),
        ),
        reference="the real images of the captions at the model's size, runs/data/emoji/judged-32 or judged-64 "
        "(`python -m koala data emoji`)",
        left_open=(
            "toyclip is trained on the same set by `python -m eval toyclip`: its hash stands in its metrics' names, as "
            "numbers of other heads are not comparable",
        ),
    ),
}


def get(name: str) -> Protocol:
    """The protocol called `name`."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
