"""The papers' protocols: their numbers, that every name in them exists, and a small trial of one from end to end."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from eval_rows import image_rows, known, metric_row, set_row, settings

from eval import metrics, protocols, suites
from eval.commands import run as command
from eval.prompts.load import entry
from eval.protocol_run import Run, _accepted, _heading
from eval.report.published import read_published
from eval.suite import Prompt, Suite
from koala.errors import KoalaError
from koala.harness.scores.table import to_frame
from koala.models.spec import Recipe
from koala.sampling.gallery import Gallery
from koala.sampling.schedules import SCHEDULERS

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published(ROOT / "results" / "reference")
NAMES = list(protocols.PROTOCOLS)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KOALA_SUITES", raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_names_only_what_there_is(name):
    protocol = protocols.get(name)
    assert protocol.title and protocol.source.startswith("https://")
    assert bool(protocol.parts) != bool(protocol.obstacle)
    for part in protocol.parts:
        assert part.suite in suites.names()
        for metric in part.metrics:
            metrics.load(metric)
    assert not protocol.recipe or Recipe(**{"scheduler": "euler", "steps": 1, "guidance": 1.0, **protocol.recipe})
    assert protocol.recipe.get("scheduler", "euler") in SCHEDULERS
    assert not protocol.start_latents or any(
        file.role == "start_latents" for part in protocol.parts for file in entry(part.suite).files
    )
    if protocol.benchmark:
        assert protocol.benchmark in set(PUBLISHED["benchmark"])
    assert set(protocol.accepts) <= {metric for part in protocol.parts for metric in part.metrics}


@pytest.mark.parametrize(
    ("name", "images", "facts"),
    [  # as papers.md's sources count them: KOALA's checklist, BK-SDM's code, DMD2's section 4, GenEval, MLPerf
        ("bk-sdm", 30_000, {"resolution": 512, "seed": 1234}),
        ("dmd2-coco10k", 10_000, {"resolution": 1024}),
        ("dmd2-coco30k", 30_000, {"resolution": 512}),
        ("geneval", 2_212, {"resolution": None}),
        ("compbench", 18_000, {}),
        ("koala", 3_200 + 24_000, {"resolution": None}),
        ("mlperf", 5_000, {"resolution": 1024, "start_latents": True}),
    ],
)
def test_protocols_have_their_papers_numbers(name, images, facts):
    protocol = protocols.get(name)
    assert protocol.images == images
    assert {fact: getattr(protocol, fact) for fact in facts} == facts


def test_recipes_of_protocols_replace_the_models_own():
    own = Recipe("ddim", 50, 3.0, timestep_spacing="trailing")
    mlperf = Run("mlperf", protocols.get("mlperf"), ("sdxl",), Path("out")).recipe(own)
    assert (mlperf.scheduler, mlperf.steps, mlperf.guidance) == ("euler", 20, 8.0)
    assert mlperf.negative.startswith("normal quality") and mlperf.timestep_spacing == "trailing"
    assert Run("geneval", protocols.get("geneval"), ("sdxl",), Path("out")).recipe(own) == own


def test_mlperfs_ranges_are_those_that_are_published():
    ranges = PUBLISHED[(PUBLISHED["benchmark"] == "mlperf-inference-sdxl") & (PUBLISHED["value"] == "")]
    published = {row["metric"]: (float(row["low"]), float(row["high"])) for row in ranges.to_dict("records")}
    assert protocols.get("mlperf").accepts == published


def test_what_a_paper_left_open_is_said(monkeypatch):
    three = tuple(map(Prompt, "abc"))
    monkeypatch.setattr(suites, "load", lambda name: Suite(name, name, None, None, three))
    for name, protocol in protocols.PROTOCOLS.items():
        page = _heading(Run(name, protocol, ("sdxl",), Path("out")))
        assert all(f"- {open}." in page for open in protocol.left_open)
        assert protocol.left_open or protocol.obstacle
        assert page.count("- 3 prompts of ") == len(protocol.parts)


# ---- accepted ranges

CLIP = metric_row("11c11c11c11c11c1", "clip_score:mlperf")


def accepted(value, run=None, label=None, **more):
    about = set_row(settings=settings("sdxl", **more))
    metric = CLIP if label is None else {**CLIP, "label": label}
    frame = to_frame(known(metric, about, *image_rows(about, metric, [value] * 8)))
    whole = Run("mlperf", protocols.get("mlperf"), ("sdxl",), Path("out"))
    return "\n".join(_accepted(run or whole, frame))


def test_a_value_inside_the_accepted_range_is_valid_and_others_are_not():
    assert "| valid" in accepted(31.75)
    assert "| not valid" in accepted(31.60) and "| not valid" in accepted(31.82)


def test_trials_random_weights_and_other_weights_do_not_count():
    trial = Run("mlperf", protocols.get("mlperf"), ("sdxl",), Path("out"), limit=8)
    assert "does not count: a trial" in accepted(31.75, trial)
    assert "does not count: random weights" in accepted(31.75, weights="random")
    assert "does not count: not the standard weights" in accepted(31.75, label="clip_score:mlperf[unverified]")


# ---- a run


def options(tmp_path, **more):
    given = {
        "protocol": "segmind",
        "models": ("tiny-segmind-tiny-sd",),
        "limit": 4,
        "resolution": 64,
        "also": ("brightness",),
        "device": "cpu",
        "batch_size": 2,
        "workers": 0,
        "out": tmp_path / "out",
        "results": ROOT / "results",
        **more,
    }
    return command.Options(**given)


def test_a_trial_generates_scores_and_prints_what_it_is(tmp_path, capsys):
    assert command.run(options(tmp_path)) == 0
    page = capsys.readouterr().out
    assert "**A trial with 4 prompts of each suite and images of 64 px: not the protocol's numbers**" in page
    assert "225 images of each model at 512 px" in page and "Segmind published no quality metric" in page
    assert "brightness" in page and "### Not computed here" in page and "hps:v2.1" in page
    folder = tmp_path / "out" / "segmind-limit4-64px"
    rows = Gallery(folder / "koala-core" / "tiny-segmind-tiny-sd").rows()
    assert len(rows) == 4 and {row["recipe"]["steps"] for row in rows} == {25}
    assert {(row["recipe"]["scheduler"], row["recipe"]["guidance"]) for row in rows} == {("dpm++", 7.0)}
    assert (folder / "report.md").read_text() == page.removesuffix("\n")
    before = (folder / "rows.jsonl").read_bytes()
    assert command.run(options(tmp_path)) == 0
    assert (folder / "rows.jsonl").read_bytes() == before  # nothing was drawn or scored again


def test_every_image_begins_with_the_suites_latents_where_a_protocol_says_so(tmp_path, monkeypatch, capsys):
    import torch

    from eval.prompts import places

    torch.save(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)), tmp_path / "latents.pt")
    monkeypatch.setattr("eval.protocol_run.start_latents", lambda suite: tmp_path / "latents.pt")
    part = protocols.Part("koala-smoke", ("brightness",))
    fixed = replace(protocols.get("segmind"), parts=(part,), start_latents=True, recipe={"steps": 1}, dtype="fp32")
    monkeypatch.setitem(protocols.PROTOCOLS, "segmind", fixed)
    assert command.run(options(tmp_path, models=("tiny-sdxl-turbo",), limit=3)) == 0
    (folder,) = (tmp_path / "out").glob("*/koala-smoke/tiny-sdxl-turbo")
    rows = Gallery(folder).rows()
    assert {row["start_latents"] for row in rows} == {places.sha256_of(tmp_path / "latents.pt")}
    assert json.loads((folder / "manifest.jsonl").read_text().splitlines()[-1])["seed"] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"protocol": ""}, "--protocol says how: koala, bk-sdm"),
        ({"protocol": "koalla"}, "unknown protocol 'koalla' .did you mean 'koala'"),
        ({"protocol": "edm-imagenet64"}, "cannot be run here: .*draws classes"),
        ({"models": ()}, "--models says who draws"),
        ({"protocol": "geneval"}, "evaluation_metadata.jsonl of GenEval is not on this machine"),
        ({"limit": 0}, "--limit must be at least 1"),
    ],
)
def test_a_mistake_is_one_clear_error_before_anything_is_drawn(tmp_path, more, message):
    with pytest.raises(KoalaError, match=message):
        command.run(options(tmp_path, **more))
    assert not list((tmp_path / "out").rglob("*.png"))


def test_the_published_numbers_of_a_protocol_are_its_benchmarks_alone():
    assert isinstance(PUBLISHED, pd.DataFrame)
    for name in ("bk-sdm", "dmd2-coco10k", "dmd2-coco30k"):
        own = PUBLISHED[PUBLISHED["benchmark"] == protocols.get(name).benchmark]
        computed = {metric for part in protocols.get(name).parts for metric in part.metrics}
        assert computed & set(own["metric"]), "none of its numbers could stand beside ours"


def test_the_commands_help_lists_every_protocol_that_can_be_run():
    runnable = ", ".join(name for name, protocol in protocols.PROTOCOLS.items() if not protocol.obstacle)
    assert f'"""{runnable}."""' in Path(command.__file__).read_text(encoding="utf-8")
