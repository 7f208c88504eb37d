"""Smaller cards on a large GPU: KOALA's published cells of 8 and 11 GB beside the same cases under a cap here."""

from pathlib import Path

import pytest
import torch

from bench import sweep
from bench.case import Case
from bench.isolate import ForkServer
from bench.report.cards import beside_published
from bench.report.frame import latest_rows, to_frame
from bench.report.published import read_published
from bench.rule import Rule
from koala import aliases
from koala.harness import records
from koala.harness.tables import to_markdown
from koala.models import zoo

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
ROOT = Path(__file__).parents[2]
GIB = 2**30
RULE = Rule(warmup=1, repeats=1, budget_s=0.0)


class Silent:
    def begin(self, job): ...

    def message(self, message): ...

    def end(self, row): ...


def measured(cases, path):
    return sweep.run(sweep.jobs_of(cases, 1), sweep.Plan(RULE, 300.0), path, ForkServer(), Silent())


def step_in(vram, resolution=512):
    return Case("koala-700m", "unet", resolution, 1, "fp16", None, "cuda", vram_bytes=vram)


def test_what_fits_and_what_does_not_is_told_apart_by_the_card_and_not_by_this_one(tmp_path):
    free, roomy, tight = measured([step_in(None), step_in(8 * GIB), step_in(GIB)], tmp_path / "rows.jsonl")
    assert [free["status"], roomy["status"], tight["status"]] == ["ok", "ok", "oom"], tight
    for row, card in ((roomy, 8 * GIB), (tight, GIB)):
        facts = row["emulation"]
        assert facts["limit_bytes"] + facts["context_bytes"] == facts["card_bytes"] == card
        assert row["memory_bytes"]["peak_reserved"] <= facts["limit_bytes"]
    memory = free["memory_bytes"]
    assert 0 < memory["context"] <= memory["context_end"]
    assert memory["call_peak_allocated"] <= memory["peak_allocated"]
    assert memory["call_peak_reserved"] <= memory["peak_reserved"]


def test_the_cap_takes_the_context_off_the_card(tmp_path):
    (free,) = measured([step_in(None)], tmp_path / "free.jsonl")
    memory = free["memory_bytes"]
    need = memory["context_end"] + memory["call_peak_reserved"]
    under, over = measured([step_in(need + 256 * 2**20), step_in(need // 2)], tmp_path / "capped.jsonl")
    assert (under["status"], over["status"]) == ("ok", "oom")


def test_energy_and_conditions_are_measured_and_say_how(tmp_path):
    case = Case("koala-700m", "unet", 1024, 1, "fp16", None, "cuda")
    rule = Rule(warmup=2, repeats=20, budget_s=3.0)
    (row,) = sweep.run(sweep.jobs_of([case], 1), sweep.Plan(rule, 300.0), tmp_path / "r.jsonl", ForkServer(), Silent())
    assert row["status"] == "ok", row
    assert row["energy_method"]
    step_s = sorted(row["samples_s"]["total"])[len(row["samples_s"]["total"]) // 2]
    assert 20 < row["energy_j"] / step_s < 1500  # W: more than idle, less than any card takes
    assert row["conditions"]["sm_clock_hz"]["low"] > 1e8
    assert row["memory_bytes"]["process_peak"] is None or row["memory_bytes"]["process_peak"] > 0


@pytest.mark.parametrize("profile", ["eager", "diffusers-eager"])
@pytest.mark.parametrize("steps", [1, 10])
def test_the_parts_of_an_image_add_up_to_the_synchronised_total(tmp_path, profile, steps):
    case = Case("koala-700m", "pipeline", 512, 1, "fp16", steps, "cuda", profile=profile)
    rule = Rule(warmup=2, repeats=6, budget_s=0.0)
    (row,) = sweep.run(sweep.jobs_of([case], 1), sweep.Plan(rule, 300.0), tmp_path / "r.jsonl", ForkServer(), Silent())
    known = records.read([tmp_path / "r.jsonl"])
    (line,) = to_frame(latest_rows(known), known).to_dict("records")
    assert row["status"] == "ok", row
    assert line["parts_share"] == pytest.approx(1, abs=0.02)


@pytest.mark.fullsize
@pytest.mark.timeout(580)
def test_published_cells_of_8_and_11_gb_beside_the_same_cases_under_a_cap(tmp_path, capsys):
    """Prints verdicts and margins; what comes out is a finding and not a condition."""
    published = read_published(ROOT / "results/reference/koala_published_latency.csv")
    cells = published[published["gpu"].str.contains("-8GB|-11GB")]
    models = [aliases.MODELS.get(model, model) for model in cells["model"].unique()]
    cases = [
        Case(spec.name, "pipeline", spec.resolution, 1, "fp16", 1, "cuda", profile="diffusers-eager", vram_bytes=vram)
        for spec in (zoo.get(model) for model in models if zoo.known(model))
        if spec.recipe.timesteps is None
        for vram in (None, 8 * GIB, 11 * GIB)
    ]
    rows = measured(cases, tmp_path / "rows.jsonl")
    known = records.read([tmp_path / "rows.jsonl"])
    with capsys.disabled():
        print("\n" + to_markdown(beside_published(cells, to_frame(latest_rows(known), known))))
    assert {row["status"] for row in rows} <= {"ok", "oom"}
