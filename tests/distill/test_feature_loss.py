"""The feature term against hooks and sums spelled out, and what it keeps."""

import weakref
from contextlib import ExitStack

import pytest
import torch
from distilled import STAGES
from tapped_networks import (
    SELF_ATTENTION,
    SMALL,
    assert_alike,
    first,
    gradients,
    inputs_of,
    reference,
    small_pairs,
    terms,
    unet_of,
)
from torch.utils.checkpoint import checkpoint

from koala.distill.feature_loss import FeatureLoss
from koala.distill.matching import Pair, pairs
from koala.errors import KoalaError
from koala.models import zoo

UPS = [(f"up_blocks.{i}", f"up_blocks.{i + 1}") for i in range(3)]
CASES = {  # student, what is compared, the same as paths; those of KOALA and BK-SDM are in test_kd.py
    "small": ("tiny-segmind-small-sd", ("LF",), [*STAGES, ("mid_block", "mid_block")]),
    "tiny": (
        "tiny-segmind-tiny-sd",
        ("LF@DW-1", "LF@DW-2", "down_blocks.2=up_blocks.0", "LF@UP"),
        [*STAGES[:2], ("down_blocks.2", "up_blocks.0"), *UPS],
    ),
}


@pytest.fixture
def tapped():
    """`FeatureLoss`, whose hooks go when the test ends."""
    with ExitStack() as made:

        def build(*arguments):
            loss = FeatureLoss(*arguments)
            made.callback(loss.remove)
            return loss

        yield build


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_hooks_and_sums_spelled_out(case, tapped):
    student, features, paths = CASES[case]
    student, teacher = zoo.get(student), zoo.get("tiny-realistic-vision-v4.0")
    inputs = inputs_of(student)
    teacher_unet = unet_of(teacher, seed=7, trained=False)

    unet = unet_of(student)
    loss = tapped(pairs(features, "bottom", teacher.unet, student.unet), unet, teacher_unet)
    found, prediction = terms(loss, unet, teacher_unet, inputs)
    (prediction.square().mean() + found["feature"]).backward()

    plain = unet_of(student)
    distances, expected_prediction = reference(plain, teacher_unet, paths, inputs)
    (expected_prediction.square().mean() + sum(distances.values())).backward()

    assert torch.equal(prediction, expected_prediction)
    assert found["feature"].item() == pytest.approx(sum(distances.values()).item(), rel=1e-6)
    assert_alike(gradients(unet), gradients(plain))


@pytest.fixture(scope="module")
def teacher():
    return unet_of(SMALL, seed=7, trained=False)


@pytest.fixture(scope="module")
def inputs():
    return inputs_of(SMALL)


def test_each_stage_has_its_own_sum_and_they_add_up(teacher, inputs, tapped):
    student = unet_of(SMALL)
    matched = small_pairs()
    found, _ = terms(tapped(matched, student, teacher), student, teacher, inputs)
    distances, _ = reference(unet_of(SMALL), teacher, [(pair.student, pair.teacher) for pair in matched], inputs)
    assert found.keys() == {"feature", "feature/DW-1", "feature/DW-2", "feature/UP-1", "feature/UP-2"}
    for stage in ("DW-1", "DW-2", "UP-1", "UP-2"):
        expected = sum(distances[pair.student] for pair in matched if pair.stage == stage)
        torch.testing.assert_close(found[f"feature/{stage}"], expected, rtol=1e-6, atol=0)
        (gradient,) = torch.autograd.grad(found[f"feature/{stage}"], student.conv_in.weight, retain_graph=True)
        assert gradient.abs().sum() > 0
    torch.testing.assert_close(found["feature"], sum(distances.values()), rtol=1e-6, atol=0)


def storages_of(network, names, dead):
    """Notes in `dead` the name of each module whose output's memory is freed."""

    def watch(name):
        def hook(_, __, output):
            weakref.finalize(first(output).untyped_storage(), dead.append, name)

        return network.get_submodule(name).register_forward_hook(hook)

    return [watch(name) for name in names]


def test_a_teachers_feature_dies_as_soon_as_the_students_is_compared(teacher, inputs, tapped):
    student, dead, alive = unet_of(SMALL), [], []
    loss = tapped(small_pairs(["SA"]), student, teacher)
    hooks = storages_of(teacher, SELF_ATTENTION, dead)
    for name in SELF_ATTENTION:  # fires after the comparison, which was there first
        hooks.append(student.get_submodule(name).register_forward_hook(lambda *_: alive.append(list(dead))))
    with torch.no_grad(), loss.teacher():
        teacher(**inputs)
    assert dead == []
    with loss.student():
        prediction = student(**inputs).sample
    for hook in hooks:
        hook.remove()
    assert alive == [SELF_ATTENTION[: i + 1] for i in range(len(SELF_ATTENTION))]
    assert prediction.requires_grad and loss.take()["feature"].requires_grad


def test_taking_leaves_nothing_behind(teacher, inputs, tapped):
    student = unet_of(SMALL)
    loss = tapped(small_pairs(), student, teacher)
    found, _ = terms(loss, student, teacher, inputs)
    total = weakref.ref(found["feature"])
    del found
    assert total() is None
    with pytest.raises(AssertionError, match="the student comes first"):
        loss.take()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_checkpointing_and_autocast_have_the_gradients_of_the_reference(
    teacher, inputs, checkpointing, autocast, tapped
):
    student, plain, matched = unet_of(SMALL), unet_of(SMALL), small_pairs()
    loss = tapped(matched, student, teacher)
    if checkpointing:
        student.enable_gradient_checkpointing()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, prediction = terms(loss, student, teacher, inputs)
        paths = [(pair.student, pair.teacher) for pair in matched]
        distances, expected = reference(plain, teacher, paths, inputs)
    (prediction.float().square().mean() + found["feature"]).backward()
    (expected.float().square().mean() + sum(distances.values())).backward()
    assert found["feature"].dtype == torch.float32
    torch.testing.assert_close(found["feature"], sum(distances.values()), rtol=1e-6, atol=0)
    if autocast:  # the difference is kept in bf16: each gradient is right to a few roundings of that
        assert_alike(gradients(student), gradients(plain), whole=0.01, each=1.0)
    else:
        assert_alike(gradients(student), gradients(plain))


def test_a_compiled_student_has_the_same_terms(teacher, inputs, tapped):
    torch._dynamo.reset()
    student = unet_of(SMALL)
    loss = tapped(small_pairs(), student, teacher)
    expected, _ = terms(loss, student, teacher, inputs)
    compiled = torch.compile(student, backend="eager")
    for _ in range(2):
        found, _ = terms(loss, compiled, teacher, inputs)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0)


def test_without_gradients_there_are_values(teacher, inputs, tapped):
    student = unet_of(SMALL)
    loss = tapped(small_pairs(), student, teacher)
    expected, _ = terms(loss, student, teacher, inputs)
    with torch.no_grad():
        found, _ = terms(loss, student, teacher, inputs)
    assert not found["feature"].requires_grad and torch.equal(found["feature"], expected["feature"])


def test_a_module_may_be_compared_with_several(teacher, inputs, tapped):
    student = unet_of(SMALL)
    one, other = (
        Pair("module", "DW-1", "down_blocks.1.resnets.0", f"{way}_blocks.{i}.resnets.0")
        for way, i in (("down", 1), ("up", 0))
    )
    again = Pair("module", "UP-1", "up_blocks.0.resnets.0", "up_blocks.0.resnets.0")
    apart = [
        terms(tapped([pair], student, teacher), student, teacher, inputs)[0]["feature"] for pair in (one, other, again)
    ]
    together, _ = terms(tapped([one, other, again], student, teacher), student, teacher, inputs)
    torch.testing.assert_close(together["feature"], sum(apart), rtol=1e-6, atol=0)


def test_what_never_came_or_came_twice_or_out_of_turn_is_named(teacher, inputs, tapped):
    student = unet_of(SMALL, trained=False)
    loss = tapped(small_pairs(["LF@DW-1"]), student, teacher)
    with pytest.raises(AssertionError, match=r"teacher never ran \['down_blocks\.0'\]"), loss.teacher():
        pass
    with pytest.raises(AssertionError, match="the teacher comes first"), loss.student():
        pass
    with pytest.raises(AssertionError, match=r"teacher ran down_blocks\.0 twice"), loss.teacher():
        teacher(**inputs)
        teacher(**inputs)
    for calls, said in ((0, r"student never ran \['down_blocks\.0'\]"), (2, r"student ran down_blocks\.0 twice")):
        with loss.teacher():
            teacher(**inputs)
        with pytest.raises(AssertionError, match=said), loss.student():
            for _ in range(calls):
                student(**inputs)
    assert terms(loss, student, teacher, inputs)[0]["feature"] > 0  # and works afterwards


def test_checkpointing_that_hides_features_is_refused(teacher, inputs, tapped):
    student = unet_of(SMALL)
    loss = tapped(small_pairs(["SA"]), student, teacher)
    student.enable_gradient_checkpointing(lambda module, *a: checkpoint(module.__call__, *a, use_reentrant=True))
    with pytest.raises(AssertionError, match="reentrant gradient checkpointing hides features"):
        terms(loss, student, teacher, inputs)


def test_hooks_of_both_networks_go_also_when_one_lacks_a_module(teacher, tapped):
    student = unet_of(SMALL)
    loss = tapped(small_pairs(), student, teacher)
    loss.remove()
    with pytest.raises(KoalaError, match="no module 'mid_block'"):
        tapped([Pair("LF", "Mid", "mid_block", "down_blocks.0")], student, teacher)
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())
