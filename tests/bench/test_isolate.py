import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.isolate import ForkServer, Outcome, kernel_oom_kills

ROOT = Path(__file__).parents[2]


def test_a_result_and_its_messages_come_back(server):
    heard = []
    outcome = server.call("faulty_workers:echo", [1, "two"], on_message=heard.append)
    assert outcome.result is not None
    assert outcome.result["value"] == [1, "two"]
    assert heard == [{"stage": "hello"}]


def test_each_call_has_a_process_of_its_own_without_a_gpu_context(server):
    results = [server.call("faulty_workers:echo", 0).result for _ in range(2)]
    assert len({result["pid"] for result in results} | {os.getpid()}) == 3
    assert not any(result["cuda"] for result in results)


def test_a_fresh_process_costs_far_less_than_the_imports_it_would_need(server):
    server.call("faulty_workers:echo", 0)
    start = time.perf_counter()
    for _ in range(5):
        server.call("faulty_workers:echo", 0)
    assert (time.perf_counter() - start) / 5 < 1.0


@pytest.mark.parametrize(
    ("worker", "exit_code", "reason"),
    [
        ("die", -signal.SIGKILL, "killed by SIGKILL"),
        ("abort", -signal.SIGABRT, "killed by SIGABRT"),
        ("raise_error", 1, "ValueError: the U-Net has a hole | in it"),
        ("leave", 3, "ended with exit code 3 and no result"),
        ("no_such_function", 1, "has no attribute 'no_such_function'"),
    ],
)
def test_every_bad_end_is_told_apart(server, worker, exit_code, reason):
    outcome = server.call(f"faulty_workers:{worker}")
    assert outcome.result is None
    assert outcome.exit_code == exit_code
    assert reason in outcome.reason
    assert not outcome.timed_out


def test_a_worker_that_hangs_is_killed_at_its_deadline(server, tmp_path):
    start = time.monotonic()
    outcome = server.call("faulty_workers:hang_and_say_where", str(tmp_path / "pid"), timeout_s=1.0)
    assert outcome.timed_out
    assert 1.0 <= time.monotonic() - start < 5.0
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("before", "after", "expected"), [(3, 4, True), (3, 3, False), (None, None, False)])
def test_a_sigkill_counts_as_out_of_memory_only_where_the_kernel_counted_one(server, before, after, expected):
    counts = iter([before, after])
    outcome = server.call("faulty_workers:die", oom_kills=lambda: next(counts))
    assert outcome.killed_for_memory is expected
    assert ("out-of-memory killer" in outcome.reason) is expected


def test_an_oom_kill_elsewhere_does_not_excuse_an_ordinary_failure(server):
    counts = iter([3, 4])
    assert not server.call("faulty_workers:raise_error", oom_kills=lambda: next(counts, 4)).killed_for_memory


def test_the_kernel_says_how_often_it_killed_for_memory():
    if Path("/proc/vmstat").exists():
        assert isinstance(kernel_oom_kills(), int)


def test_waiting_for_a_worker_costs_the_parent_no_processor_time(server):
    server.call("faulty_workers:echo", 0)
    before = time.process_time()
    server.call("faulty_workers:hang", timeout_s=2.0)
    assert time.process_time() - before < 0.1


def test_the_watcher_is_called_while_the_worker_works(server):
    looks = []
    server.call("faulty_workers:hang", timeout_s=1.0, watch=lambda: looks.append(1), watch_every_s=0.05)
    assert 5 <= len(looks) <= 20


def test_a_worker_dies_with_its_parent(tmp_path):
    file = tmp_path / "pid"
    code = (
        f"from bench.isolate import ForkServer; ForkServer().call('faulty_workers:hang_and_say_where', {str(file)!r})"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    )
    worker = _wait_for(lambda: int(file.read_text()) if file.exists() and file.read_text() else None)
    assert psutil.pid_exists(worker)
    parent.kill()
    parent.wait()
    _wait_for(lambda: not psutil.pid_exists(worker))


def test_an_outcome_without_any_words_still_has_a_reason():
    assert Outcome(None, exit_code=1).reason == "ended with exit code 1 and no result"


def test_there_is_always_a_way_to_start_processes(monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    outcome = ForkServer().call("faulty_workers:echo", "spawned")
    assert outcome.result is not None
    assert outcome.result["value"] == "spawned"


def _wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_the_watcher_also_looks_while_messages_come_in_faster_than_it_does(server):
    looks = []
    server.call("faulty_workers:chatter", 1.0, watch=lambda: looks.append(1), watch_every_s=0.05)
    assert 10 <= len(looks) <= 25


def test_the_reason_of_a_failure_is_its_exception_not_the_advice_after_it(server):
    outcome = server.call("faulty_workers:complain_after_an_error")
    assert outcome.reason == "torch.AcceleratorError: CUDA error: an illegal address"


@pytest.mark.slow
def test_importing_the_preloads_leaves_a_gpu_usable_for_forked_children():
    # A machine with a GPU is played by NVML's count; a call of CUDA itself would mark every later fork as bad.
    code = """
import os
import torch.cuda
torch.cuda._device_count_nvml = lambda: 1
import bench.preload
pid = os.fork()
if pid == 0:
    os._exit(int(torch.cuda._is_in_bad_fork()))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

    def run(check):
        environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": check}
        return subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=environment).returncode

    ForkServer()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"
    assert run("1") == 0
    assert run("0") == 1
