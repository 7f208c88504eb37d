from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koala.distill.matching import Pair, layers, output_shapes, pairs
from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.anatomy import LAYER_PARTS, stages
from koala.models.cost import unet_inputs
from koala.models.load import load

BK_TINY = ("LF@DW-1", "LF@DW-2", "PO@DW-3", "LF@UP")
SEGMIND_TINY = ("LF@DW-1", "LF@DW-2", "down_blocks.2=up_blocks.0", "LF@UP")
STAGES_OF_SD = [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(4)]


def matched(features, student, teacher="tiny-sdxl", location="bottom"):
    return pairs(features, location, zoo.get(teacher).unet, zoo.get(student).unet)


def paths(found):
    return [(pair.student, pair.teacher) for pair in found]


@pytest.mark.parametrize(
    ("student", "counts"),  # facts of KOALA: papers 7, with every kept layer matched
    [
        ("koala-1b", {"DW-2": 2, "DW-3": 6, "Mid": 6, "UP-1": 12, "UP-2": 4}),
        ("koala-700m", {"DW-2": 2, "DW-3": 5, "UP-1": 10, "UP-2": 4}),
    ],
)
@pytest.mark.parametrize("teacher", ["sdxl", "sdxl-turbo"])
def test_koala_matches_the_self_attention_of_every_layer_it_keeps_once(teacher, student, counts):
    found = matched(["SA"], student, teacher)
    assert len(found) == {"koala-1b": 30, "koala-700m": 21}[student]
    assert Counter(pair.stage for pair in found) == counts
    kept = [path for path in output_shapes(zoo.get(student).unet) if path.endswith(".attn1")]
    assert sorted(pair.student for pair in found) == sorted(kept)
    assert len({pair.teacher for pair in found}) == len(found)


def test_koalas_blocks_are_compared_with_those_that_they_inherit_from_and_the_first_layers():
    found = dict(paths(matched(["SA", "Res"], "tiny-koala-700m")))
    for own, their in {
        "down_blocks.2.attentions.0.transformer_blocks.4.attn1": "=",
        "up_blocks.0.attentions.0.transformer_blocks.4.attn1": "=",
        "up_blocks.0.attentions.1.transformer_blocks.3.attn1": "up_blocks.0.attentions.2.transformer_blocks.3.attn1",
        "up_blocks.2.resnets.1": "up_blocks.2.resnets.2",
        "down_blocks.0.resnets.0": "=",
    }.items():
        assert found[own] == (own if their == "=" else their)


@pytest.mark.parametrize(
    ("location", "theirs"),
    [("bottom", [0, 1, 2, 3, 4, 5]), ("interleave", [0, 2, 4, 6, 8, 9]), ("up", [4, 5, 6, 7, 8, 9])],
)
def test_the_location_decides_which_layers_of_a_deep_block_are_compared(location, theirs):
    found = matched(["SA@UP-1"], "tiny-koala-1b", location=location)
    assert paths(found) == [
        (
            f"up_blocks.0.attentions.{own}.transformer_blocks.{layer}.attn1",
            f"up_blocks.0.attentions.{their}.transformer_blocks.{theirs[layer]}.attn1",
        )
        for own, their in ((0, 0), (1, 2))
        for layer in range(6)
    ]


def test_interleaving_is_the_papers():
    # candidate sets as KOALA prints them, counted from 1
    assert [layer + 1 for layer in layers("interleave", 6, 10)] == [1, 3, 5, 7, 9, 10]
    assert [layer + 1 for layer in layers("interleave", 5, 10)] == [1, 3, 5, 7, 9]
    assert [layer + 1 for layer in layers("up", 5, 10)] == [6, 7, 8, 9, 10]
    assert [layer + 1 for layer in layers("bottom", 5, 10)] == [1, 2, 3, 4, 5]


@given(st.integers(1, 40).flatmap(lambda kept: st.tuples(st.just(kept), st.integers(kept, 80))))
def test_layers_are_distinct_and_in_order_at_every_depth(depths):
    kept, depth = depths
    for location in ("bottom", "interleave", "up"):
        found = layers(location, kept, depth)
        assert len(found) == kept and list(found) == sorted({*found}) and found[0] >= 0 and found[-1] < depth
    assert layers("up", kept, depth)[-1] == depth - 1 and layers("bottom", kept, depth)[0] == 0
    evenly = layers("interleave", kept, depth)
    assert evenly[0] == 0 and (depth == kept or evenly != layers("bottom", kept, depth) or kept == 1)


@pytest.mark.parametrize("student", ["tiny-bk-sdm-base", "tiny-bk-sdm-small"])
def test_bk_sdm_base_and_small_compare_eight_stages_and_not_the_mid_block(student):
    assert paths(matched(["LF@DW", "LF@UP"], student, "tiny-sdm-v1.4")) == [(path, path) for path in STAGES_OF_SD]


def test_bk_sdm_tiny_compares_six_places():
    assert paths(matched(BK_TINY, "tiny-bk-sdm-tiny", "tiny-sdm-v1.4")) == [
        ("down_blocks.0", "down_blocks.0"),
        ("down_blocks.1", "down_blocks.1"),
        ("down_blocks.2.attentions.0.proj_out", "down_blocks.2.attentions.1.proj_out"),
        *[(f"up_blocks.{i}", f"up_blocks.{i + 1}") for i in range(3)],
    ]


def test_segmind_small_compares_all_nine_stages():
    found = matched(["LF"], "tiny-segmind-small-sd", "tiny-realistic-vision-v4.0")
    assert paths(found) == [(path, path) for path in (*STAGES_OF_SD[:4], "mid_block", *STAGES_OF_SD[4:])]


def test_segmind_tiny_compares_the_teachers_first_up_stage_with_the_students_last_down_stage():
    found = matched(SEGMIND_TINY, "tiny-segmind-tiny-sd", "tiny-realistic-vision-v4.0")
    assert found[2] == Pair("module", "DW-3", "down_blocks.2", "up_blocks.0")
    ups = [(f"up_blocks.{i}", f"up_blocks.{i + 1}") for i in range(3)]
    assert paths(found)[3:] == ups and len(found) == 6


@pytest.mark.parametrize("student", ["tiny-bk-sdxl", "tiny-koala-1b", "tiny-koala-700m"])
def test_the_outermost_stages_of_sdxls_students_have_last_features(student):
    # App. B.1 of KOALA
    found = matched(["SA", "LF@DW-1", "LF@UP-3"], student)
    assert paths(found)[-2:] == [("down_blocks.0", "down_blocks.0"), ("up_blocks.2", "up_blocks.2")]
    assert [pair.stage for pair in found[-2:]] == ["DW-1", "UP-3"]


@pytest.mark.parametrize("kind", ["SA", "CA", "FFN", "Res", "LF", "PO"])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("tiny-koala-1b", "tiny-sdxl"), ("tiny-ssd-1b", "tiny-sdxl"), ("tiny-bk-sdm-base", "tiny-sdm-v1.4")],
)
def test_every_kind_pairs_each_of_the_students_modules_once_with_shapes_alike(kind, student, teacher):
    own, theirs = zoo.get(student).unet, zoo.get(teacher).unet
    found = pairs([kind], "interleave", theirs, own)
    assert [pair.student for pair in found] == [path for stage in stages(own) for path in stage.modules(kind)]
    assert len({pair.teacher for pair in found}) == len(found)
    assert all(output_shapes(own)[pair.student] == output_shapes(theirs)[pair.teacher] for pair in found)


def test_a_kind_alone_skips_the_stages_that_lack_it():
    assert {pair.stage for pair in matched(["CA"], "tiny-koala-700m", "tiny-sdxl")} == {"DW-2", "DW-3", "UP-1", "UP-2"}
    assert {pair.stage for pair in matched(["FFN@DW"], "tiny-koala-700m", "tiny-sdxl")} == {"DW-2", "DW-3"}


def test_what_is_named_twice_is_compared_once():
    once = matched(["SA"], "tiny-koala-700m", "tiny-sdxl")
    assert matched(["SA", "SA@UP-1", "SA"], "tiny-koala-700m", "tiny-sdxl") == once


def test_no_features_are_no_pairs():
    assert matched([], "tiny-koala-700m") == ()


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-ssd-1b", "tiny-sdm-v1.4"])
def test_shapes_are_those_of_the_whole_u_net(name):
    spec, shapes = zoo.get(name), {}
    unet = load(spec, "cpu", parts=("unet",)).unet
    for path, module in unet.named_modules():
        module.register_forward_hook(
            lambda _, __, output, path=path: shapes.update(
                {path: (output[0] if isinstance(output, tuple) else output).shape}
            )
        )
    inputs = unet_inputs(spec, 64 * spec.downscale, 1, torch.float32, torch.device("cpu"))
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :1]
    with torch.no_grad():
        unet(**inputs, return_dict=False)
    del shapes[""]
    assert output_shapes(spec.unet) == shapes


TINY_SDXL = zoo.get("tiny-sdxl").unet


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (["SA@DW-1"], "SA@DW-1: the student has no such features: DW-1 has Res, LF$"),
        (["PO@UP-3"], "UP-3 has Res, LF$"),
        (["SA@Mid"], r"unknown stage 'Mid'; known: DW, DW-1, DW-2, DW-3, UP, UP-1, UP-2, UP-3$"),
        (["SA@"], "unknown stage ''"),
        (["sa"], r"unknown feature kind 'sa'.*; known: CA, FFN, LF, PO, Res, SA"),
        (["down_block.2=up_blocks.0"], "the student has no module 'down_block.2' .* the nearest are .*down_blocks.2"),
        (["down_blocks.2=up_blocks.9"], "the teacher has no module 'up_blocks.9'"),
        (["down_blocks.2.resnets=down_blocks.2"], "the student has no module 'down_blocks.2.resnets' with an output"),
        (["conv_in=conv_out"], r"conv_in gives \(1, 32, 64, 64\) and the teacher's conv_out \(1, 4, 64, 64\)"),
    ],
)
def test_what_cannot_be_compared_is_told(features, said):
    with pytest.raises(KoalaError, match=said):
        matched(features, "tiny-koala-700m", "tiny-sdxl")


def test_features_of_unlike_shapes_name_their_pair():
    # the student's last down stage has no downsampler, the teacher's has
    with pytest.raises(KoalaError, match=r"LF at DW-3: the student's down_blocks.2 gives \(1, 128, 16, 16\) .* 8, 8\)"):
        matched(["LF"], "tiny-bk-sdm-tiny", "tiny-sdm-v1.4")


@pytest.mark.parametrize(
    ("changes", "features", "said"),
    [
        ({"mid_depth": None}, ["LF"], "LF at Mid: the teacher has no such features in its mid_block"),
        ({"transformer_depths": (0, 0, 10)}, ["SA"], "SA at DW-2: the teacher has no such features"),
        (
            {"transformer_depths": (0, 1, 10)},
            ["SA"],
            "SA at DW-2: down_blocks.1.attentions.0 has 2 transformer layers and the teacher's .*attentions.0 1$",
        ),
        ({"heads": (2, 4, 8), "channels": (32, 64, 64)}, ["Res"], "Res at DW-3: the student's down_blocks.2.resnets.0"),
    ],
)
def test_a_teacher_with_less_than_its_student_is_told(changes, features, said):
    with pytest.raises(KoalaError, match=said):
        pairs(features, "bottom", replace(TINY_SDXL, **changes), zoo.get("tiny-koala-1b").unet)


def test_unknown_names_are_of_the_kind_that_lists_what_is_known():
    with pytest.raises(UnknownName, match="did you mean 'UP-1'"):
        matched(["SA@UP1"], "tiny-koala-700m", "tiny-sdxl")


def test_a_student_of_other_parts_than_any_of_the_zoo_is_matched_by_the_same_rules():
    # fewer stages, fewer blocks and fewer layers at once
    teacher = replace(TINY_SDXL, channels=(32, 64, 64), heads=(2, 4, 4), layers_per_block=3)
    student = replace(
        teacher, channels=(32, 64), heads=(2, 4), transformer_depths=(0, 2), layers_per_block=1, mid_depth=None
    )
    found = dict(paths(pairs(["SA@UP", "LF@UP-2"], "up", teacher, student)))
    assert found == {
        **{
            f"up_blocks.0.attentions.{own}.transformer_blocks.{i}.attn1": (
                f"up_blocks.1.attentions.{their}.transformer_blocks.{i}.attn1"
            )
            for own, their in ((0, 0), (1, 3))
            for i in (0, 1)
        },
        "up_blocks.1": "up_blocks.2",
    }
    assert all(part in LAYER_PARTS.values() or part.isdigit() for part in (path.split(".")[-1] for path in found))
