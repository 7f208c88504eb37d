"""What only a GPU can prove; each CUDA-only branch also has a CPU test on a fake."""

from statistics import median

import pytest
import torch

from bench import sweep
from bench.case import Case
from bench.instruments.clock import clock_for
from bench.instruments.phases import Phases
from bench.isolate import ForkServer
from bench.rule import Rule
from bench.workloads import UNetStep
from koala.harness import environment
from koala.models import zoo
from koala.models.cost import unet_inputs
from koala.models.load import DTYPES, load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CUDA = torch.device("cuda")


class Silent:
    def begin(self, job): ...

    def message(self, message): ...

    def end(self, row): ...


def measured(case, tmp_path, rule=None):
    rule = rule or Rule(warmup=1, repeats=6, budget_s=0.0)
    (row,) = sweep.run([sweep.Job(case)], sweep.Plan(rule, 300.0), tmp_path / "rows.jsonl", ForkServer(), Silent())
    return row


def one_model_a_topology():
    """The zoo's first model of each U-Net; many entries differ in weights alone."""
    first = {}
    for name in zoo.names():
        first.setdefault(zoo.get(name).unet, name)
    return list(first.values())


@pytest.mark.fullsize
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", one_model_a_topology())
def test_full_size_activations_are_finite_at_every_resolution(name, dtype):
    spec = zoo.get(name)
    unet = load(spec, CUDA, dtype, parts=("unet",)).unet
    for resolution in (512, 768, 1024) if spec.autoencoder else (spec.resolution,):
        with torch.inference_mode():
            output = unet(**unet_inputs(spec, resolution, 2, DTYPES[dtype], CUDA), return_dict=False)[0]
        assert output.isfinite().all()
        assert 0.05 < output.float().std() < 20


def test_the_device_is_what_the_driver_says():
    here = environment.collect("cuda")
    assert here["device_name"] == torch.cuda.get_device_name()
    assert here["device_memory_bytes"] >= torch.cuda.get_device_properties(0).total_memory
    assert here["driver"]


def test_a_row_has_every_kind_of_memory_and_both_clocks(tmp_path):
    row = measured(Case("koala-700m", "unet", 512, 1, "fp16", None, "cuda"), tmp_path)
    assert row["status"] == "ok", row
    memory = row["memory_bytes"]
    assert memory["weights"] <= memory["peak_allocated"] <= memory["peak_reserved"] <= memory["device_peak"]
    assert memory["device_peak"] > memory["device_baseline"]
    for wall, device in zip(row["samples_s"]["total"], row["samples_s"]["device"], strict=True):
        assert 0 < device <= wall * 1.01


def test_a_gpu_that_is_too_small_is_an_answer(tmp_path):
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    batch_size = int(gib * 8)  # hundreds of images of 4096 px: no card holds their activations
    row = measured(Case("koala-700m", "unet", 4096, batch_size, "fp16", None, "cuda"), tmp_path)
    assert row["status"] == "oom", row
    assert "out of memory" in row["reason"]
    assert row["memory_bytes"]["peak_allocated"] > 0


def plain_normal(unet):
    """The same network with every tensor drawn afresh from the distribution its random weights have."""
    generator = torch.Generator(CUDA).manual_seed(1)
    with torch.no_grad():
        for parameter in unet.parameters():
            mean, spread = parameter.float().mean(), parameter.float().std()
            values = torch.randn(parameter.shape, generator=generator, device=CUDA)
            parameter.copy_(values * spread + mean)
    return unet


@pytest.mark.fullsize
@pytest.mark.timeout(600)
def test_random_weights_take_as_long_as_plain_normal_ones(capsys):
    case = Case("sdxl", "unet", 1024, 1, "fp16", None, "cuda")
    ours = load(zoo.get("sdxl"), CUDA, "fp16", parts=("unet",))
    normal = load(zoo.get("sdxl"), CUDA, "fp16", parts=("unet",))
    plain_normal(normal.unet)
    clock = clock_for(CUDA)
    steps = [UNetStep(components, case, Phases(clock)) for components in (ours, normal)]
    times = [[], []]
    for _ in range(60):
        for step, seconds in zip(steps, times, strict=True):
            step.prepare()
            seconds.append(clock.time(step.run)["total"])
    ratio = median(times[0][10:]) / median(times[1][10:])
    with capsys.disabled():
        print(
            f"\nSDXL step at 1024 px: block-random {median(times[0][10:]):.5f} s, normal {median(times[1][10:]):.5f} s"
        )
        print(f"ratio {ratio:.4f}, within 1% wanted")
    assert ratio == pytest.approx(1, abs=0.01)
