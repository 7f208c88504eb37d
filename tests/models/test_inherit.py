from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.errors import KoalaError
from koala.models import zoo
from koala.models.inherit import inherit, unet_shapes
from koala.models.spec import UNetPlan

SDXL, SD = zoo.get("sdxl").unet, zoo.get("sdm-v1.4").unet
DISTILLED = {
    "sdxl": ["bk-sdxl", "koala-1b", "koala-700m", "koala-lightning-700m", "ssd-1b", "segmind-vega", "sdxl-turbo"],
    "ssd-1b": ["segmind-vega"],
    "bk-sdxl": ["koala-1b", "koala-700m"],
    "koala-1b": ["koala-700m"],
    "sdm-v1.4": ["bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny", "sdm-v1.5"],
    "bk-sdm-base": ["bk-sdm-small", "bk-sdm-tiny"],
    "sdm-v2.1-base": ["bk-sdm-v2-base", "bk-sdm-v2-small", "bk-sdm-v2-tiny", "sdm-v2.0"],
    "realistic-vision-v4.0": ["segmind-small-sd", "segmind-tiny-sd"],
}
PAIRS = [(teacher, student) for teacher, students in DISTILLED.items() for student in students]
NAIVE_MISFITS = {
    f"up_blocks.{stage}.resnets.1.{tensor}"
    for stage in (0, 1)
    for tensor in ("norm1.weight", "norm1.bias", "conv1.weight", "conv_shortcut.weight")
}


def one_of_each_plan():
    return list({zoo.get(name).unet: name for name in reversed(zoo.names()) if not name.endswith("-64")}.values())


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_a_published_student_inherits_every_parameter_from_its_teacher(teacher, student):
    teacher, student = zoo.get(teacher), zoo.get(student)
    found = inherit(teacher.unet, student.unet)
    assert found.fresh == ()
    assert list(found.inherited) == list(unet_shapes(student.unet))
    assert len(set(found.inherited.values())) == len(found.inherited)
    theirs = unet_shapes(teacher.unet)
    assert sum(prod(theirs[place]) for place in found.inherited.values()) == student.unet_params


@pytest.mark.parametrize("teacher", one_of_each_plan())
@pytest.mark.parametrize("student", one_of_each_plan())
def test_any_pair_of_the_zoo_is_inherited_or_told_what_keeps_it_apart(teacher, student):
    teacher, student = zoo.get(teacher).unet, zoo.get(student).unet
    try:
        found = inherit(teacher, student)
    except KoalaError as error:
        assert "the teacher has" in str(error)
    else:
        assert {*found.inherited, *found.fresh} == unet_shapes(student).keys()


@pytest.mark.parametrize("name", one_of_each_plan())
def test_a_model_inherits_itself_unchanged(name):
    plan = zoo.get(name).unet
    assert all(key == place for key, place in inherit(plan, plan).inherited.items())


@pytest.mark.parametrize("student", ["koala-1b", "koala-700m"])
def test_a_same_key_copy_of_sdxl_fails_on_eight_tensors_that_inheritance_takes_from_the_last_block(student):
    # facts of KOALA's paper: papers.md 1.2
    student = zoo.get(student).unet
    theirs, own = unet_shapes(SDXL), unet_shapes(student)
    assert {key for key in own if theirs.get(key) != own[key]} == NAIVE_MISFITS
    inherited = inherit(SDXL, student).inherited
    for key in NAIVE_MISFITS:
        assert inherited[key] == key.replace("resnets.1", "resnets.2")
        assert theirs[inherited[key]] == own[key]


def test_koala_keeps_the_first_block_down_the_first_and_last_up_and_the_first_layers():
    inherited = inherit(SDXL, zoo.get("koala-700m").unet).inherited
    for key, place in {
        "down_blocks.2.attentions.0.transformer_blocks.4.attn1.to_q.weight": "=",
        "down_blocks.1.resnets.0.conv1.weight": "=",
        "up_blocks.0.attentions.0.transformer_blocks.4.ff.net.2.weight": "=",
        "up_blocks.0.attentions.1.transformer_blocks.4.ff.net.2.weight": (
            "up_blocks.0.attentions.2.transformer_blocks.4.ff.net.2.weight"
        ),
        "up_blocks.2.resnets.1.conv2.bias": "up_blocks.2.resnets.2.conv2.bias",
        "up_blocks.1.upsamplers.0.conv.weight": "=",
        "time_embedding.linear_1.weight": "=",
    }.items():
        assert inherited[key] == (key if place == "=" else place)
    kept = {key for key in inherited if key.startswith("down_blocks.2.attentions.0.transformer_blocks.")}
    assert {int(key.split(".")[5]) for key in kept} == {0, 1, 2, 3, 4}


def test_bk_tiny_counts_up_stages_from_the_highest_resolution_and_loses_the_innermost_one():
    inherited = inherit(SD, zoo.get("bk-sdm-tiny").unet).inherited
    for key, place in {
        "up_blocks.0.resnets.0.conv1.weight": "up_blocks.1.resnets.0.conv1.weight",
        "up_blocks.0.attentions.1.proj_in.weight": "up_blocks.1.attentions.2.proj_in.weight",
        "up_blocks.1.upsamplers.0.conv.bias": "up_blocks.2.upsamplers.0.conv.bias",
        "up_blocks.2.resnets.1.norm2.bias": "up_blocks.3.resnets.2.norm2.bias",
        "down_blocks.2.attentions.0.proj_out.weight": "down_blocks.2.attentions.0.proj_out.weight",
    }.items():
        assert inherited[key] == place
    assert not [key for key in inherited if key.startswith(("mid_block", "down_blocks.2.downsamplers"))]
    assert not [
        place for place in inherited.values() if place.startswith(("mid_block", "down_blocks.3", "up_blocks.0"))
    ]


@pytest.mark.parametrize(
    ("changes", "fresh"),
    [
        (
            {"context_dim": 1024},
            2 * (2 * 2 + 10 * 2 + 10 + 10 * 3 + 2 * 3),
        ),  # keys and values of each transformer layer
        ({"pooled_dim": 640}, 1),  # the first layer's matrix; its bias and the second layer do not see the width
        ({"pooled_dim": None, "class_labels": 11}, 1),
    ],
)
def test_only_what_reads_another_conditioning_is_fresh(changes, fresh):
    student = replace(SDXL, **changes)
    found = inherit(SDXL, student)
    assert len(found.fresh) == fresh
    assert {*found.inherited, *found.fresh} == unet_shapes(student).keys()
    assert all(unet_shapes(SDXL)[place] == unet_shapes(student)[key] for key, place in found.inherited.items())
    assert all(any(part in key for part in ("attn2.to_", "_embedding")) for key in found.fresh)


@pytest.mark.parametrize(
    ("teacher", "changes", "said"),
    [
        (SDXL, {"sample_channels": 3}, "channels of what is denoised: the teacher has 4, the student 3"),
        (SDXL, {"channels": (320, 640, 960)}, "channels per stage: the teacher has 320, 640, 1280, the student 320,"),
        (SDXL, {"heads": (5, 10, 10)}, "heads per stage: the teacher has 5, 10, 20, the student 5, 10, 10"),
        (SDXL, {"layers_per_block": 3}, "blocks per down stage: the teacher has 2, the student 3"),
        (SDXL, {"transformer_depths": (0, 4, 10)}, "per down stage: the teacher has 0, 2, 10, the student 0, 4, 10"),
        (SDXL, {"transformer_depths": (1, 2, 10)}, "per down stage: the teacher has 0, 2, 10, the student 1, 2, 10"),
        (SDXL, {"linear_projection": False}, "linear projections: the teacher has yes, the student no"),
        (
            SDXL,
            {"up_transformer_depths": ((10, 10, 10), (2, 2, 3), (0, 0, 0))},
            "blocks of up stage 1: the teacher has 2, 2, 2, the student 2, 2, 3",
        ),
        (zoo.get("koala-700m").unet, {"mid_depth": 0}, "the mid block: the teacher has none, the student 0"),
        (SD, {"transformer_depths": (1, 1, 1, 0), "mid_depth": 2}, "the mid block: the teacher has 1, the student 2"),
    ],
)
def test_an_impossible_pair_says_what_differs(teacher, changes, said):
    with pytest.raises(KoalaError, match=said):
        inherit(teacher, replace(teacher, **changes))


def test_a_student_with_more_stages_than_its_teacher_is_impossible():
    with pytest.raises(
        KoalaError, match="channels per stage: the teacher has 320, 640, 1280, the student 320, 640, 12"
    ):
        inherit(zoo.get("bk-sdm-tiny").unet, SD)


def test_stages_cut_where_the_channels_change_name_the_tensors_that_do_not_fit():
    student = replace(SDXL, channels=(320, 640), transformer_depths=(0, 2), heads=(5, 10), mid_depth=None)
    with pytest.raises(KoalaError, match=r"up_blocks\.0\.resnets\.0\.norm1\.weight \(1280,\) from up_blocks\.1.*1920"):
        inherit(SDXL, student)


@st.composite
def teachers(draw):
    """Arguments of a plan; of a plan itself, beartype would check random items, which strategies must not draw."""
    stages = draw(st.integers(2, 4))
    widths = sorted(draw(st.lists(st.sampled_from([32, 64]), min_size=stages, max_size=stages)))
    depths = draw(st.lists(st.integers(0, 2), min_size=stages, max_size=stages))
    layers = draw(st.integers(1, 3))
    up_depths = st.integers(0, 2).flatmap(lambda most: st.tuples(*[st.integers(min(1, most), most)] * (layers + 1)))
    return {
        "channels": tuple(widths),
        "transformer_depths": tuple(depths),
        "layers_per_block": layers,
        "mid_depth": draw(st.sampled_from([None, 0, depths[-1] or 2])),
        "heads": tuple(width // 16 for width in widths),
        "context_dim": 16,
        "pooled_dim": draw(st.sampled_from([None, 8])),
        "time_id_dim": 8,
        "linear_projection": draw(st.booleans()),
        "up_transformer_depths": draw(st.none() | st.tuples(*[up_depths] * stages)),
    }


def less(draw, depth):
    """A depth that is no more, and at least one layer where there was one."""
    return draw(st.integers(min(1, depth), depth))


@st.composite
def pairs(draw):
    """Arguments of a teacher's plan and of a student's that is cut out of it."""
    teacher = draw(teachers())
    channels, mid, up = (teacher[name] for name in ("channels", "mid_depth", "up_transformer_depths"))
    whole = len(channels)
    stages = draw(st.sampled_from([n for n in range(2, whole + 1) if n == whole or channels[n] == channels[n - 1]]))
    layers = draw(st.integers(1, teacher["layers_per_block"]))
    depths = tuple(less(draw, depth) for depth in teacher["transformer_depths"][:stages])
    if up is not None:
        kept = [[*blocks[:layers], blocks[-1]] for blocks in up[whole - stages :]]
        up = tuple(tuple(less(draw, depth) for depth in blocks) for blocks in kept)
    mids = [None]
    if mid is not None and channels[-1] == channels[stages - 1]:
        mids += [0, depths[-1] or mid] if (depths[-1] or mid) <= mid else [0]
    student = {
        "channels": channels[:stages],
        "transformer_depths": depths,
        "heads": teacher["heads"][:stages],
        "layers_per_block": layers,
        "mid_depth": draw(st.sampled_from(mids)),
        "up_transformer_depths": up,
    }
    return teacher, teacher | student


@settings(deadline=None, max_examples=40)
@given(pairs())
def test_whatever_is_cut_from_a_teacher_is_inherited_whole_and_in_order(pair):
    teacher, student = (UNetPlan(**arguments) for arguments in pair)
    found = inherit(teacher, student)
    own, theirs = unet_shapes(student), unet_shapes(teacher)
    assert found.fresh == ()
    assert list(found.inherited) == list(own)
    assert all(theirs[place] == own[key] for key, place in found.inherited.items())
    assert len(set(found.inherited.values())) == len(own)
    position = {key: i for i, key in enumerate(theirs)}
    positions = [position[place] for place in found.inherited.values()]
    assert positions == sorted(positions)  # blocks and layers keep their order
    for key, place in found.inherited.items():
        assert [part for part in key.split(".") if not part.isdigit()] == [
            p for p in place.split(".") if not p.isdigit()
        ]
    last, dropped = (teacher.layers_per_block, student.layers_per_block), len(teacher.channels) - len(student.channels)
    for stage in range(len(student.channels)):
        for theirs_block, block in ((0, 0), last):
            place = f"up_blocks.{stage + dropped}.resnets.{theirs_block}.conv1.weight"
            assert found.inherited[f"up_blocks.{stage}.resnets.{block}.conv1.weight"] == place
