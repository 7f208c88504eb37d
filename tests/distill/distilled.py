"""Small students and their teachers, and what is compared between them, spelled out."""

from dataclasses import replace
from functools import cache

from koala.distill.kd import Distillation
from koala.models import zoo
from koala.models.load import load

SEED = 3
SDXL, SDM_V1, SDM_V2 = (zoo.get(f"tiny-{name}") for name in ("sdxl", "sdm-v1.4", "sdm-v2.0"))
BK_V = replace(SDM_V2, name="bk-of-v2", unet=replace(SDM_V2.unet, layers_per_block=1))


def self_attention(block, layers, teacher_block=None):
    ends = [f"transformer_blocks.{i}.attn1" for i in range(layers)]
    return [(f"{block}.{end}", f"{teacher_block or block}.{end}") for end in ends]


def koala_pairs(depth, mid):
    """What KOALA compares, spelled out: the student's blocks are the teacher's first, and on the way up its last."""
    return [
        *self_attention("down_blocks.1.attentions.0", 2),
        *self_attention("down_blocks.2.attentions.0", depth),
        *(self_attention("mid_block.attentions.0", depth) if mid else []),
        *self_attention("up_blocks.0.attentions.0", depth),
        *self_attention("up_blocks.0.attentions.1", depth, "up_blocks.0.attentions.2"),
        *self_attention("up_blocks.1.attentions.0", 2),
        *self_attention("up_blocks.1.attentions.1", 2, "up_blocks.1.attentions.2"),
    ]


STAGES = [(f"{way}_blocks.{i}",) * 2 for way in ("down", "up") for i in range(4)]
TINY = [
    ("down_blocks.0", "down_blocks.0"),
    ("down_blocks.1", "down_blocks.1"),
    ("down_blocks.2.attentions.0.proj_out", "down_blocks.2.attentions.1.proj_out"),
    *((f"up_blocks.{i}", f"up_blocks.{i + 1}") for i in range(3)),
]
BK = ("LF@DW", "LF@UP")
CASES = {  # student, teacher, what is compared, the same as paths
    "koala-700m": (zoo.get("tiny-koala-700m"), SDXL, ("SA",), koala_pairs(5, mid=False)),
    "koala-1b": (zoo.get("tiny-koala-1b"), SDXL, ("SA",), koala_pairs(6, mid=True)),
    "bk-sdm-base": (zoo.get("tiny-bk-sdm-base"), SDM_V1, BK, STAGES),
    "bk-sdm-tiny": (zoo.get("tiny-bk-sdm-tiny"), SDM_V1, ("LF@DW-1", "LF@DW-2", "PO@DW-3", "LF@UP"), TINY),
    "velocity": (BK_V, SDM_V2, BK, STAGES),
}


def unet_of(spec, seed, dtype="fp32"):
    return load(spec, "cpu", dtype, parts=("unet",), seed=seed).unet


@cache
def distillation(name, dtype="fp32", **options):
    """The case's objective, with features and weights of 1 unless told otherwise; tests leave it as it was."""
    student, teacher, features, _ = CASES[name]
    options = {"features": features, "seed": SEED} | options
    return Distillation(student, unet_of(student, 0), teacher, unet_of(teacher, 1, dtype), **options)


def near(found, expected, relative=1e-6):
    assert (found - expected).norm() <= relative * expected.norm() + 1e-12, ((found - expected).norm(), expected.norm())
