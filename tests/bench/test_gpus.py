import re
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import gpus
from bench.gpus_probe import best_seconds, copy_rate, probe_peak, product_rate
from bench.instruments.clock import CpuClock
from bench.isolate import ForkServer, Outcome

CPU = torch.device("cpu")
TABLE = [gpus.get(key) for key in gpus.names()]
by_key = pytest.mark.parametrize("gpu", TABLE, ids=lambda gpu: gpu.key)


class Server(ForkServer):
    """Answers every call with one outcome and remembers it."""

    def __init__(self, outcome):
        self.outcome, self.calls = outcome, []

    def call(self, function, *args, **options):
        self.calls.append((function, *args))
        return self.outcome


PROBED = {"flops_per_s": 2.0e11, "bytes_per_s": 1.0e10, "source": "probed: on a whim"}


@pytest.fixture(autouse=True)
def forgets(monkeypatch):
    monkeypatch.setattr(gpus, "_probed", {})


# ---- the table


def test_the_table_has_the_cards_that_people_run_diffusion_models_on():
    assert len(TABLE) >= 15
    wanted = (
        "h200-sxm h100-sxm h100-pcie a100-sxm-40gb a100-sxm-80gb l40s l4 a10 t4 v100-sxm2 rtx-a6000 rtx-6000-ada "
        "rtx-2080-ti rtx-3060-ti rtx-3090 rtx-4080 rtx-4090 rtx-5090 b200"
    )
    assert set(wanted.split()) <= set(gpus.names())


@by_key
def test_every_gpu_names_the_document_of_its_figures(gpu):
    assert re.search(r"datasheet|whitepaper", gpu.source)


@by_key
def test_every_gpu_has_figures_of_the_right_magnitude(gpu):
    assert 8 * 2**30 <= gpu.memory_bytes <= 192 * 2**30
    assert gpu.memory_bytes % 2**30 == 0
    assert 2.5e11 <= gpu.bandwidth_bytes_per_s <= 8e12
    assert 5e12 <= gpu.fp32_flops_per_s <= 1.2e14
    assert 1.9 <= gpu.fp16_flops_per_s / gpu.fp32_flops_per_s <= 40
    assert gpu.bf16_flops_per_s in (None, gpu.fp16_flops_per_s)
    assert (gpu.tf32_flops_per_s is None) == (gpu.bf16_flops_per_s is None)  # both came with Ampere
    if gpu.tf32_flops_per_s:
        assert gpu.tf32_flops_per_s == pytest.approx(gpu.fp16_flops_per_s / 2, rel=0.03)


@pytest.mark.parametrize(
    ("key", "fp16_tflops"),
    [("h100-sxm", 989.4), ("a100-sxm-80gb", 312), ("l4", 121), ("b200", 2250), ("h100-pcie", 756)],
)
def test_tensor_core_figures_are_dense_not_those_with_sparsity(key, fp16_tflops):
    assert gpus.get(key).fp16_flops_per_s == fp16_tflops * 1e12  # data sheets print the double of each


@pytest.mark.parametrize(
    ("key", "fp16_tflops"), [("rtx-2080-ti", 53.8), ("rtx-3090", 71), ("rtx-4090", 165.2), ("rtx-5090", 209.5)]
)
def test_geforce_cards_are_rated_with_accumulation_in_fp32(key, fp16_tflops):
    assert gpus.get(key).fp16_flops_per_s == fp16_tflops * 1e12  # twice as much where fp16 is accumulated in fp16


@pytest.mark.parametrize("key", ["t4", "v100-sxm2", "v100-pcie", "rtx-2080-ti"])
def test_cards_before_ampere_have_no_bf16(key):
    assert gpus.get(key).flops_per_s("bf16") is None


# ---- names


def test_no_two_cards_have_a_name_in_common():
    everyone = list(chain.from_iterable(gpu.names for gpu in TABLE))
    assert len(everyone) == len(set(everyone))
    assert all(gpus.known(name) is gpu for gpu in TABLE for name in gpu.names)


@given(gpu=st.sampled_from(TABLE), data=st.data())
def test_capitals_punctuation_and_the_makers_name_do_not_tell_cards_apart(gpu, data):
    name = data.draw(st.sampled_from(gpu.names))
    change = data.draw(
        st.sampled_from(
            [
                str.upper,
                str.lower,
                lambda text: text.replace("-", " "),
                lambda text: text.replace(" ", "  "),
                lambda text: text.removeprefix("NVIDIA "),
            ]
        )
    )
    assert gpus.known(change(name)) is gpu


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA GeForce RTX 3060",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA H100",
        "NVIDIA A10G",
        "Quadro RTX 6000",
        "NVIDIA RTX 6000",
        "NVIDIA",
        "Intel Xeon Processor (2 cores)",
        "",
    ],
)
def test_another_card_of_a_similar_name_is_unknown(name):
    assert gpus.known(name) is None


# ---- peaks


def test_a_known_card_is_not_probed():
    server = Server(Outcome(PROBED))
    peak = gpus.peak(server, "cuda:1", "NVIDIA GeForce RTX 4090", "fp16")
    assert (peak["flops_per_s"], peak["bytes_per_s"]) == (165.2e12, 1008e9)
    assert "Ada" in peak["source"]
    assert server.calls == []


def test_the_source_says_that_fp32_is_without_tensor_cores_where_there_are_some_for_it():
    of = {key: gpus.peak(Server(Outcome(None)), "cuda", gpus.get(key).names[0], "fp32") for key in ("a10", "t4")}
    assert of["a10"]["flops_per_s"] == 31.2e12
    assert "TF32" in of["a10"]["source"]
    assert "TF32" not in of["t4"]["source"]


def test_what_the_table_does_not_hold_is_probed_once_a_device_and_dtype():
    server = Server(Outcome(PROBED))
    for _ in range(2):
        assert gpus.peak(server, "cpu", "Some Processor", "fp32") == PROBED
        assert gpus.peak(server, "cuda", "Tesla T4", "bf16") == PROBED
    function = "bench.gpus_probe:probe_peak"
    assert server.calls == [(function, "cpu", "fp32"), (function, "cuda", "bf16")]


def test_a_probe_that_fails_leaves_no_figure_and_says_why():
    peak = gpus.peak(Server(Outcome(None, exit_code=1, errors="RuntimeError: no such unit")), "cuda", "X", "fp16")
    assert peak == {"flops_per_s": None, "bytes_per_s": None, "source": "not probed: RuntimeError: no such unit"}


# ---- the probe


class Paced:
    """A clock by which calls take given seconds, whatever they do; the device is twice as quick as the wall."""

    def __init__(self, *seconds, device=False):
        self.seconds, self.device, self.calls = list(seconds), device, 0

    def time(self, call):
        self.calls += 1
        total = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return {"total": total} | ({"device": total / 2} if self.device else {})

    def mark(self):
        return 0.0

    def between(self, start, end):
        return 0.0


def test_the_best_of_many_calls_counts_and_the_first_never():
    assert best_seconds(Paced(0.1, 3.0, 2.0, 4.0), lambda: None, 8.0) == 2.0


def test_the_devices_own_time_counts_where_there_is_one():
    assert best_seconds(Paced(3.0, 2.0, device=True), lambda: None, 1.0) == 1.0


def test_calls_go_on_until_the_budget_is_spent():
    clock = Paced(0.25)
    best_seconds(clock, lambda: None, 1.0)
    assert clock.calls == 1 + 4


def test_products_grow_until_one_takes_long_enough():
    side, flops_per_s = product_rate(Paced(0.1), CPU, torch.float32)
    assert (side, flops_per_s) == (256, 2 * 256**3 / 0.1)


def test_a_copy_reads_and_writes_each_byte(monkeypatch):
    monkeypatch.setattr("bench.gpus_probe._COPY_BYTES", 1000)
    assert copy_rate(Paced(0.5), CPU, 1.0) == 2 * 1000 / 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_product_is_neither_instant_nor_endless(dtype):
    _, flops_per_s = product_rate(CpuClock(), CPU, dtype, budget_s=0.05)
    assert 1e8 < flops_per_s < 1e14


def test_a_fresh_process_probes_this_processor(server):
    peak = gpus.peak(server, "cpu", "this processor", "fp32")
    assert peak["source"].startswith("probed: matrix products of side ")
    assert 1e9 < peak["flops_per_s"] < 1e14
    assert 1e8 < peak["bytes_per_s"] < 1e13


def test_the_probe_says_what_it_measured(monkeypatch):
    monkeypatch.setattr("bench.gpus_probe.clock_for", lambda device: Paced(0.5))
    peak = probe_peak(lambda message: None, "cpu", "fp32")
    assert peak["flops_per_s"] == 2 * 256**3 / 0.5
    assert peak["bytes_per_s"] == 2 * 256 * 2**20 / 0.5
    assert peak["source"] == "probed: matrix products of side 256 in fp32, copies of 256 MiB, best of many"
