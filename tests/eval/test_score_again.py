"""Scoring a set a second time: after changes, after an interruption, with other metrics."""

import csv
from dataclasses import replace

import pytest
import torch
from photographs import weight_files
from score_runs import folder, picture, rows_of, value
from torchvision.models import alexnet

from eval import passes, reader
from eval.commands import score as command
from eval.feed import Preparation
from eval.images import decode
from eval.maths.gaussian import Gaussian
from eval.preparation import CenterCrop
from eval.reference import Reference
from eval.statistics_files import write_statistics
from koala.errors import KoalaError
from koala.harness import records
from koala.harness.scores.collect import collect

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    """LPIPS with random weights, as `--weights` names it."""
    at = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    trunk = {f"features.{name}": tensor for name, tensor in alexnet(weights=None).features.state_dict().items()}
    torch.save(trunk, at / "alexnet.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate((64, 192, 384, 256, 256))}
    torch.save(heads, at / "heads.pth")
    return (("alexnet", at / "alexnet.pth"), ("lpips-alex", at / "heads.pth"))


@pytest.fixture
def seeds(options, lpips, tmp_path):
    """A run over four prompts of two images each, scored by their diversity."""
    images = folder(tmp_path / "seeds", range(8), prompts=True)
    return replace(options, paths=(images,), metrics=("lpips_diversity",), reference=None, weights=lpips)


def lines(options) -> list[str]:
    return (options.out / "rows.jsonl").read_text().splitlines()


def tagged(options, tag: str, prompt: str = "a prompt") -> None:
    with open(options.paths[0] / "metadata.csv", "w", newline="") as file:
        rows = ((f"{i:03d}.png", prompt, tag) for i in range(8))
        csv.writer(file).writerows([("file_name", "text", "kind"), *rows])


def unfinished(options) -> bool:
    return bool(collect(records.read([options.out / "rows.jsonl"])).unfinished)


def test_a_folder_that_is_named_twice_is_scored_once(options):
    command.run(replace(options, paths=options.paths * 2))
    assert len(rows_of(options, "image")) == 8


def test_tags_that_changed_are_taken_over_and_nothing_is_decoded(options, monkeypatch):
    tagged(options, "before")
    command.run(options)
    tagged(options, "after")
    monkeypatch.setattr(reader, "decode", None)
    assert command.run(options) == 0
    assert [row["tags"] for row in rows_of(options, "image")][-8:] == [{"kind": "after"}] * 8
    before = lines(options)
    command.run(options)
    assert lines(options) == before


def test_a_set_that_changed_is_unfinished_until_all_of_it_is_scored_again(options, monkeypatch):
    command.run(options)
    assert not unfinished(options)
    for i in range(8):
        picture(200 + i).save(options.paths[0] / f"{i:03d}.png")

    def broken(path, limit):
        if path.name == "006.png":
            raise KeyboardInterrupt
        return decode(path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(reader, "decode", broken)
        assert command.run(options) == 130
    assert unfinished(options)
    command.run(options)
    assert not unfinished(options)
    before = lines(options)
    command.run(options)
    assert lines(options) == before


def test_a_set_is_unfinished_while_a_metric_that_was_added_lacks_groups(seeds, options, monkeypatch):
    command.run(replace(seeds, metrics=("brightness",)))
    score_group = "eval.metrics.lpips_diversity.LpipsDiversity.score_group"
    scores = iter([0.5])
    with monkeypatch.context() as patch:
        patch.setattr(score_group, lambda self, features: next(scores, None) or pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            command.run(seeds)
    assert unfinished(seeds) and len(rows_of(seeds, "group")) == 1
    command.run(seeds)
    assert not unfinished(seeds) and len(rows_of(seeds, "group")) == 4


def test_prompts_whose_images_changed_are_scored_again_even_after_other_metrics_saw_the_change(seeds):
    command.run(seeds)
    first = {row["prompt"]: row["scores"] for row in rows_of(seeds, "group")}
    picture(300).save(seeds.paths[0] / "001.png")
    command.run(replace(seeds, metrics=("brightness",)))
    command.run(seeds)
    rows = rows_of(seeds, "group")
    assert len(rows) == 5 and rows[-1]["prompt"] == "prompt 0" and rows[-1]["scores"] != first["prompt 0"]


def test_a_prompt_one_image_of_which_cannot_be_read_is_scored_once(seeds):
    images = seeds.paths[0]
    with open(images / "metadata.csv", "a") as file:
        file.write("bad.png,prompt 0\n")
    (images / "bad.png").write_bytes(b"no image")
    assert command.run(seeds) == 1
    assert [row["files"] for row in rows_of(seeds, "group") if row["prompt"] == "prompt 0"] == [["000.png", "001.png"]]
    before = lines(seeds)
    assert command.run(seeds) == 1
    assert lines(seeds) == before


@pytest.fixture(scope="module")
def offline_files():
    """Weight files of packages, found before a test moves the cache that may hold them."""
    return tuple(weight_files("minilm", "minilm-tokenizer", "dinov2s-imgfocus").items())


def test_that_captions_were_cut_stays_said_when_other_metrics_are_scored(offline_files, options):
    tagged(options, "x", prompt="a red koala rests " * 125)
    conse = replace(options, metrics=("conse_score",), weights=offline_files)
    assert command.run(conse) == 0
    before = lines(conse)
    assert command.run(conse) == 0 and lines(conse) == before
    command.run(options)
    last = records.read([options.out / "rows.jsonl"]).of_kind("set").rows[-1]
    assert last["notes"] == {"captions cut short for conse_score": 8}
    tagged(options, "x", prompt="a red koala")
    command.run(conse)
    assert records.read([options.out / "rows.jsonl"]).of_kind("set").rows[-1]["notes"] == {}


def test_a_fresh_start_leaves_the_rows_of_a_run_that_is_writing_them_alone(options):
    command.run(options)
    with records.Store(options.out / "rows.jsonl"), pytest.raises(KoalaError, match="another run is writing"):
        command.run(replace(options, fresh=True))
    assert command.run(replace(options, fresh=True)) == 0
    assert len(list(options.out.glob("rows*.jsonl"))) == 2 and value(options)


def test_all_runs_lock_the_features_of_a_reference_in_one_order(offline_files, options, monkeypatch):
    """Two runs whose metrics stand in other orders would wait for each other for ever."""
    opened, spool = [], Reference.spool

    def recorded(self, feed, dim):
        opened.append(feed)
        return spool(self, feed, dim)

    orders = []
    for place, metrics in enumerate(
        (("kd_effnet_lite0", "kd_dinov2s_imgfocus"), ("kd_dinov2s_imgfocus", "kd_effnet_lite0"))
    ):
        monkeypatch.setenv("KOALA_CACHE", str(options.out / f"cache-{place}"))
        with monkeypatch.context() as patch:
            patch.setattr(Reference, "spool", recorded)
            patch.setattr("eval.reference_pass.FeaturePass", stop)
            with pytest.raises(InterruptedError):
                command.run(replace(options, metrics=metrics, out=options.out / str(place), weights=offline_files))
        orders.append(opened[2:])
        opened.clear()
    assert len(orders[0]) == 2 and orders[0] == orders[1]


def stop(*_: object) -> None:
    raise InterruptedError


def test_what_is_wrong_with_the_reference_s_folder_is_said(options, capsys):
    (options.reference / "notes.txt").write_text("not an image")
    assert command.run(options) == 0
    assert f"warning: reference {options.reference}: 1 other files" in capsys.readouterr().err


def test_a_file_of_statistics_is_only_compared_with_its_own_features(offline_files, options, tmp_path, capsys):
    statistics = Gaussian(torch.zeros(1280, dtype=torch.float64), torch.eye(1280, dtype=torch.float64), None)
    write_statistics(tmp_path / "real.npz", statistics, "pytorch-fid")
    options = replace(options, reference=tmp_path / "real.npz", weights=offline_files)
    with pytest.raises(KoalaError, match=r"fd_dinov2s_imgfocus cannot be computed: .* of 1280 features and 384"):
        command.run(replace(options, metrics=("fd_effnet_lite0", "fd_dinov2s_imgfocus")))
    assert command.run(replace(options, metrics=())) == 0
    said = capsys.readouterr().out
    assert "of 1280 features and 384 are asked for" in said.partition("### Not computed here")[2]
    assert "real.npz ‡ (n not known" in said and "‡ A file of statistics that does not say of which features" in said


def test_an_image_that_does_not_fit_a_metric_is_named(tmp_path):
    small = folder(tmp_path / "small", [1], size=(40, 30)) / "001.png"
    with pytest.raises(KoalaError, match=r"001\.png: an image of 40x30 pixels is smaller"):
        passes.prepare(Preparation((CenterCrop(32),)), [decode(small)], ["001.png"], torch.device("cpu"))
