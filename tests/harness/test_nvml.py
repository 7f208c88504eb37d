from types import SimpleNamespace

import pynvml
import pytest
import torch
from fakes import FakeGpu, FakeNvml, FakeNvmlError, FakeTime

from koala.harness.nvml import HELD_BY_SETTING, THROTTLE_REASONS, Nvml

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


def of(now=lambda: 0.0, old=False, **facts):
    return Nvml(library=FakeNvml([FakeGpu(**facts)], now=now, old=old), visible="0")


def test_processes_that_compute_and_draw_are_listed_once_with_the_larger_figure():
    nvml = of(computing={10: 500, 11: None}, drawing={10: 300, 11: 7, 12: 2**64 - 1})
    assert nvml.process_bytes(0) == {10: 500, 11: 7, 12: None}


def test_one_kind_of_processes_is_enough_and_none_of_both_is_null():
    assert of(computing={10: 5}, drawing=None).process_bytes(0) == {10: 5}
    assert of(computing={}).process_bytes(0) == {}
    assert of(computing=None, drawing=None).process_bytes(0) is None


def test_what_a_gpu_does_now_is_in_hertz_degrees_watts_and_joules():
    time = FakeTime()
    nvml = of(
        time, present_sm_clock_mhz=lambda t: 345 + t, power_mw=lambda t: 100_000 * t, energy_mj=lambda t: 5000 * t
    )
    time.seconds = 3
    assert (nvml.sm_clock_hz(0), nvml.temperature_c(0)) == (348_000_000, 32)
    assert (nvml.power_w(0), nvml.energy_j(0)) == (pytest.approx(300), pytest.approx(15))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x0, set()),
        (0x1 | 0x2 | 0x100 | 0x400, set()),
        (0x4, {"power cap"}),
        (0x8 | 0x40, {"hardware slowdown", "thermal (hardware)"}),
        (0x20 | 0x80 | 0x1, {"thermal (software)", "power brake"}),
    ],
)
def test_throttling_has_names_and_neither_idling_nor_settings_are_throttling(bits, reasons, old):
    assert of(clock_events=bits, old=old).throttle_reasons(0) == reasons


def test_the_names_of_throttling_stand_at_the_bits_of_the_real_library():
    names = {
        "SwPowerCap": "power cap",
        "HwSlowdown": "hardware slowdown",
        "SyncBoost": "sync boost",
        "SwThermalSlowdown": "thermal (software)",
        "HwThermalSlowdown": "thermal (hardware)",
        "HwPowerBrakeSlowdown": "power brake",
    }
    for constant, name in names.items():
        assert THROTTLE_REASONS[getattr(pynvml, f"nvmlClocksEventReason{constant}")] == name
    assert pynvml.nvmlClocksEventReasonApplicationsClocksSetting == HELD_BY_SETTING
    assert not THROTTLE_REASONS.keys() & {HELD_BY_SETTING, pynvml.nvmlClocksEventReasonGpuIdle}


def test_every_question_to_the_driver_is_a_function_of_the_real_library():
    fake = [name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(fake) > 25 and not [name for name in fake if not hasattr(pynvml, name)]


def test_settings_are_those_of_now_and_not_of_after_a_restart():
    settings = of(ecc=0, mig=0, clock_events=0x2, power_limit_mw=350_000, compute_mode=3).settings(0)
    assert (settings.ecc, settings.mig, settings.persistence, settings.display) == (False, False, True, False)
    assert (settings.power_limit_w, settings.default_power_limit_w) == (pytest.approx(350), pytest.approx(700))
    assert (settings.clocks_held, settings.compute_mode) == (True, "exclusive process")
    assert settings.application_clock_hz == settings.default_application_clock_hz == 1_980_000_000


ANSWERS = {
    "used": "used_bytes",
    "present_sm_clock_mhz": "sm_clock_hz",
    "temperature_c": "temperature_c",
    "power_mw": "power_w",
    "energy_mj": "energy_j",
    "clock_events": "throttle_reasons",
}


@pytest.mark.parametrize("silent", ANSWERS)
def test_a_reading_that_a_card_does_not_give_is_null_and_the_others_are_not(silent):
    nvml = of(**{silent: None})
    assert [name for name, method in ANSWERS.items() if getattr(nvml, method)(0) is None] == [silent]


def test_settings_that_a_card_does_not_tell_are_null():
    silent = ("persistence", "ecc", "mig", "display", "compute_mode", "power_limit_mw", "default_power_limit_mw")
    clocks = ("application_clock_mhz", "default_application_clock_mhz", "clock_events")
    settings = of(**dict.fromkeys(silent + clocks)).settings(0)
    assert set(vars(settings).values()) == {None}


def test_a_function_that_the_library_no_longer_has_is_a_question_without_an_answer():
    library = SimpleNamespace(NVMLError=FakeNvmlError, NVML_CLOCK_SM=1)
    nvml = Nvml(library=FakeNvml(), visible="0")
    assert nvml.count() == 1
    nvml._nvml = library
    assert nvml.energy_j(0) is None and nvml.settings(0).application_clock_hz is None


def test_the_driver_tells_the_newest_cuda_that_it_supports():
    assert of().driver_cuda() == (13, 0)
    assert Nvml(library=FakeNvml(driver=None)).driver_cuda() is None


def test_a_gpu_is_named_for_nvidia_smi_by_its_uuid_and_not_by_its_visible_number():
    assert Nvml(library=FakeNvml(GPUS), visible="2,0").uuid(0) == "GPU-bbbb-3333"
