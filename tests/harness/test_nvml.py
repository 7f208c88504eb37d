import pytest
import torch
from fakes import FakeGpu, FakeNvml

from koala.harness.nvml import Nvml

GPUS = (
    FakeGpu(name="first", uuid="GPU-aaaa-1111", used=100),
    FakeGpu(name="second", uuid="GPU-bbbb-2222", used=200),
    FakeGpu(name="third", uuid="GPU-bbbb-3333", used=300),
)


def visible(words, gpus=GPUS):
    nvml = Nvml(library=FakeNvml(gpus), visible=words)
    return [nvml.gpu(i).name for i in range(nvml.count())]


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("0", ["first"]),
        ("2", ["third"]),
        ("1,0", ["second", "first"]),
        (" 2 , 1 ", ["third", "second"]),
        ("0,1,2", ["first", "second", "third"]),
    ],
)
def test_indices_choose_gpus_and_their_order(words, names):
    assert visible(words) == names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("GPU-bbbb-3333", ["third"]),
        ("GPU-aa", ["first"]),
        ("GPU-bbbb-3,GPU-a", ["third", "first"]),
        ("GPU-bbbb-2,0", ["second", "first"]),
    ],
)
def test_beginnings_of_uuids_choose_gpus(words, names):
    assert visible(words) == names


@pytest.mark.parametrize("words", ["", " ", "-1", "3", "99", "GPU-cccc", "none", "NoDevFiles"])
def test_a_word_that_is_no_gpu_leaves_none(words):
    assert visible(words) == []


# CUDA programming guide, CUDA_VISIBLE_DEVICES: only what stands before an invalid index is visible ("0,2,-1,1" is
# 0 and 2), so that the number N of cuda:N is the same GPU here and in torch.
@pytest.mark.parametrize(
    ("words", "names"),
    [("0,2,-1,1", ["first", "third"]), ("0,7,1", ["first"]), ("1,GPU-cccc,0", ["second"]), ("-1,0", []), (",0", [])],
)
def test_gpus_after_an_invalid_word_are_hidden_as_cuda_hides_them(words, names):
    assert visible(words) == names


def test_without_the_variable_every_gpu_is_visible(unset):
    assert visible(None) == ["first", "second", "third"]


@pytest.mark.parametrize(("value", "names"), [("1", ["second"]), ("", [])])
def test_the_variable_is_read_from_the_environment(monkeypatch, value, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible(None) == names


@pytest.mark.parametrize("words", [None, "0", ""])
def test_without_a_driver_there_are_no_gpus(unset, words):
    assert Nvml(library=FakeNvml(GPUS, driver=None), visible=words).count() == 0


def test_facts_of_a_gpu_are_in_bytes_hertz_and_watts(unset):
    gpu = Nvml(library=FakeNvml()).gpu(0)
    assert (gpu.name, gpu.driver, gpu.memory_bytes) == ("NVIDIA H200", "580.95.05", 150_754_820_096)
    assert (gpu.sm_clock_max_hz, gpu.memory_clock_max_hz) == (1_980_000_000, 3_201_000_000)
    assert gpu.power_limit_w == pytest.approx(700)


@pytest.mark.parametrize(
    ("silent", "field"),
    [
        ("sm_clock_mhz", "sm_clock_max_hz"),
        ("memory_clock_mhz", "memory_clock_max_hz"),
        ("power_limit_mw", "power_limit_w"),
    ],
)
def test_a_question_that_a_card_does_not_answer_is_null_and_the_others_are_not(unset, silent, field):
    gpu = Nvml(library=FakeNvml([FakeGpu(**{silent: None})])).gpu(0)
    facts = {name: getattr(gpu, name) for name in ("sm_clock_max_hz", "memory_clock_max_hz", "power_limit_w")}
    assert [name for name, value in facts.items() if value is None] == [field]


def test_used_bytes_are_those_of_the_visible_gpu_and_read_anew_each_time():
    library = FakeNvml(GPUS)
    nvml = Nvml(library=library, visible="2,0")
    assert [nvml.used_bytes(0), nvml.used_bytes(1)] == [300, 100]
    used = iter([5, 7])
    library.nvmlDeviceGetMemoryInfo = lambda handle: type("Memory", (), {"used": next(used)})
    assert [nvml.used_bytes(0), nvml.used_bytes(0)] == [5, 7]


def test_the_real_library_sees_as_many_gpus_as_torch():
    assert Nvml().count() == torch.cuda.device_count()
