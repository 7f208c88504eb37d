"""What is timed, on the tiny twin of every kind of recipe in the zoo."""

from dataclasses import replace

import pytest
import torch

from bench.case import Case
from bench.instruments.clock import CpuClock
from bench.instruments.phases import Phases
from bench.measure import Workload, part_seconds
from bench.profiles import DIFFUSERS
from bench.survey import decode_dtype, unet_calls
from bench.workloads import SampledImage, UNetStep, build_workload
from koala.models import zoo
from koala.models.load import load
from koala.models.spec import ClipText
from koala.sampling.profiles import get as get_profile
from koala.sampling.schedules import build_scheduler, set_timesteps

BATCH = 2


def kinds_of_recipe():
    """One model for each way to sample: scheduler, guidance, explicit timesteps, prediction, size conditioning."""
    kinds = {}
    for name in zoo.names():
        spec = zoo.get(name)
        recipe = spec.recipe
        own = recipe.timesteps or recipe.timestep_spacing
        kind = (recipe.scheduler, recipe.guided, own, spec.prediction, spec.unet.pooled_dim is None)
        kinds.setdefault(kind, f"tiny-{name}")
    return sorted(kinds.values())


def case_of(model, target, profile="eager", steps=2, batch_size=BATCH, dtype="fp32"):
    spec = zoo.get(model)
    steps = spec.recipe.steps if spec.recipe.timesteps else min(steps, spec.recipe.steps)
    return Case(model, target, 64, batch_size, dtype, steps if target == "pipeline" else None, "cpu", profile=profile)


def built(case, spec=None):
    return build_workload(spec or zoo.get(case.model), case, Phases(CpuClock()))


def spans_of(workload):
    """The names of the spans of one run in the order in which they ended, and the seconds of each part."""
    workload.prepare()
    workload.phases.clear()
    CpuClock().time(workload.run)
    spans = workload.phases.spans()
    return [span.name for span in spans], part_seconds(spans)


def in_few_steps(model, steps):
    """The twin with a shorter recipe; one with explicit timesteps keeps its own."""
    spec = zoo.get(model)
    return spec if spec.recipe.timesteps else replace(spec, recipe=replace(spec.recipe, steps=steps))


@pytest.mark.parametrize("model", kinds_of_recipe())
def test_a_step_goes_through_the_whole_schedule_and_begins_again(model):
    spec, finals = in_few_steps(model, 3), []
    workload, _ = built(case_of(model, "unet"), spec)
    assert isinstance(workload, UNetStep)
    for _ in range(timesteps_of(spec) + 1):
        workload.prepare()
        finals.append(workload.run())
    assert finals[-1].shape == (BATCH, spec.unet.sample_channels, 64 // spec.downscale, 64 // spec.downscale)
    assert all(latents.isfinite().all() for latents in finals)
    assert [torch.equal(latents, finals[0]) for latents in finals] == [True, *[False] * (len(finals) - 2), True]
    assert set(spans_of(workload)[1]) == {"unet", "scheduler"}


def timesteps_of(spec):
    return len(
        set_timesteps(build_scheduler(spec.recipe, spec.prediction, spec.noising), spec.recipe, torch.device("cpu"))
    )


@pytest.mark.parametrize("profile", ["eager", "diffusers-eager"])
@pytest.mark.parametrize("model", kinds_of_recipe())
def test_every_pipeline_ends_in_float_images_with_one_time_a_step(model, profile):
    case, spec = case_of(model, "pipeline", profile), zoo.get(model)
    if profile == DIFFUSERS.name and not isinstance(spec.conditioning, ClipText):
        pytest.skip("diffusers has no pipeline for it")
    workload, _ = built(case)
    assert isinstance(workload, Workload)
    calls = timesteps_of(in_few_steps(model, case.steps))
    workload.prepare()
    images = workload.run()
    assert images.shape == (BATCH, 3, 64, 64)
    assert images.is_floating_point()
    assert 0 <= images.min() <= images.max() <= 1
    names, parts = spans_of(workload)
    assert names.count("step") == names.count("unet") == calls
    decoded = {"decode"} if spec.autoencoder else set()
    assert set(parts) - decoded == {"encode", "denoise", "rest", "unet", "scheduler"}
    assert unet_calls(spec, case) == calls * (2 if spec.recipe.guided else 1)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("profile", ["eager", "diffusers-eager"])
def test_the_stages_of_an_image_follow_each_other_with_the_rest_between_them(profile, steps):
    names, _ = spans_of(built(case_of("tiny-sdxl", "pipeline", profile, steps=steps))[0])
    a_step = ["scheduler", "unet", "scheduler", "step"]
    if profile == "diffusers-eager":  # seen from outside, a first step begins with its U-Net call
        assert [name for name in names if name not in ("rest", "scheduler")] == [
            *("encode", *["unet", "step"] * steps, "decode", "call")
        ]
    else:
        assert names == [
            *("rest", "encode", "rest"),
            *[*a_step, "rest"] * steps,
            *("decode", "rest", "call"),
        ]


def test_parts_add_up_to_the_whole_call():
    for profile in ("eager", "diffusers-eager"):
        workload, _ = built(case_of("tiny-sdxl", "pipeline", profile))
        ratios = []
        for _ in range(5):  # on a busy machine one call may lose the processor between two marks
            workload.prepare()
            workload.phases.clear()
            total = CpuClock().time(workload.run)["total"]
            parts = part_seconds(workload.phases.spans())
            ratios.append(sum(parts[name] for name in ("encode", "denoise", "decode", "rest")) / total)
            assert parts["unet"] + parts["scheduler"] <= parts["denoise"]
        assert max(ratios) == pytest.approx(1, abs=0.02)


def test_both_ways_run_the_unet_equally_often():
    counts = {}
    for profile in ("eager", "diffusers-eager"):
        case = case_of("tiny-sdm-v1.4", "pipeline", profile, steps=3)
        workload, components = built(case)
        rows = []
        components.unet.register_forward_pre_hook(lambda module, args, rows=rows: rows.append(len(args[0])))
        workload.prepare()
        workload.run()
        counts[profile] = rows
        assert sum(rows) == BATCH * unet_calls(zoo.get(case.model), case)
    assert counts["eager"] == counts["diffusers-eager"] == [2 * BATCH] * 4


def test_a_step_of_a_model_that_is_not_guided_runs_half_the_rows():
    for model, rows in (("tiny-sdxl", 2 * BATCH), ("tiny-sdxl-turbo", BATCH)):
        case, seen = case_of(model, "unet"), []
        workload, components = built(case)
        components.unet.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(len(args[0])))
        workload.prepare()
        workload.run()
        assert seen == [rows]
        assert unet_calls(zoo.get(model), case) == rows // BATCH


def test_a_profile_reaches_the_networks():
    tiny, _ = built(case_of("tiny-sdxl", "pipeline", "tiny-vae"))
    assert isinstance(tiny, SampledImage)
    tiny.prepare()
    assert tiny.run().shape == (BATCH, 3, 64, 64)
    _, components = built(case_of("tiny-sdxl", "pipeline", "low-vram"))
    assert components.autoencoder.use_tiling
    assert components.autoencoder.use_slicing


@pytest.mark.parametrize("profile", ["eager", "fp16-fix", "tiny-vae"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("model", ["tiny-sdxl", "tiny-koala-700m"])
def test_the_dtype_of_decoding_is_that_of_the_loaded_autoencoder(model, dtype, profile):
    case = case_of(model, "pipeline", profile, dtype=dtype)
    spec = get_profile(profile).respec(zoo.get(model))
    loaded = load(spec, "cpu", dtype, parts=("autoencoder",)).autoencoder
    assert (
        str(loaded.dtype)
        == {"fp16": "torch.float16", "bf16": "torch.bfloat16", "fp32": "torch.float32"}[decode_dtype(spec, case)]
    )
    assert decode_dtype(spec, replace(case, target="unet", steps=None)) is None
