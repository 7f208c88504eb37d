import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench import machine
from bench.check import Finding, findings
from bench.commands import check
from bench.machine import Facts, GpuFacts, HostFacts
from koala.errors import KoalaError
from koala.harness.nvml import Nvml, Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "harness"))
from fakes import FakeGpu, FakeNvml

GIB = 2**30
HOST = HostFacts(
    cores=16,
    governors=frozenset({"performance"}),
    turbo=False,
    load_average=0.2,
    busy=0.01,
    stolen=0.0,
    busiest=(),
    swap_used_bytes=0,
    memory_free_bytes=100 * GIB,
    memory_total_bytes=128 * GIB,
    memory_limit_bytes=None,
    quota_cpus=None,
    disk_free_bytes=60 * GIB,
    folder="runs",
    omp_num_threads=None,
    virtual=False,
    on_battery=False,
    timer_s=1e-9,
    clocksource="tsc",
)
SETTINGS = Settings(
    persistence=True,
    ecc=None,
    mig=False,
    display=False,
    compute_mode="default",
    power_limit_w=700.0,
    default_power_limit_w=700.0,
    application_clock_hz=None,
    default_application_clock_hz=1_755_000_000,
    clocks_held=True,
)
GPU = GpuFacts(
    name="NVIDIA H200",
    uuid="GPU-aaaa",
    driver="580.95.05",
    driver_cuda=(13, 0),
    torch_cuda="13.0",
    process_bytes={},
    settings=SETTINGS,
    sm_clock_max_hz=1_980_000_000,
    throttled=frozenset(),
    temperature_c=32,
)


def of_host(**changes):
    return findings(Facts(replace(HOST, **changes), None))


def of_gpu(settings=None, **changes):
    return findings(Facts(HOST, replace(GPU, settings=replace(SETTINGS, **(settings or {})), **changes)))


def the_one(found, level):
    """The only finding that is not "ok"."""
    (finding,) = [f for f in found if f.level != "ok"]
    assert finding.level == level
    return finding


def test_on_a_well_kept_machine_everything_is_fine():
    found = findings(Facts(HOST, GPU))
    assert {f.level for f in found} == {"ok"} and not any(f.fix for f in found)
    assert len({f.subject for f in found}) == len(found) > 12


HOST_CASES = [
    ({"governors": frozenset({"powersave"})}, "change", "CPU governor", "cpupower frequency-set -g performance"),
    ({"governors": None}, "note", "CPU governor", ""),
    ({"turbo": True}, "note", "CPU boost", "BIOS"),
    ({"on_battery": True}, "change", "power", "plug"),
    ({"clocksource": "hpet"}, "change", "timer", "current_clocksource"),
    ({"timer_s": 1e-3}, "change", "timer", "current_clocksource"),
    ({"busy": 0.4, "busiest": (("cc1plus", 0.98),)}, "change", "other load", "wait"),
    ({"stolen": 0.05, "virtual": True}, "change", "stolen time", "processors of its own"),
    ({"virtual": True}, "note", "virtual machine", ""),
    ({"memory_free_bytes": 3 * GIB}, "change", "memory", "--dry-run"),
    ({"swap_used_bytes": GIB}, "note", "swap", "swapoff"),
    ({"disk_free_bytes": GIB // 2}, "change", "disk", "--out"),
    ({"memory_limit_bytes": 64 * GIB}, "note", "memory limit", ""),
    ({"quota_cpus": 2.5, "omp_num_threads": "2"}, "change", "CPU quota", "--cpuset-cpus"),
    ({"omp_num_threads": "32"}, "change", "threads", "OMP_NUM_THREADS=16"),
    ({"omp_num_threads": "many"}, "change", "threads", "OMP_NUM_THREADS=16"),
    ({"omp_num_threads": "1"}, "note", "threads", "unset OMP_NUM_THREADS"),
]


@pytest.mark.parametrize(("changes", "level", "subject", "fix"), HOST_CASES)
def test_each_fact_of_the_host_has_a_finding_and_a_remedy(changes, level, subject, fix):
    finding = the_one(of_host(**changes), level)
    assert finding.subject == subject and fix in finding.fix and bool(fix) == bool(finding.fix)


GPU_CASES = [
    ({"torch_cuda": None}, "change", "torch", "pip install torch"),
    ({"driver_cuda": (12, 8)}, "change", "driver", "newer driver"),
    ({"torch_cuda": "13.2"}, "note", "driver", ""),
    ({"driver_cuda": None}, "note", "driver", ""),
    ({"process_bytes": {7: GIB, 9: None}}, "change", "GPU processes", "nvidia-smi -i GPU-aaaa"),
    ({"process_bytes": None}, "note", "GPU processes", ""),
    ({"throttled": frozenset({"thermal (hardware)"})}, "change", "throttling", "cooling"),
    ({"temperature_c": 81}, "change", "GPU temperature", "cool"),
    ({"settings": {"persistence": False}}, "change", "persistence mode", "sudo nvidia-smi -i GPU-aaaa -pm 1"),
    ({"settings": {"clocks_held": False}}, "note", "GPU clocks", "sudo nvidia-smi -i GPU-aaaa -lgc 1755,1755"),
    ({"settings": {"power_limit_w": 350.0}}, "change", "power limit", "sudo nvidia-smi -i GPU-aaaa -pl 700"),
    ({"settings": {"compute_mode": "prohibited"}}, "change", "compute mode", "-c 0"),
    ({"settings": {"mig": True}}, "note", "MIG", "-mig 0"),
    ({"settings": {"ecc": True}}, "note", "ECC", ""),
    ({"settings": {"display": True}}, "note", "display", "another GPU"),
]


@pytest.mark.parametrize(("changes", "level", "subject", "fix"), GPU_CASES)
def test_each_fact_of_the_gpu_has_a_finding_and_a_remedy(changes, level, subject, fix):
    finding = the_one(of_gpu(**changes), level)
    assert finding.subject == subject and fix in finding.fix and bool(fix) == bool(finding.fix)


def test_findings_say_their_numbers():
    busy = the_one(of_host(busy=0.4, load_average=3.0, busiest=(("cc1plus", 0.98), ("python", 0.5))), "change")
    assert busy.found == "40% of the CPU time in use; load average 3.00 (cc1plus 98%, python 50% of one core)"
    others = the_one(of_gpu(process_bytes={7: GIB, 9: None}), "change")
    assert others.found == "others use the GPU: 7 (1.0 GiB), 9 (unknown)"


def test_a_gpu_that_tells_nothing_has_only_notes():
    silent = Settings(**dict.fromkeys(vars(SETTINGS)))
    gpu = replace(
        GPU, uuid=None, driver_cuda=None, process_bytes=None, settings=silent, throttled=None, temperature_c=None
    )
    found = findings(Facts(HOST, gpu))
    assert {f.subject for f in found if f.level != "ok"} == {"driver", "GPU processes", "GPU clocks"}


def test_a_quota_decides_how_many_threads_can_run():
    assert [f for f in of_host(quota_cpus=2.5) if f.subject == "threads"] == [
        Finding("change", "threads", "torch will start 16 where 2 can run", "export OMP_NUM_THREADS=2")
    ]


# gathering


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_limits_of_control_groups_of_version_2_are_the_tightest_up_to_the_root(tmp_path):
    files = {
        "proc/self/cgroup": "0::/user/job",
        "sys/fs/cgroup/user/job/cpu.max": "max 100000",
        "sys/fs/cgroup/user/cpu.max": "150000 100000",
        "sys/fs/cgroup/user/job/memory.max": str(8 * GIB),
        "sys/fs/cgroup/user/memory.max": "max",
    }
    root = write(tmp_path, files)
    assert (machine.quota_cpus(root), machine.memory_limit_bytes(root)) == (1.5, 8 * GIB)


def test_limits_of_control_groups_of_version_1(tmp_path):
    files = {
        "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/job\n0::/",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(4 * GIB),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    root = write(tmp_path, files)
    assert (machine.quota_cpus(root), machine.memory_limit_bytes(root)) == (4.0, 4 * GIB)
    (root / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us").write_text("-1")
    assert machine.quota_cpus(root) is None


def test_a_container_that_sees_its_own_group_as_the_root_is_read_there(tmp_path):
    files = {"proc/self/cgroup": "0::/docker/abc", "sys/fs/cgroup/cpu.max": "50000 100000"}
    assert machine.quota_cpus(write(tmp_path, files)) == 0.5


def test_governor_and_boost_are_read_from_the_kernel(tmp_path):
    assert machine.governors(tmp_path) is None and machine.turbo(tmp_path) is None
    cpu = "sys/devices/system/cpu"
    write(tmp_path, {f"{cpu}/cpu{i}/cpufreq/scaling_governor": g for i, g in enumerate(("powersave", "performance"))})
    assert machine.governors(tmp_path) == {"powersave", "performance"}
    assert machine.turbo(write(tmp_path, {f"{cpu}/cpufreq/boost": "1"})) is True
    assert machine.turbo(write(tmp_path, {f"{cpu}/intel_pstate/no_turbo": "1"})) is False


def test_a_look_names_a_process_that_keeps_a_processor_busy_and_not_the_one_that_looks():
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        name = psutil.Process(spinner.pid).name()
        busy, stolen, busiest = machine.look(0.5)
    finally:
        spinner.kill()
        spinner.wait()
    assert 0 < busy <= 1 and 0 <= stolen < 1
    assert name in [shown for shown, used in busiest] or psutil.getloadavg()[0] > psutil.cpu_count()


def test_facts_of_a_gpu_come_from_the_driver():
    nvml = Nvml(library=FakeNvml([FakeGpu(computing={5: 10}, clock_events=0x44, display=1)]), visible="0")
    gpu = machine.gpu_facts(nvml, 0)
    assert (gpu.name, gpu.uuid, gpu.driver_cuda) == ("NVIDIA H200", "GPU-aaaaaaaa-1111", (13, 0))
    assert (gpu.process_bytes, gpu.throttled) == ({5: 10}, {"power cap", "thermal (hardware)"})
    assert gpu.settings.display and machine.gather("cuda", nvml, look_s=0.0).gpu.temperature_c == 32


def test_a_device_that_is_not_here_is_an_error_that_says_so():
    with pytest.raises(KoalaError, match="there is no cuda:3 here"):
        machine.gather("cuda:3", Nvml(library=FakeNvml(), visible="0"))


# the command


@pytest.mark.parametrize(("host", "code"), [(HOST, 0), (replace(HOST, virtual=True), 0), (replace(HOST, busy=0.9), 1)])
def test_the_exit_code_says_whether_something_is_to_change(monkeypatch, capsys, host, code):
    monkeypatch.setattr(machine, "gather", lambda device: Facts(host, None))
    assert check.run(check.Options(device="cpu")) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(findings(Facts(host, None)))
    assert all(line.split()[0] in ("ok", "note", "change") for line in lines)


def test_the_command_examines_this_machine_without_torch_in_under_3_seconds():
    code = (
        "import sys; from bench.commands import check; check.run(check.Options('cpu')); print('torch' in sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wall_s = time.perf_counter() - start
    *lines, imported = done.stdout.splitlines()
    assert imported == "False" and len(lines) >= 6
    assert any("GiB free under runs/" in line for line in lines)
    assert wall_s < 3 or psutil.getloadavg()[0] > 2 * psutil.cpu_count()
