"""Scoring sets of images: one decode, one pass, rows that survive, nothing computed twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from score_runs import METRICS, folder, picture, rows_of, value

from eval import reader
from eval.commands import score as command
from eval.extractors import effnet_lite0
from koala.errors import KoalaError
from koala.harness import records

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def counted(monkeypatch):
    """How many files were decoded, and how many images went through the network."""
    counts = {"decoded": 0, "embedded": 0}
    decode, features = reader.decode, effnet_lite0.EXTRACTOR.features

    def counting_decode(*args):
        counts["decoded"] += 1
        return decode(*args)

    def counting_features(self, images):
        counts["embedded"] += len(images)
        return features(self, images)

    monkeypatch.setattr(reader, "decode", counting_decode)
    monkeypatch.setattr(effnet_lite0.EXTRACTOR, "features", counting_features)
    return counts


@pytest.mark.proves("metric", name="brightness", weights="none")
@pytest.mark.proves("metric", name=("fd_effnet_lite0", "kd_effnet_lite0"), weights="real")
@pytest.mark.proves("loader", name="eval-package", weights="real")
def test_each_image_is_decoded_once_and_seen_once_by_a_network_however_many_metrics_read_it(options, counted, capsys):
    more = replace(options, metrics=(*METRICS, "fd_effnet_lite0"))
    assert command.run(more) == 0
    assert counted == {"decoded": 16, "embedded": 16}
    assert "kd_effnet_lite0" in capsys.readouterr().out


def test_a_second_run_computes_nothing_and_appends_nothing(options, counted):
    command.run(options)
    before = (options.out / "rows.jsonl").read_bytes()
    counted.update(decoded=0, embedded=0)
    assert command.run(options) == 0
    assert counted == {"decoded": 0, "embedded": 0}
    assert (options.out / "rows.jsonl").read_bytes() == before


def test_a_further_metric_of_the_same_features_decodes_nothing(options, counted):
    command.run(options)
    counted.update(decoded=0, embedded=0)
    command.run(replace(options, metrics=("fd_effnet_lite0",)))
    assert counted == {"decoded": 0, "embedded": 0} and value(options, "fd_effnet_lite0") > 0


def test_only_a_file_that_changed_is_scored_again(options, counted):
    command.run(options)
    first = value(options)
    picture(55).save(options.paths[0] / "003.png")
    counted.update(decoded=0, embedded=0)
    command.run(options)
    assert counted == {"decoded": 1, "embedded": 1} and value(options) != first
    fresh = replace(options, out=options.out.with_name("fresh"))
    command.run(fresh)
    assert value(fresh) == value(options)


def test_neither_batch_size_nor_decoding_processes_nor_order_change_a_score(options):
    command.run(options)
    other = replace(options, out=options.out.with_name("other"), batch_size=8, workers=2)
    shuffled = options.paths[0].with_name("shuffled")
    shuffled.mkdir()
    for i in range(8):
        shutil.copy(options.paths[0] / f"{i:03d}.png", shuffled / f"{7 - i}.png")
    command.run(replace(other, paths=(shuffled,)))
    assert value(other) == pytest.approx(value(options), rel=1e-4)
    mean = {row["sha256"]: list(row["scores"].values()) for row in rows_of(options, "image")}
    assert {row["sha256"]: list(row["scores"].values()) for row in rows_of(other, "image")} == mean


def test_images_of_several_sizes_share_a_batch(options, tmp_path):
    mixed = folder(tmp_path / "mixed", range(3), (40, 48))
    for seed, size in ((3, (48, 40)), (4, (1, 1)), (5, (300, 20)), (6, (40, 48))):
        picture(seed, size).save(mixed / f"{seed:03d}.png")
    together = replace(options, paths=(mixed,), batch_size=7)
    apart = replace(together, out=tmp_path / "apart", batch_size=1)
    assert command.run(together) == command.run(apart) == 0
    assert value(together) == pytest.approx(value(apart), rel=1e-4)


def test_what_cannot_be_read_is_listed_and_left_out(options, capsys):
    (options.paths[0] / "bad.png").write_bytes(b"no image")
    (options.reference / "torn.png").write_bytes((options.reference / "100.png").read_bytes()[:60])
    assert command.run(options) == 1
    err = capsys.readouterr().err
    assert "bad.png" in err and "torn.png" in err
    row = records.read([options.out / "rows.jsonl"]).of_kind("set").rows[-1]
    assert row["n"] == 8 and [bad["file"] for bad in row["unreadable"]] == ["bad.png"]
    assert [(row["n"], row["n_reference"]) for row in rows_of(options, "set")] == [(8, 8)]
    assert rows_of(options, "set")[0]["reference"]["unreadable"] == 1


def test_copies_of_one_image_are_counted(options):
    shutil.copy(options.paths[0] / "001.png", options.paths[0] / "copy.png")
    command.run(options)
    row = records.read([options.out / "rows.jsonl"]).of_kind("set").rows[-1]
    assert (row["n"], row["duplicates"]) == (9, 1)


def test_features_that_are_no_numbers_name_the_image(options, monkeypatch):
    monkeypatch.setattr(
        effnet_lite0.EXTRACTOR, "features", lambda self, images: torch.full((len(images), 1280), torch.nan)
    )
    with pytest.raises(KoalaError, match=r"not finite for 10\d.png"):
        command.run(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("fid:clean",)}, "fid:clean cannot be computed: inception-v3-fid"),
        ({"metrics": ("conse_score",)}, "8 of the 8 images of ours have none"),
        ({"metrics": ("lpips_diversity",)}, "two images of a prompt .* of which there are none in ours"),
        ({"paths": ()}, "say what to score"),
        ({"reference": None}, "needs images or statistics to compare with"),
        ({"metrics": ("fdi",)}, "unknown metric 'fdi'"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"device": "tpu"}, "unknown device"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_an_error(options, change, message, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no"))
    with pytest.raises(KoalaError, match=message):
        command.run(replace(options, **change))
    assert not list(tmp_path.glob("out/features/*"))


def test_a_folder_with_one_image_gives_image_scores_and_says_why_no_set_score(options, tmp_path, capsys):
    alone = replace(options, paths=(folder(tmp_path / "alone", [1]),))
    assert command.run(alone) == 1
    assert "kd_effnet_lite0 of alone" in capsys.readouterr().err
    assert len(rows_of(alone, "image")) == 1 and not rows_of(alone, "set")


def test_without_metrics_named_what_is_missing_is_listed(options, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no"))
    monkeypatch.setattr("eval.plan.SUBSTITUTES", ("kd_effnet_lite0",))
    assert command.run(replace(options, metrics=())) == 0
    out = capsys.readouterr().out
    assert "Not computed here" in out and "inception-v3-fid" in out and "kd_effnet_lite0" in out


def test_a_killed_run_goes_on_and_ends_with_what_an_unbroken_one_has(options, tmp_path):
    line = [sys.executable, "-m", "eval", "score", str(options.paths[0]), "--reference", str(options.reference)]
    line += ["--metrics", ",".join(METRICS), "--out", str(options.out), "--batch-size", "1", "--workers", "0"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ})
    rows = options.out / "rows.jsonl"
    while process.poll() is None and not (rows.exists() and b'"kind": "eval"' in rows.read_bytes()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert 1 <= len(rows_of(options, "image")) <= 8
    command.run(options)
    unbroken = replace(options, out=tmp_path / "unbroken")
    command.run(unbroken)
    assert value(options) == pytest.approx(value(unbroken), rel=1e-5)
    scores = [{row["file"]: row["scores"] for row in rows_of(each, "image")} for each in (options, unbroken)]
    assert scores[0] == scores[1]


def test_the_rows_are_json_without_nan(options):
    command.run(options)

    def refuse(name):
        raise AssertionError(name)

    for line in (options.out / "rows.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
