import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from koala.distill.losses import feature_distance, min_snr_weights, output_loss, task_loss
from koala.errors import UnknownName


def two(shape, dtype=torch.float32, seed=0):
    """A student's feature that wants a gradient, and a teacher's."""
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(shape, generator=random).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def by_mse(student, teacher, upstream=1.0):
    """Value and gradient of the definition, in fp32."""
    student = student.detach().clone().requires_grad_()
    loss = F.mse_loss(student.float(), teacher.float())
    (loss * upstream).backward()
    return loss.detach(), student.grad


shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(0, 100), st.floats(0.01, 100))
def test_feature_distance_and_its_gradient_are_those_of_the_mean_squared_error(shape, seed, upstream):
    student, teacher = two(shape, seed=seed)
    value, gradient = by_mse(student, teacher, upstream)
    loss = feature_distance(student, teacher)
    (loss * upstream).backward()
    torch.testing.assert_close(loss.detach(), value, rtol=1e-6, atol=0)
    torch.testing.assert_close(student.grad, gradient, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_value_is_that_of_fp32_and_the_gradient_is_right_to_rounding(dtype):
    student, teacher = two((3, 64, 40), dtype)
    value, gradient = by_mse(student, teacher, 1e3)
    loss = feature_distance(student, teacher)
    (loss * 1e3).backward()
    assert loss.dtype == torch.float32 and student.grad.dtype == dtype
    torch.testing.assert_close(loss.detach(), value, rtol=1e-6, atol=0)
    rounding = 2 * torch.finfo(dtype).eps  # of the difference that is kept, and of the gradient
    torch.testing.assert_close(student.grad, gradient, rtol=rounding, atol=torch.finfo(dtype).tiny)


def test_a_teacher_of_another_dtype_is_compared_in_fp32():
    student, _ = two((5, 9))
    teacher = torch.randn(5, 9).to(torch.bfloat16)
    torch.testing.assert_close(feature_distance(student, teacher), F.mse_loss(student, teacher.float()))


def test_only_one_tensor_of_the_students_dtype_is_kept_for_the_backward_pass():
    for dtype in (torch.float32, torch.bfloat16):
        student, teacher = two((4, 6), dtype)
        gone = weakref.ref(teacher)
        loss = feature_distance(student, teacher)
        (kept,) = loss.grad_fn.saved_tensors
        assert kept.dtype == dtype and kept.shape == student.shape
        del teacher
        assert gone() is None
        loss.backward()


def test_a_teachers_feature_from_inference_mode_is_compared_like_any_other():
    student, teacher = two((4, 6))
    with torch.inference_mode():
        features = teacher.clone()
    feature_distance(student, features).backward()
    torch.testing.assert_close(student.grad, by_mse(student, teacher)[1])


def test_a_distance_taken_inside_a_checkpointed_part_is_no_part_of_what_is_recomputed():
    weight = torch.randn(6, 6, requires_grad=True)
    inputs, teacher = torch.randn(3, 6), torch.randn(3, 6)
    found = []

    def part(x):
        hidden = torch.tanh(x @ weight)
        if not found:  # not in the recomputation
            found.append(feature_distance(hidden, teacher))
        return torch.sin(hidden @ weight)

    (checkpoint(part, inputs, use_reentrant=False).sum() + found[0]).backward()
    ours = weight.grad.clone()
    weight.grad = None
    hidden = torch.tanh(inputs @ weight)
    (torch.sin(hidden @ weight).sum() + F.mse_loss(hidden, teacher)).backward()
    torch.testing.assert_close(ours, weight.grad, rtol=1e-6, atol=1e-7)


def test_under_autocast_the_arithmetic_stays_in_fp32():
    student, teacher = two((8, 32), torch.bfloat16)
    value, _ = by_mse(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (feature_distance, output_loss, task_loss):
            found = loss(student, teacher)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.detach(), value, rtol=1e-6, atol=0)


def test_features_of_unlike_shapes_are_never_stretched():
    with pytest.raises(AssertionError):
        feature_distance(torch.zeros(2, 4), torch.zeros(1, 4))


def test_a_teacher_that_would_want_a_gradient_is_refused():
    student, teacher = two((2, 3))
    for loss in (feature_distance, output_loss):
        with pytest.raises(AssertionError):
            loss(student, teacher.requires_grad_())


def test_task_and_output_loss_are_the_mean_squared_error_in_fp32():
    for dtype in (torch.float32, torch.bfloat16):
        student, teacher = two((2, 4, 8, 8), dtype)
        value, gradient = by_mse(student, teacher)
        for loss in (task_loss, output_loss):
            student.grad = None
            found = loss(student, teacher)
            found.backward()
            assert found.dtype == torch.float32
            assert found.item() == pytest.approx(value.item(), rel=1e-6)
            torch.testing.assert_close(student.grad, gradient)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 5, width=32), min_size=1, max_size=5), st.integers(0, 50))
def test_weights_multiply_the_mean_of_each_image(weights, seed):
    prediction, target = two((len(weights), 4, 3, 3), seed=seed)
    by_hand = sum(w * F.mse_loss(prediction[i], target[i]).item() for i, w in enumerate(weights)) / len(weights)
    assert task_loss(prediction, target, torch.tensor(weights)).item() == pytest.approx(by_hand, rel=1e-5, abs=1e-7)


def test_weights_of_one_change_nothing():
    prediction, target = two((3, 4, 5, 5))
    torch.testing.assert_close(task_loss(prediction, target, torch.ones(3)), task_loss(prediction, target))


SNR = torch.tensor([0.0, 0.5, 4.0, 5.0, 6.0, 1000.0])


@pytest.mark.parametrize(
    ("prediction", "expected"),  # Hang et al., 2023, section 3.4, with gamma = 5
    [
        ("epsilon", [1, 1, 1, 1, 5 / 6, 5 / 1000]),
        ("v_prediction", [0, 0.5 / 1.5, 4 / 5, 5 / 6, 5 / 7, 5 / 1001]),
        ("sample", [0, 0.5, 4, 5, 5, 5]),
    ],
)
def test_min_snr_weights_are_the_papers(prediction, expected):
    torch.testing.assert_close(min_snr_weights(SNR, 5.0, prediction), torch.tensor(expected).float())


def test_the_three_weights_are_one_loss_of_the_sample():
    # the error of a noise or a velocity is that of the sample times the ratio, or the ratio + 1
    sample = min_snr_weights(SNR[1:], 5.0, "sample")
    torch.testing.assert_close(min_snr_weights(SNR[1:], 5.0) * SNR[1:], sample)
    torch.testing.assert_close(min_snr_weights(SNR[1:], 5.0, "v_prediction") * (SNR[1:] + 1), sample)


def test_another_prediction_is_refused():
    with pytest.raises(UnknownName, match="epsilon, sample, v_prediction"):
        min_snr_weights(SNR, 5.0, "score")
