import io
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.case import DTYPES, MEASUREMENT, Case, case_key, grid, resume_key
from bench.commands.sweep import only_what_fits
from bench.sweeps import SWEEPS, choose
from koala.errors import KoalaError, UnknownName
from koala.harness import environment
from koala.models import load, zoo

CASE = Case("sdxl", "pipeline", 1024, 1, "fp16", 25, "cuda")
HERE = {
    "device_kind": "cuda",
    "device_name": "NVIDIA H200",
    "driver": "580.1",
    "torch": "2.15.0",
    "diffusers": "0.42.1",
}


def test_a_grid_holds_every_combination_once():
    cases = grid(["sdxl", "koala-1b"], ["unet", "pipeline"], [512, 512], [1, 2], ["fp16"], [4, 25], "cuda")
    assert len(cases) == len(set(cases)) == 2 * (2 + 2 * 2)
    assert {case.steps for case in cases if case.target == "unet"} == {None}


def test_a_grid_takes_the_models_own_resolution_and_steps_where_none_are_given():
    spec = zoo.get("koala-700m")
    (case,) = grid(["koala-700m"], ["pipeline"], [], [1], ["fp16"], [], "cpu")
    assert (case.resolution, case.steps) == (spec.resolution, spec.recipe.steps)


def test_a_published_name_and_ours_are_one_case():
    assert len(grid(["sdxl", "sdxl-base-1.0"], ["unet"], [512], [1], ["fp32"], [], "cpu")) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "sdxll"), ("target", "vae"), ("dtype", "fp8")],
)
def test_an_unknown_name_is_answered_with_the_known_ones(field, value):
    with pytest.raises(UnknownName, match=f"{value!r}.*known"):
        replace(CASE, **{field: value})


@pytest.mark.parametrize("changes", [{"resolution": 1023}, {"resolution": 0}, {"batch_size": 0}, {"steps": 0}])
def test_what_cannot_be_drawn_is_refused(changes):
    with pytest.raises(KoalaError):
        replace(CASE, **changes)


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.integers() for name in ("sm_clock_max_hz", "git_commit", "id", "power_limit_w", "os")}
    )
)
def test_neither_commit_nor_clocks_nor_id_change_the_resume_key(others):
    assert case_key(CASE, HERE | others) == case_key(CASE, HERE)


@pytest.mark.parametrize("field", [name for name in HERE if name != "device_kind"])
def test_device_driver_and_versions_change_the_resume_key(field):
    assert case_key(CASE, HERE | {field: "other"}) != case_key(CASE, HERE)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "koala-1b"},
        {"target": "unet"},
        {"resolution": 512},
        {"batch_size": 2},
        {"dtype": "bf16"},
        {"steps": 4},
    ],
)
def test_every_field_of_a_case_changes_the_resume_key(changes):
    assert case_key(replace(CASE, **changes), HERE) != case_key(CASE, HERE)


def test_a_case_knows_the_dtypes_that_can_be_loaded_and_their_sizes():
    assert {name: dtype.itemsize for name, dtype in load.DTYPES.items()} == DTYPES


def test_two_equal_gpus_answer_for_each_other():
    assert case_key(replace(CASE, device="cuda:1"), HERE) == case_key(CASE, HERE)


def test_another_way_of_measuring_is_measured_again():
    row = {"case": asdict(CASE), "measurement": MEASUREMENT + 1}
    assert resume_key(row, HERE) != case_key(CASE, HERE)


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("gpus", [0, 1])
def test_every_named_sweep_expands_to_cases_of_the_zoo(name, gpus):
    sweep = choose(name, gpus)
    dtypes = [d for d in sweep.dtypes if d != "auto"] or ["fp32"]
    cases = grid(sweep.models, sweep.targets, sweep.resolutions, sweep.batch_sizes, dtypes, sweep.steps, sweep.device)
    assert cases
    assert sweep.name == name
    assert sweep.summary


def test_auto_measures_steps_on_a_cpu_and_images_too_on_a_gpu():
    assert (choose("auto", 0).device, choose("auto", 0).targets) == ("cpu", ("unet",))
    assert (choose("auto", 1).device, choose("auto", 1).targets) == ("cuda", ("unet", "pipeline"))


def test_an_unknown_sweep_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="auto, cpu, paper, smoke"):
        choose("papers", 0)


def test_the_paper_sweep_says_what_is_missing_on_a_machine_without_a_gpu():
    if environment.Nvml().count() == 0:
        with pytest.raises(KoalaError, match="no cuda here"):
            environment.collect(choose("paper", 0).device)


def test_auto_leaves_out_what_free_memory_cannot_hold():
    console = Console(file=io.StringIO(), width=200)
    cases = grid(["koala-700m", "koala-1b", "sdxl"], ["unet"], [256], [1], ["fp32"], [], "cpu")
    kept = only_what_fits(cases, 8 * 2**30, console)
    assert [case.model for case in kept] == ["koala-700m", "koala-1b"]
    assert "left out: sdxl unet 256px fp32 does not fit into 8.0 GiB" in console.file.getvalue()
    assert only_what_fits(cases, 20 * 2**30, console) == cases
    with pytest.raises(KoalaError, match="sweep smoke"):
        only_what_fits(cases, 2**30, console)


def test_a_torch_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(environment, "torch_cuda_version", lambda: None)
    with pytest.raises(KoalaError, match="built without CUDA"):
        environment.collect("cuda")
