import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.distill.prediction import add_noise, converted, target
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.noising import EDM, SD, training_schedule
from koala.sampling.schedules import PREDICTIONS, build_scheduler

ALL = torch.arange(1000)


def reference():
    return DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")


def rows(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, 3, 3, generator=generator, dtype=dtype) for _ in range(2)]


def test_the_schedule_of_training_is_the_one_that_samplers_run_on():
    for spec in map(zoo.get, zoo.names()):
        if spec.noising != "sd":
            continue
        assert torch.equal(build_scheduler(spec.recipe, spec.prediction).alphas_cumprod, training_schedule())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_as_diffusers_adds_it(dtype):
    clean, noise = rows(1000, dtype)
    expected = reference().add_noise(clean, noise, ALL)
    torch.testing.assert_close(add_noise(clean, noise, ALL), expected, atol=1e-6, rtol=0)


def test_targets_are_those_of_diffusers():
    clean, noise = rows(1000)
    assert torch.equal(target("epsilon", clean, noise, ALL), noise)
    assert torch.equal(target("sample", clean, noise, ALL), clean)
    expected = reference().get_velocity(clean, noise, ALL)
    torch.testing.assert_close(target("v_prediction", clean, noise, ALL), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("to", PREDICTIONS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_right_prediction_of_one_kind_is_a_right_one_of_any_other(kind, to):
    clean, noise = rows(1000, torch.float64)
    noisy = add_noise(clean, noise, ALL)
    found = converted(target(kind, clean, noise, ALL), kind, to, noisy, ALL)
    torch.testing.assert_close(found, target(to, clean, noise, ALL), atol=1e-10, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PREDICTIONS), st.sampled_from(PREDICTIONS), st.integers(0, 999), st.integers(0, 2**30))
def test_any_prediction_survives_the_way_there_and_back(kind, to, timestep, seed):
    generator = torch.Generator().manual_seed(seed)
    prediction, noisy = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(2))
    t = torch.tensor([timestep])
    back = converted(converted(prediction, kind, to, noisy, t), to, kind, noisy, t)
    torch.testing.assert_close(back, prediction, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_are_told_as_diffusers_schedulers_read_them(kind):
    prediction, noisy = rows(1)
    scheduler = build_scheduler(zoo.get("sdm-v2.0").recipe, kind)  # ddim
    scheduler.set_timesteps(25)
    t = scheduler.timesteps[3]
    clean = scheduler.step(prediction, t, noisy).pred_original_sample
    found = converted(prediction, kind, "sample", noisy, t[None])
    torch.testing.assert_close(found, clean, atol=1e-5, rtol=1e-5)


def test_low_precision_is_left_before_the_arithmetic():
    prediction, noisy = (tensor.to(torch.bfloat16) for tensor in rows(1000))
    found = converted(prediction, "v_prediction", "epsilon", noisy, ALL)
    assert found.dtype == torch.float32
    expected = converted(prediction.float(), "v_prediction", "epsilon", noisy.float(), ALL)
    assert torch.equal(found, expected)
    assert converted(prediction, "epsilon", "epsilon", noisy, ALL).dtype == torch.float32


def test_signal_to_noise_is_that_of_diffusers():
    torch.testing.assert_close(SD.signal_to_noise(ALL), compute_snr(reference(), ALL), rtol=1e-4, atol=0)


def test_unknown_kinds_are_told():
    clean, noise = rows(1)
    for call in (
        lambda: target("velocity", clean, noise, ALL[:1]),
        lambda: converted(clean, "epsilon", "velocity", noise, ALL[:1]),
        lambda: converted(clean, "velocity", "epsilon", noise, ALL[:1]),
    ):
        with pytest.raises(KoalaError, match="unknown prediction 'velocity'"):
            call()


@given(st.integers(0, 999), st.integers(0, 2**31))
def test_with_edms_noise_the_sample_is_kept_whole_and_told_by_its_noise(timestep, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    timesteps = torch.full((2,), timestep)
    sigma = (0.002 ** (1 / 7) + timestep / 999 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    noisy = add_noise(clean, noise, timesteps, EDM)
    torch.testing.assert_close(noisy, clean + sigma * noise)
    for kind, right in (("epsilon", noise), ("sample", clean)):
        assert target(kind, clean, noise, timesteps, EDM) is right
        torch.testing.assert_close(converted(right, kind, "sample", noisy, timesteps, EDM), clean)
        torch.testing.assert_close(
            converted(right, kind, "epsilon", noisy, timesteps, EDM), noise, rtol=1e-6, atol=1e-9
        )
