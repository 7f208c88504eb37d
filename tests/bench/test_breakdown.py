"""Where the time goes: cells that add up, on the twin of every topology, and what is measured beside them."""

import json
from dataclasses import asdict, replace
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import breakdown
from bench.breakdown import IN_OUT, OTHER, WHOLE, Spot, cells, count_flops, measure_breakdown, spots, turns_for
from bench.case import Case
from bench.instruments.clock import CpuClock, CudaClock
from bench.instruments.module_marks import ModuleMarks, by_path
from bench.report.breakdown import (
    KINDS,
    cells_frame,
    image_frame,
    render_markdown,
    stacks_share,
)
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.anatomy import WORK, stages
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ClassLabels, UNetPlan


def twins():
    """The twin of one model of each topology."""
    return sorted(
        {zoo.get(name).unet: f"tiny-{name}" for name in reversed(zoo.names()) if not name.endswith("-64")}.values()
    )


def case_of(model, resolution=64, **changes):
    return Case(
        **{"target": "unet", "batch_size": 1, "dtype": "fp32", "steps": None, "device": "cpu", **changes},
        model=model,
        resolution=resolution,
    )


def measured(model, repeats=1, send=lambda message: None, **changes):
    case = case_of(model, **changes)
    result = measure_breakdown(send, asdict(case), repeats)
    return {"case": asdict(case), "environment": {"id": "abc", "device_name": "a CPU"}, **result}


@pytest.fixture(autouse=True)
def nothing_large(monkeypatch):
    """Twins leave little behind, and searching for it takes half a second."""
    monkeypatch.setattr(breakdown, "_let_go", lambda device: None)


@pytest.mark.parametrize("model", twins())
def test_the_cells_of_every_u_net_add_up_to_its_call_its_parameters_and_its_flops(model):
    result = json.loads(json.dumps(measured(model)))
    assert result["status"] == "ok"
    for sample, whole in enumerate(result["hooked_s"]):
        assert sum(cell["samples_s"][sample] for cell in result["cells"]) == pytest.approx(whole, rel=1e-9)
    whole = result["modules"][0]
    assert whole["path"] == WHOLE
    for amount in ("params", "flops"):
        assert sum(cell[amount] for cell in result["cells"]) == whole[amount]
        assert all(cell[amount] >= 0 for cell in result["cells"])
    assert all(seconds > -1e-5 for cell in result["cells"] for seconds in cell["samples_s"])
    plan = zoo.get(model).unet
    assert list(dict.fromkeys(cell["stage"] for cell in result["cells"])) == [*(s.name for s in stages(plan)), IN_OUT]
    assert {cell["kind"] for cell in result["cells"]} <= set(KINDS) == {*WORK, OTHER}
    assert "total" in render_markdown(result)


def test_a_guided_recipe_runs_two_rows_an_image_and_each_part_is_timed():
    koala = measured("tiny-koala-700m", repeats=2)
    assert (koala["rows"], koala["steps"]) == (2, zoo.get("koala-700m").recipe.steps)
    names = [(part["name"], part["dtype"]) for part in koala["parts"]]
    assert names == [("text encoding", "fp32"), ("VAE decoding", "fp32")]
    samples = [koala["hooked_s"], koala["plain_s"], koala["step_s"], *(part["samples_s"] for part in koala["parts"])]
    assert {len(seconds) for seconds in samples} == {2}
    assert all(step > unet for step, unet in zip(koala["step_s"], koala["plain_s"], strict=True))
    turbo = measured("tiny-sdxl-turbo", batch_size=2, resolution=32)
    assert (turbo["rows"], turbo["steps"]) == (2, 1)


def test_an_fp16_autoencoder_that_must_be_upcast_decodes_in_fp32():
    (decoding,) = breakdown._decoding(print, case_of("tiny-sdxl", dtype="fp16"), CpuClock(), 1)
    assert (decoding["name"], decoding["dtype"]) == ("VAE decoding", "fp32")


def test_a_model_of_classes_and_pixels_has_neither_text_nor_decoding(monkeypatch):
    twin = zoo.get("tiny-sdm-v1.4")
    plan = UNetPlan((32, 64), (0, 0), 1, 0, heads=(2, 4), context_dim=None, class_labels=3, sample_channels=3)
    spec = replace(twin, unet=plan, conditioning=ClassLabels(("heron", "goldfish")), autoencoder=None)
    monkeypatch.setattr(Case, "spec", property(lambda case: spec))
    result = measured("tiny-sdm-v1.4", repeats=1, resolution=32)
    assert not result["parts"]
    assert {cell["kind"] for cell in result["cells"]} == {"residual", "resampling", "other"}
    text = render_markdown(result)
    assert "attention |" not in text
    assert "no transformers" in text
    assert list(image_frame(result)["part"]) == ["U-Net", "guidance and scheduler"]


def test_operations_are_those_that_torch_counts_in_a_real_call():
    spec = zoo.get("tiny-koala-700m")
    paths = [place.path for place in spots(spec.unet)]
    counted = count_flops(spec, 64, 2, paths)
    assert count_flops(spec, 64, 4, [WHOLE])[WHOLE] == 2 * counted[WHOLE]
    unet = meta_networks(spec, ("unet",))["unet"]
    block = stages(spec.unet)[-1].modules("Res")[0]
    layer = unet.get_submodule(block)
    flops = FlopCounterMode(display=False)
    channels = layer.conv1.in_channels
    with flops, torch.device("meta"), torch.no_grad():
        layer(torch.empty(2, channels, 8, 8), torch.empty(2, layer.time_emb_proj.in_features))
    assert counted[block] == flops.get_total_flops() > 0


def test_koala_begins_with_stacks_that_hold_82_percent_of_sdxl():
    spec = zoo.get("sdxl")
    unet, places = meta_networks(spec, ("unet",))["unet"], spots(spec.unet)
    own = cells(places, {place.path: count_params(unet.get_submodule(place.path)) for place in places})
    lines = [{"stage": s, "kind": k, "params": n, "flops": 1, "samples_s": [1.0]} for (s, k), n in own.items()]
    result = {"cells": lines, "case": asdict(case_of("sdxl")), "lowest_stages": ["DW-3", "Mid", "UP-1"]}
    share = stacks_share(result, cells_frame(result))["params"]
    assert share == pytest.approx(0.82, abs=0.0005)  # papers.md: the paper says 83%


@given(st.lists(st.lists(st.floats(0, 1e3), max_size=4), min_size=1, max_size=5), st.floats(0, 10), st.floats(0, 10))
def test_cells_give_back_what_each_part_has_to_itself(parts, beside, around):
    places, amounts = [Spot(WHOLE, IN_OUT)], {}
    for i, seconds in enumerate(parts):
        places.append(Spot(f"s{i}", f"S{i}"))
        places += [Spot(f"s{i}.{j}", f"S{i}", "residual") for j in range(len(seconds))]
        amounts |= {f"s{i}.{j}": value for j, value in enumerate(seconds)} | {f"s{i}": sum(seconds) + beside}
    amounts[WHOLE] = sum(amounts[f"s{i}"] for i in range(len(parts))) + around
    own = cells(places, amounts)
    assert own[IN_OUT, OTHER] == pytest.approx(around, abs=1e-6)
    for i, seconds in enumerate(parts):
        assert own[f"S{i}", OTHER] == pytest.approx(beside, abs=1e-6)
        assert own.get((f"S{i}", "residual"), 0.0) == pytest.approx(sum(seconds))
    assert sum(own.values()) == pytest.approx(amounts[WHOLE], abs=1e-6)


class Slow(nn.Module):
    """Takes a set time by a clock of its own."""

    def __init__(self, now: list[float], seconds: float, *inside: nn.Module):
        super().__init__()
        self.now, self.seconds, self.inside = now, seconds, nn.ModuleList(inside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.now[0] += self.seconds
        for module in self.inside:
            x = module(x)
        return x


def test_marks_time_a_module_with_all_inside_it_each_time_it_runs_and_leave_no_hooks():
    now = [100.0]
    twice = Slow(now, 2.0)
    network = Slow(now, 1.0, Slow(now, 4.0, twice), twice)
    clock = CpuClock(now=lambda: now[0])
    with ModuleMarks(network, ["", "inside.0", "inside.1"], clock.mark) as marks:
        network(torch.zeros(1))
    spans = marks.spans(clock.between)
    assert by_path(spans) == {"": 9.0, "inside.0": 6.0, "inside.1": 4.0}
    assert [(span.path, span.start) for span in spans] == [
        ("inside.1", 5.0),
        ("inside.0", 1.0),
        ("inside.1", 7.0),
        ("", 0.0),
    ]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class FakeEvents:
    """CUDA's events as far as marks use them; a wait for the device inside the call would be an error."""

    def __init__(self, waiting_allowed):
        self.ticks, self.waiting_allowed = count(), waiting_allowed

    def Event(self, enable_timing=False):
        assert enable_timing
        return FakeEvent(self)

    def synchronize(self, device):
        assert self.waiting_allowed()


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self):
        self.at_ms = float(next(self.cuda.ticks))

    def elapsed_time(self, end):
        assert self.cuda.waiting_allowed(), "read before the call has ended"
        return end.at_ms - self.at_ms


def test_on_a_gpu_marks_are_events_that_are_read_after_the_call(monkeypatch):
    inside = []
    monkeypatch.setattr(breakdown, "clock_for", lambda device: CudaClock(FakeEvents(lambda: not inside)))
    build = breakdown.build_workload

    def built(*args):
        workload, components = build(*args)
        components.unet.register_forward_pre_hook(lambda *_: inside.append(1))
        components.unet.register_forward_hook(lambda *_: inside.clear())
        return workload, components

    monkeypatch.setattr(breakdown, "build_workload", built)
    result = measured("tiny-koala-700m", repeats=1)
    modules = len(result["modules"])
    assert result["plain_s"] == pytest.approx([0.001])  # no mark but the two around the U-Net
    assert result["hooked_s"] == pytest.approx([(2 * modules - 1) / 1000])


def test_turns_alternate_which_comes_first_and_the_first_pair_is_warm_up():
    said: list[str] = []
    result = measured("tiny-koala-700m", repeats=3, send=lambda message: said.append(message["doing"]))
    assert len(result["warmup_s"]) == 2
    assert [text for text in said if text.startswith("turn")] == [f"turn {i} of 3" for i in (1, 2, 3)]
    assert said[0] == "loading the U-Net"
    assert said[-2:] == ["encoding text", "decoding latents"]


@pytest.mark.parametrize(("turn_s", "turns"), [(0.001, 21), (2.0, 11), (3.0, 7), (9.0, 3), (100.0, 3)])
def test_slow_models_take_fewer_turns(turn_s, turns):
    assert turns_for(turn_s) == turns


def fails_with(error):
    def build(*_: object):
        raise error

    return build


def test_out_of_memory_is_an_answer_that_says_where(monkeypatch):
    monkeypatch.setattr(
        breakdown, "build_workload", fails_with(torch.OutOfMemoryError("CUDA out of memory. Tried ..."))
    )
    result = measured("tiny-sdxl")
    assert result["status"] == "oom"
    assert result["reason"] == "loading the U-Net: CUDA out of memory. Tried ..."


def test_a_users_mistake_comes_back_in_its_own_words_and_a_bug_is_raised(monkeypatch):
    monkeypatch.setattr(breakdown, "build_workload", fails_with(KoalaError("no such weights")))
    assert measured("tiny-sdxl") | {"status": "mistake", "reason": "no such weights"} == measured("tiny-sdxl")
    monkeypatch.setattr(breakdown, "build_workload", fails_with(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        measured("tiny-sdxl")
