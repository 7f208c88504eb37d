import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import FakeGpu, FakeNvml

from koala.errors import KoalaError
from koala.harness import environment
from koala.harness.nvml import Nvml

ROOT = Path(__file__).parents[2]
PARTS = ("device_facts", "software", "host")
RECORD = {**environment.device_facts("cpu"), **environment.software(), **environment.host()}


def nvml(*gpus, visible="0,1"):
    return Nvml(library=FakeNvml(gpus), visible=visible)


def identity(monkeypatch, record):
    """The id that a machine with these facts would have."""
    for part, facts in zip(PARTS, (record, {}, {}), strict=True):
        monkeypatch.setattr(environment, part, lambda *_, facts=facts: facts)
    return environment.collect("cpu")["id"]


# ---- the record


def test_collecting_imports_neither_torch_nor_pandas():
    script = (
        "import json, sys; from koala.harness import environment; record = environment.collect('cpu');"
        "print(json.dumps([record, [name for name in ('torch', 'pandas') if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    record, imported = json.loads(done.stdout)
    assert imported == []
    assert record["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_record_is_flat_and_json():
    record = environment.collect("cpu")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["kind"] == "environment"
    assert re.fullmatch("[0-9a-f]{16}", record["id"])
    assert not [name for name, value in record.items() if isinstance(value, dict | list)]


def test_the_record_holds_the_device_the_software_and_the_host():
    record = environment.collect("cpu")
    assert set(record) == {*RECORD, "kind", "id"}
    unsteady = {"git_commit", "git_dirty"}  # somebody may be at work in this checkout
    assert {name: record[name] for name in RECORD if name not in unsteady} == {
        name: value for name, value in RECORD.items() if name not in unsteady
    }


def test_the_same_facts_have_the_same_id_in_whatever_order(monkeypatch):
    backwards = dict(reversed(RECORD.items()))
    assert list(backwards) != list(RECORD)
    assert identity(monkeypatch, RECORD) == identity(monkeypatch, dict(RECORD)) == identity(monkeypatch, backwards)


@pytest.mark.parametrize("field", RECORD)
def test_a_change_of_any_field_changes_the_id(monkeypatch, field):
    assert identity(monkeypatch, RECORD) != identity(monkeypatch, RECORD | {field: "changed"})


def test_a_further_field_changes_the_id(monkeypatch):
    assert identity(monkeypatch, RECORD) != identity(monkeypatch, RECORD | {"new": None})


def test_no_other_record_is_written_over_by_the_device():
    assert not set(environment.device_facts("cpu")) & set(environment.host())
    assert not set(environment.device_facts("cuda", nvml(FakeGpu()))) & {*environment.host(), *environment.software()}


# ---- devices


def test_a_cpu_is_named_with_its_cores_and_instruction_set():
    facts = environment.device_facts("cpu")
    assert facts["device_kind"] == "cpu"
    cores, isa = environment.cpu_cores(), environment.cpu_isa()
    assert facts["device_name"] == f"{environment.cpu_model()} ({cores} cores, {isa})"
    assert 2**28 < facts["device_memory_bytes"] < 2**50


def test_a_gpu_is_described_by_its_driver():
    first, second = FakeGpu(name="first"), FakeGpu(name="second", total=80 * 2**30, sm_clock_mhz=1410)
    facts = environment.device_facts("cuda:1", nvml(first, second))
    assert facts.pop("power_limit_w") == pytest.approx(700)
    assert facts == {
        "device_kind": "cuda",
        "device_name": "second",
        "device_memory_bytes": 80 * 2**30,
        "driver": "580.95.05",
        "sm_clock_max_hz": 1_410_000_000,
        "memory_clock_max_hz": 3_201_000_000,
    }
    assert environment.device_facts("cuda", nvml(first, second))["device_name"] == "first"


def test_a_card_that_does_not_tell_its_clocks_has_none():
    facts = environment.device_facts("cuda", nvml(FakeGpu(sm_clock_mhz=None, memory_clock_mhz=None)))
    assert (facts["sm_clock_max_hz"], facts["memory_clock_max_hz"]) == (None, None)
    assert facts["power_limit_w"] == pytest.approx(700)


@pytest.mark.parametrize(
    "device", ["tpu", "cuda:x", "cuda:-1", "cuda:0:0", "cuda:", "cuda:\N{SUPERSCRIPT TWO}", "cpu:0", ""]
)
def test_an_unknown_device_is_answered_with_the_known_ones(device):
    with pytest.raises(KoalaError, match=r"unknown device .*; known: cpu, cuda, cuda:N"):
        environment.device_facts(device, nvml(FakeGpu()))


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:2", 2)])
def test_a_gpu_that_is_not_here_is_an_error_that_counts_those_that_are(device, count):
    with pytest.raises(KoalaError, match=f"no {device} here .{count} NVIDIA GPUs are visible.; try --device cpu"):
        environment.device_facts(device, nvml(*[FakeGpu()] * count))


def test_a_hidden_gpu_is_not_here():
    with pytest.raises(KoalaError, match="0 NVIDIA GPUs"):
        environment.device_facts("cuda", nvml(FakeGpu(), visible=""))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("Intel(R) Xeon(R) Processor (2 cores, avx2)", "intel-xeon-processor-2-cores-avx2"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "intel-core-i7-8700-cpu-3-20ghz"),
        ("NVIDIA GeForce RTX 4090 / D", "nvidia-geforce-rtx-4090-d"),
        ("../..//etc", "etc"),
    ],
)
def test_a_device_name_becomes_a_folder_name(name, folder):
    assert environment.slug(name) == folder


# ---- software and commit


def test_versions_are_those_that_the_packages_say_of_themselves():
    software = environment.software()
    assert environment.torch_cuda_version() == software["cuda"] == torch.version.cuda
    assert software["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert software["python"] == "{}.{}.{}".format(*sys.version_info)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGES", ("torch", "no-such-package"))
    assert environment.software()["no-such-package"] is None
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    assert environment.torch_cuda_version() is None


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder in which the code under test believes to lie, with one committed Python file once `git` has run."""
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "koala" / "harness" / "environment.py"))
    monkeypatch.setenv("KOALA_COMMIT", "given")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def commit(folder):
    def git(*args):
        command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (folder / "code.py").write_text("1\n")
    (folder / "notes.md").write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return git("rev-parse", "HEAD")


def test_koala_commit_stands_in_for_a_missing_git_folder(checkout, monkeypatch):
    assert environment.git_state() == ("given", None)
    monkeypatch.delenv("KOALA_COMMIT")
    assert environment.git_state() == (None, None)


def test_the_commit_of_a_checkout_comes_before_the_variable(checkout):
    head = commit(checkout)
    assert environment.git_state() == (head, False)


def test_only_changes_of_tracked_python_files_make_a_checkout_dirty(checkout):
    head = commit(checkout)
    (checkout / "notes.md").write_text("2\n")
    (checkout / "untracked.py").write_text("2\n")
    assert environment.git_state() == (head, False)
    (checkout / "code.py").write_text("2\n")
    assert environment.git_state() == (head, True)


def test_a_machine_without_git_or_with_a_broken_checkout_falls_back_to_the_variable(checkout, monkeypatch):
    (checkout / ".git").mkdir()
    assert environment.git_state() == ("given", None)
    monkeypatch.setenv("PATH", "")
    assert environment.git_state() == ("given", None)
