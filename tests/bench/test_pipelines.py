"""diffusers' pipelines as black boxes, at tiny size: what is loaded, and what a call counts."""

import shutil
from functools import cache

import pytest
import torch
from box_folders import FAMILIES, ROWS, SIDE, count_of, drawn, save, without_weights
from diffusers import DDPMScheduler, FlowMatchHeunDiscreteScheduler
from safetensors.torch import load_file, save_file

from bench.blackbox.call import PROMPT, PipelineCall, load_pipeline
from bench.blackbox.describe import describe
from bench.instruments.clock import CpuClock
from bench.instruments.phases import Phases
from koala.errors import KoalaError

BATCH = 2
T5_OF = {"pixart": "text_encoder", "sd3": "text_encoder_3", "flux": "text_encoder_2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's folder and a copy without weights, saved once."""
    root = tmp_path_factory.mktemp("saved")
    found = {}
    for family in FAMILIES:
        found[family, "folder"] = save(family, root / "whole" / family)
        found[family, "random"] = without_weights(found[family, "folder"], root / "bare" / family)
    return found


def loaded(folder, dtype="fp32"):
    return load_pipeline(describe(str(folder)), "cpu", dtype)


@pytest.fixture(scope="module")
def networks(folders):
    """What was loaded of a family, once for all tests."""
    return cache(lambda family, weights="random", dtype="fp32": loaded(folders[family, weights], dtype))


@pytest.fixture
def pipeline_of(networks, monkeypatch):
    """A family's pipeline; another scheduler stays for one test."""

    def pipeline(family, weights="random", dtype="fp32", scheduler=None):
        found = networks(family, weights, dtype).pipeline
        if scheduler is not None:
            monkeypatch.setattr(found, "scheduler", scheduler)
        return found

    return pipeline


def call_of(pipeline, steps=1, batch=1, side=SIDE, **more):
    arguments = {"prompt": [PROMPT] * batch, "height": side, "width": side, "num_inference_steps": steps, **more}
    return PipelineCall(pipeline, arguments, torch.device("cpu"), Phases(CpuClock()))


@pytest.mark.parametrize("weights", ["folder", "random"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_finite_images_and_counts_its_steps(pipeline_of, family, weights):
    for steps, batch in ((1, BATCH), (3, 1)):
        # a PixArt of one step wants the scheduler that says what the clean image would be
        scheduler = DDPMScheduler() if (family, steps) == ("pixart", 1) else None
        call = call_of(pipeline_of(family, weights, scheduler=scheduler), steps, batch)
        images = drawn(call)
        assert images.shape == (batch, 3, SIDE, SIDE)
        assert images.isfinite().all()
        assert 0 <= images.min() < images.max() <= 1
        counts = count_of(call)
        assert (counts["step"], counts["unet"], counts["decode"], counts["call"]) == (steps, steps, 1, 1)
        assert counts["encode"] == 1
        assert call.nfe == steps * ROWS[family]


def test_equal_seeds_draw_equal_images_and_other_prompts_others(pipeline_of):
    call = call_of(pipeline_of("flux", "folder"), 2)
    first, again = drawn(call), drawn(call)
    assert torch.equal(first, again)
    other = call_of(pipeline_of("flux", "folder"), 2, prompt=["a green pear"])
    assert not torch.equal(first, drawn(other))


@pytest.mark.parametrize("steps", [2, 25])
def test_many_steps_are_counted_one_by_one(pipeline_of, steps):
    call = call_of(pipeline_of("flux"), steps)
    drawn(call)
    assert (count_of(call)["step"], call.nfe) == (steps, steps)


def test_without_a_number_of_steps_the_pipeline_takes_its_own(pipeline_of):
    pipeline = pipeline_of("pixart")
    call = PipelineCall(pipeline, {"prompt": [PROMPT], "height": SIDE, "width": SIDE}, "cpu", Phases(CpuClock()))
    drawn(call)
    assert count_of(call)["step"] == 20


def test_a_denoiser_that_runs_twice_a_step_makes_one_step_of_both(pipeline_of):
    call = call_of(pipeline_of("flux"), 3, true_cfg_scale=2.0, negative_prompt=["blurry"])
    drawn(call)
    counts = count_of(call)
    assert (counts["step"], counts["unet"], counts["encode"], call.nfe) == (3, 6, 2, 6)


def test_a_second_order_scheduler_steps_more_often(pipeline_of):
    call = call_of(pipeline_of("sd3", scheduler=FlowMatchHeunDiscreteScheduler()), 3)
    drawn(call)
    assert count_of(call)["step"] == count_of(call)["unet"] == 5
    assert call.nfe == 5 * ROWS["sd3"]


@pytest.mark.parametrize("more", [{"batch": 3}, {"num_images_per_prompt": 3}])
def test_rows_are_counted_for_each_image_however_a_batch_is_asked_for(pipeline_of, more):
    call = call_of(pipeline_of("sd3"), 2, **more)
    assert len(drawn(call)) == call.images == 3
    assert call.nfe == 2 * ROWS["sd3"]


def test_the_side_is_the_one_that_was_asked_for(pipeline_of):
    assert drawn(call_of(pipeline_of("pixart"), 2, side=96)).shape == (1, 3, 96, 96)


def test_marks_stand_where_the_parts_begin_and_end(pipeline_of):
    call = call_of(pipeline_of("flux"), 2)
    drawn(call)
    step = ["scheduler", "unet", "scheduler", "step"]
    assert [span.name for span in call.phases.spans()] == [
        *("rest", "encode"),
        *("rest", *step) * 2,
        *("rest", "decode", "rest", "call"),
    ]


def test_a_call_that_an_error_ends_leaves_nothing_behind(pipeline_of, monkeypatch):
    pipeline = pipeline_of("flux")
    scheduler_step, faults = pipeline.scheduler.step, [RuntimeError("out of memory")]

    def failing(*args, **kwargs):
        if faults:
            raise faults.pop()
        return scheduler_step(*args, **kwargs)

    monkeypatch.setattr(pipeline.scheduler, "step", failing)
    call = call_of(pipeline, 2)
    with pytest.raises(RuntimeError, match="out of memory"):
        drawn(call)
    drawn(call)
    assert (count_of(call)["step"], count_of(call)["call"], call.nfe) == (2, 1, 2)
    assert pipeline.scheduler.step is failing
    assert not {"forward", "decode", "encode_prompt"} & {
        *vars(pipeline.transformer),
        *vars(pipeline.vae),
        *vars(pipeline),
    }


def test_a_pipeline_whose_steps_cannot_be_seen_is_refused(pipeline_of):
    def forget(pipeline, step, timestep, values):
        vars(pipeline.scheduler).pop("step", None)  # the class's own again, which nobody watches
        return values

    with pytest.raises(KoalaError, match="FluxPipeline ends its steps elsewhere"):
        drawn(call_of(pipeline_of("flux"), 2, callback_on_step_end=forget))


def test_operations_are_counted_from_one_more_call(pipeline_of):
    flops = {}
    for steps in (1, 2, 3):
        call = call_of(pipeline_of("sd3"), steps, BATCH)
        before = drawn(call)
        flops[steps] = call.count_flops()
        assert call.phases.spans() == []
        assert torch.equal(drawn(call), before)
    assert flops[3] - flops[2] == flops[2] - flops[1] > 0
    assert flops[1] > flops[2] - flops[1]  # text and images beside the step


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("pixart", "bf16"), ("pixart", "fp16"), ("flux", "bf16"), ("flux", "fp16"), ("sd3", "fp16"), ("sdxl", "fp16")],
)
def test_random_networks_are_those_that_would_be_loaded_and_finite(networks, family, dtype):
    whole, bare = (networks(family, weights, dtype) for weights in ("folder", "random"))
    assert (whole.params, whole.weight_bytes) == (bare.params, bare.weight_bytes)
    assert whole.networks.keys() == bare.networks.keys()
    for name, network in whole.networks.items():
        twin = bare.networks[name]
        assert type(twin) is type(network)
        assert described(twin.named_parameters()) == described(network.named_parameters())
        assert described(twin.named_buffers()) == described(network.named_buffers())
        for (key, buffer), other in zip(network.named_buffers(), twin.buffers(), strict=True):
            assert torch.equal(buffer, other), key
        assert not any(module.training for module in (network, twin))
        assert getattr(network.config, "_attn_implementation", 0) == getattr(twin.config, "_attn_implementation", 0)
    assert drawn(call_of(bare.pipeline, 2)).isfinite().all()


def described(tensors):
    return {name: (tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for name, tensor in tensors}


@pytest.mark.parametrize("family", T5_OF)
def test_t5_keeps_in_fp16_what_it_keeps_in_fp32_and_shares_its_embedding(networks, family):
    encoder = networks(family, dtype="fp16").networks[T5_OF[family]]
    kinds = {name.rpartition(".")[0].rpartition(".")[2]: p.dtype for name, p in encoder.named_parameters()}
    assert kinds["wo"] == torch.float32
    assert kinds["wi_0"] == torch.float16
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight


def test_random_weights_are_the_same_each_time_and_are_not_constant(networks, folders):
    first, again = (found.networks["transformer"] for found in (networks("flux"), loaded(folders["flux", "random"])))
    for (name, one), other in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.std() > 0, name


def test_weights_of_a_folder_are_read(networks, folders):
    found = networks("flux", "folder").networks
    for part, name in (
        ("transformer", "diffusion_pytorch_model"),
        ("text_encoder_2", "model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        for key, tensor in load_file(folders["flux", "folder"] / part / f"{name}.safetensors").items():
            assert torch.equal(found[part].state_dict()[key], tensor), key


def test_the_half_precision_files_are_read_where_they_suit_or_are_all_there_is(networks, folders, tmp_path):
    folder = shutil.copytree(folders["flux", "folder"], tmp_path / "flux")
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        (path,) = (folder / part).glob("*.safetensors")
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    expected = networks("flux", "folder").networks["transformer"].state_dict()
    for dtype in ("fp32", "fp16"):
        found = loaded(folder, dtype).networks["transformer"].state_dict()
        assert all(torch.equal(found[key], tensor.to(found[key].dtype)) for key, tensor in expected.items())


def test_weights_that_lack_a_tensor_or_are_torn_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["flux", "folder"], tmp_path / "flux")
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["proj_out.bias"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(KoalaError, match=r"transformer: its weights lack 1 tensors: proj_out\.bias"):
        loaded(folder)
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(KoalaError, match="transformer cannot be loaded"):
        loaded(folder)
