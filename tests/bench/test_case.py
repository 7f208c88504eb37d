import io
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import profiles
from bench.case import DTYPES, MEASUREMENT, Axes, Case, case_key, grid, resume_key
from bench.commands.sweep import only_what_fits, remark_fixed_steps
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


def cases_of(*axes, **more):
    return grid(Axes(*(tuple(axis) if isinstance(axis, list) else axis for axis in axes), **more))


def test_a_grid_holds_every_combination_once():
    cases = cases_of(["sdxl", "koala-1b"], ["unet", "pipeline"], [512, 512], [1, 2], ["fp16"], [4, 25], "cuda")
    assert len(cases) == len(set(cases)) == 2 * (2 + 2 * 2)
    assert {case.steps for case in cases if case.target == "unet"} == {None}


def test_a_grid_takes_the_models_own_resolution_and_steps_where_none_are_given():
    spec = zoo.get("koala-700m")
    (case,) = cases_of(["koala-700m"], ["pipeline"], [], [1], ["fp16"], [], "cpu")
    assert (case.resolution, case.steps) == (spec.resolution, spec.recipe.steps)


def test_profiles_follow_each_other_and_stock_diffusers_has_no_single_step():
    cases = cases_of(
        ["sdxl"], ["unet", "pipeline"], [], [1], ["fp16"], [], "cuda", ["diffusers-eager", "eager", "tiny-vae"]
    )
    assert [(case.target, case.profile) for case in cases] == [
        ("unet", "eager"),
        ("unet", "tiny-vae"),
        ("pipeline", "diffusers-eager"),
        ("pipeline", "eager"),
        ("pipeline", "tiny-vae"),
    ]
    with pytest.raises(KoalaError, match="no target unet"):
        replace(CASE, target="unet", steps=None, profile="diffusers-eager")


def test_profiles_joined_in_any_order_are_one_case():
    cases = cases_of(
        ["sdxl"], ["pipeline"], [], [1], ["fp16"], [], "cuda", ["compiled+tiny-vae", "tiny-vae+compiled", "eager"]
    )
    assert [case.profile for case in cases] == ["tiny-vae+compiled", "eager"]


def test_stock_diffusers_goes_with_no_other_profile():
    with pytest.raises(KoalaError, match="goes together with no other profile"):
        replace(CASE, profile="diffusers-eager+tiny-vae")


def test_a_model_with_fixed_timesteps_keeps_its_own_steps():
    cases = cases_of(["dmd2-sdxl-4step", "sdxl"], ["pipeline"], [], [1], ["fp16"], [2, 8], "cuda")
    assert [(case.model, case.steps) for case in cases] == [("dmd2-sdxl-4step", 4), ("sdxl", 2), ("sdxl", 8)]
    with pytest.raises(KoalaError, match="trained for the timesteps 999, 749, 499, 249"):
        replace(CASE, model="dmd2-sdxl-4step", steps=2)


@pytest.mark.parametrize(
    ("model", "steps", "words"),
    [
        ("dmd2-sdxl-4step", (8,), "dmd2-sdxl-4step is trained for the timesteps 999, 749, 499, 249: it keeps its own"),
        ("dmd2-sdxl-4step", (4,), ""),
        ("sdxl", (8,), ""),
    ],
)
def test_a_sweep_in_other_steps_says_which_models_keep_their_own(model, steps, words):
    console = Console(file=io.StringIO(), width=200)
    remark_fixed_steps(replace(choose("paper", 1), models=(model,), steps=steps), console)
    assert console.file.getvalue().startswith(words)
    assert bool(console.file.getvalue()) == bool(words)


def test_a_label_names_the_profile_only_where_there_is_one():
    assert CASE.label == "sdxl pipeline 1024px fp16 25 steps"
    assert replace(CASE, profile="tiny-vae").label == "sdxl pipeline 1024px fp16 25 steps tiny-vae"


def test_a_published_name_and_ours_are_one_case():
    assert len(cases_of(["sdxl", "sdxl-base-1.0"], ["unet"], [512], [1], ["fp32"], [], "cpu")) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "sdxll"), ("target", "vae"), ("dtype", "fp8"), ("profile", "compile"), ("profile", "tiny-vae+fast")],
)
def test_an_unknown_name_is_answered_with_the_known_ones(field, value):
    with pytest.raises(UnknownName, match=f"{value.split('+')[-1]!r}.*known"):
        replace(CASE, **{field: value})


@pytest.mark.parametrize(
    "changes", [{"resolution": 1023}, {"resolution": 0}, {"batch_size": 0}, {"steps": 0}, {"vram_bytes": 0}]
)
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
        {"profile": "compiled"},
        {"vram_bytes": 8 * 2**30},
    ],
)
def test_every_field_of_a_case_changes_the_resume_key(changes):
    assert case_key(replace(CASE, **changes), HERE) != case_key(CASE, HERE)


def test_a_row_that_lacks_later_fields_answers_for_a_case_in_which_they_say_nothing():
    fields = {name: value for name, value in asdict(CASE).items() if name not in ("pipeline", "vram_bytes")}
    assert resume_key({"case": fields, "measurement": MEASUREMENT}, HERE) == case_key(CASE, HERE)


def test_each_process_of_a_case_has_a_key_of_its_own():
    assert len({case_key(CASE, HERE, process) for process in range(3)}) == 3
    assert case_key(CASE, HERE, 0) == case_key(CASE, HERE)


def test_caps_are_an_axis_and_stand_in_the_label():
    cases = cases_of(["sdxl"], ["unet"], [], [1], ["fp16"], [], "cuda", vram=(None, 8 * 2**30))
    assert [case.label for case in cases] == ["sdxl unet 1024px fp16", "sdxl unet 1024px fp16 in 8 GiB"]


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
    cases = grid(sweep.axes(tuple(d for d in sweep.dtypes if d != "auto") or ("fp32",)))
    assert cases
    assert {case.profile for case in cases} == {profiles.get(name).name for name in sweep.profiles}
    assert sweep.name == name
    assert sweep.summary


def test_auto_measures_steps_on_a_cpu_and_images_too_on_a_gpu():
    assert (choose("auto", 0).device, choose("auto", 0).targets) == ("cpu", ("unet",))
    assert (choose("auto", 1).device, choose("auto", 1).targets) == ("cuda", ("unet", "pipeline"))


def test_an_unknown_sweep_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="auto, batches, cards, cpu, paper, profiles, resolutions, smoke"):
        choose("papers", 0)


def test_the_paper_sweep_draws_each_model_at_its_own_resolution_beside_stock_diffusers():
    sweep = choose("paper", 1)
    cases = grid(sweep.axes(sweep.dtypes))
    native = {(case.model, case.resolution, case.steps, case.profile) for case in cases if case.target == "pipeline"}
    for model, resolution, steps in (("koala-turbo-1b", 512, 10), ("sdm-v2.0", 768, 25), ("sdxl-turbo", 512, 1)):
        assert {(model, resolution, steps, "eager"), (model, resolution, steps, "diffusers-eager")} <= native
    assert all(case.resolution == zoo.get(case.model).resolution for case in cases)
    assert [case.target for case in cases] == sorted(case.target for case in cases)
    assert {case.model for case in cases[:6]} == {"koala-lightning-700m", "koala-turbo-700m", "sdxl"}


def test_the_paper_sweep_says_what_is_missing_on_a_machine_without_a_gpu():
    if environment.Nvml().count() == 0:
        with pytest.raises(KoalaError, match="no cuda here"):
            environment.collect(choose("paper", 0).device)


def test_auto_leaves_out_what_free_memory_cannot_hold():
    console = Console(file=io.StringIO(), width=200)
    cases = cases_of(["koala-700m", "koala-1b", "sdxl"], ["unet"], [256], [1], ["fp32"], [], "cpu")
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


def test_a_model_that_this_repository_has_a_copy_of_is_measured_with_it_until_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = zoo.get("emoji-koala")
    axes = Axes((spec.name,), ("pipeline",), (), (1,), ("fp32",), (), "cpu")
    assert [case.weights for case in grid(axes)] == [spec.folder]
    (tmp_path / spec.attached).mkdir(parents=True)
    assert [case.weights for case in grid(axes)] == [spec.attached]
    (tmp_path / spec.folder).mkdir(parents=True)
    assert [case.weights for case in grid(axes)] == [spec.folder]
