"""A large card that stands for a smaller one: the arithmetic on a fake GPU, real out-of-memory rows on the CPU."""

import os
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.case import Case
from bench.instruments.vram import Cap, ContextBytes, CudaCap, ProcessCap, cap_for
from bench.rule import Rule
from bench.sweep import Plan, jobs_of, run
from koala.errors import KoalaError

GIB = 2**30
TOTAL = 140 * GIB


class FakeDriver:
    """NVML's answers about one GPU: its used bytes, and those of each process it lists."""

    def __init__(self, used=None, processes=None):
        self.used, self.processes = used, processes

    def used_bytes(self, index):
        return self.used

    def process_bytes(self, index):
        return self.processes


class FakeCuda:
    """An allocator that remembers the share of the card that it may take."""

    def __init__(self):
        self.fractions = []
        self.emptied = 0

    def get_device_properties(self, device):
        return SimpleNamespace(total_memory=TOTAL)

    def set_per_process_memory_fraction(self, fraction, device):
        self.fractions.append(fraction)

    def empty_cache(self):
        self.emptied += 1


def capped(card, processes=None, used=None, reserved=0):
    driver, cuda = FakeDriver(used, processes), FakeCuda()
    context = ContextBytes(0, driver, lambda: reserved)
    return CudaCap(card, "cuda:0", cuda, context), cuda, driver


@given(st.integers(GIB, 80 * GIB), st.integers(1, GIB - 1), st.integers(0, 8 * GIB))
def test_the_pool_may_take_the_card_less_the_context_whatever_is_in_the_pool_already(card, context, reserved):
    cap, cuda, _ = capped(card, {os.getpid(): context + reserved}, reserved=reserved)
    cap.hold()
    assert cuda.fractions[0] * TOTAL == pytest.approx(card - context, abs=1)
    assert cap.facts()["limit_bytes"] + cap.facts()["context_bytes"] == card


def test_a_pool_that_no_longer_fits_gives_back_what_is_free_and_another_keeps_its_blocks():
    cap, cuda, driver = capped(8 * GIB, {os.getpid(): 7 * GIB + GIB // 2}, reserved=7 * GIB)
    cap.hold()
    assert cuda.emptied == 0
    driver.processes = {os.getpid(): 7 * GIB + 2 * GIB}
    cap.hold()
    assert cuda.emptied == 1


def test_growth_that_others_hide_by_freeing_is_not_taken_for_a_context():
    cap, cuda, driver = capped(8 * GIB, None, used=20 * GIB)
    driver.used = 19 * GIB
    with pytest.raises(KoalaError, match="does not say"):
        cap.hold()
    assert not cuda.fractions


def test_the_limit_shrinks_as_the_context_grows():
    cap, cuda, driver = capped(8 * GIB, {os.getpid(): GIB // 2})
    cap.hold()
    driver.processes = {os.getpid(): GIB}
    cap.hold()
    assert [round(fraction * TOTAL / GIB, 3) for fraction in cuda.fractions] == [7.5, 7.0]
    assert cap.facts()["context_bytes"] == GIB


@pytest.mark.parametrize("processes", [None, {}, {os.getpid(): None}, {os.getpid() + 1: 5 * GIB}])
def test_where_the_driver_hides_this_process_the_growth_of_the_gpu_is_its_context(processes):
    cap, cuda, driver = capped(8 * GIB, processes, used=3 * GIB)
    driver.used = 4 * GIB
    cap.hold()
    assert cuda.fractions[0] * TOTAL == pytest.approx(7 * GIB, abs=1)


@pytest.mark.parametrize(
    ("card", "used", "words"),
    [(200 * GIB, 0, "cannot stand for one of"), (GIB, 2 * GIB, "the context alone"), (8 * GIB, None, "does not say")],
)
def test_a_card_that_cannot_be_emulated_says_why(card, used, words):
    cap, cuda, driver = capped(card, None, used=None if used is None else 0)
    driver.used = used
    with pytest.raises(KoalaError, match=words):
        cap.hold()
    assert not cuda.fractions


def test_both_caps_are_what_the_worker_asks_for():
    assert isinstance(capped(GIB)[0], Cap)
    assert isinstance(cap_for(GIB, SimpleNamespace(type="cpu"), None), ProcessCap)


class Silent:
    def begin(self, job): ...

    def message(self, message): ...

    def end(self, row): ...


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux alone")
def test_a_case_under_a_cap_fits_or_is_out_of_memory_by_what_it_needs(server, tmp_path):
    def case(vram):  # 87 MiB of weights
        return Case("tiny-sdxl", "unet", 64, 1, "fp32", None, "cpu", vram_bytes=vram)

    rule, roomy, tight = Rule(warmup=1, repeats=1, budget_s=0.0), GIB, GIB // 20
    cases = [case(roomy), case(tight)]
    fits, fails = run(jobs_of(cases, 1), Plan(rule, 120.0), tmp_path / "rows.jsonl", server, Silent())
    assert (fits["status"], fails["status"]) == ("ok", "oom")
    assert "allocate memory" in fails["reason"]
    for row, card in ((fits, roomy), (fails, tight)):
        assert row["emulation"]["card_bytes"] == row["emulation"]["limit_bytes"] == card
        assert row["emulation"]["context_bytes"] > 0
        assert "RLIMIT_DATA" in row["emulation"]["how"]
    assert fits["memory_bytes"]["weights"] < fits["memory_bytes"]["rss_peak"]
