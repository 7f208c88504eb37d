"""A text-image score of one's own: `python -m eval toyclip` makes a file, and two metrics ask it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from photographs import weight_files
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toyclip_shapes import COLOURS, FILES, HELD_OUT, LEARNT, SHAPES, folder, simple_networks

from eval.__main__ import COMMANDS
from eval.toyclip import head_file
from koala.harness import records
from koala.harness.cli import main
from koala.harness.files import sha256_of

pytestmark = pytest.mark.usefixtures("cache")
METRICS = ("toyclip_score", "toyclip_accuracy", "toyclip_accuracy:colour", "toyclip_accuracy:shape")
QUICK = ("--steps", "150", "--sides", "32", "--workers", "0")


def run(*arguments) -> int:
    return main("eval", "", COMMANDS, (), list(map(str, arguments)))


def train(tmp_path, out, *more) -> int:
    learnt, beside = tmp_path / "learnt", tmp_path / "beside"
    for path, combinations in ((learnt, LEARNT), (beside, HELD_OUT)):
        if not path.exists():
            folder(path, combinations)
    return run("toyclip", learnt, "--beside", beside, "--out", out, *QUICK, *more)


@pytest.fixture(scope="module")
def real_flags():
    """The flags that name the real files; of the module, so that they are found before a test moves the cache."""
    return [word for name, path in weight_files(*FILES).items() for word in ("--weights", f"{name}={path}")]


@pytest.fixture
def flags(monkeypatch, tmp_path):
    """Networks without weights, and the flags that name their files."""
    return simple_networks(monkeypatch, tmp_path)


def scored(tmp_path, images, *more):
    """The scores of each image by the metric's name, and the metrics' rows by name."""
    out = tmp_path / "scores"
    shutil.rmtree(out, ignore_errors=True)
    names = ",".join(METRICS)
    assert run("score", images, "--metrics", names, "--out", out, "--device", "cpu", "--workers", "0", *more) == 0
    rows = records.read([out / "rows.jsonl"])
    metrics = {row["metric"]: row for row in rows.of_kind("metric").rows}
    ids = {row["id"]: name for name, row in metrics.items()}
    images = [row for row in rows.of_kind("eval").rows if row["level"] == "image"]
    return {row["file"]: {ids[key]: score for key, score in row["scores"].items()} for row in images}, metrics


def test_shapes_are_learnt_and_the_table_says_how_often_it_is_right(tmp_path, flags, capsys):
    out = tmp_path / "made" / "a.safetensors"
    assert train(tmp_path, out, *flags) == 0
    said, remarks = capsys.readouterr()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    table = {(line[0], line[1]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert set(table) == {(what, at) for what in ("trained on", "never seen") for at in ("as they are", "32 px")}
    for at in ("as they are", "32 px"):
        line = table["trained on", at]
        assert line["n"] == "18"
        assert [line[f"{name} [%]"] for name in ("text to image", "image to text", "colour", "shape")] == ["100.0"] * 4
        assert table["never seen", at]["n"] == "6"
    assert f"{out}: sha256 {sha256_of(out)}" in remarks and f"--weights toyclip={out}" in remarks


def test_the_file_says_what_it_was_made_of_and_holds_tensors_alone(tmp_path, flags):
    out = tmp_path / "a.safetensors"
    train(tmp_path, out, *flags, "--seed", "3")
    _, about = head_file.read(out)
    assert about.weights == {name: sha256_of(tmp_path / name) for name in FILES}
    assert [caption.text for caption in about.captions[9:]] == ["blue bar", "green square", "red disc"]
    assert {caption.text for caption in about.captions} == {f"{c} {s}" for c in COLOURS for s in SHAPES}
    assert about.captions[-1].parts == {"colour": "red", "shape": "disc"}
    assert (list(about.sides), about.steps, about.seed, list(about.columns)) == ([32], 150, 3, ["text", "rich"])
    assert set(about.trained_on) == {"learnt"} and set(about.beside) == {"beside"}
    assert [line["n"] for line in about.check] == [6, 18, 6, 18]
    with safe_open(out, "pt") as file:
        assert list(file.metadata()) == ["koala_toyclip"]


def test_the_same_command_gives_the_same_bytes_and_other_captions_another_digest(tmp_path, flags):
    one, again, short, other = (tmp_path / f"{name}.safetensors" for name in "abcd")
    for out, more in ((one, ()), (again, ()), (short, ("--captions", "text"))):
        assert train(tmp_path, out, *flags, *more) == 0
    assert one.read_bytes() == again.read_bytes()
    table = tmp_path / "learnt" / "metadata.jsonl"
    table.write_text(table.read_text().replace("white ground", "pale ground"))
    assert train(tmp_path, other, *flags) == 0
    contents = [head_file.read(out)[1].trained_on["learnt"] for out in (one, short, other)]
    assert len(set(contents)) == 3


def test_images_are_scored_by_the_heads_and_a_prompt_that_is_no_caption_has_a_score_and_no_answer(tmp_path, flags):
    out = tmp_path / "a.safetensors"
    train(tmp_path, out, *flags)
    images = folder(tmp_path / "images", [*LEARNT, ("red", "disc")], copies=1, rich=False)
    table = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    table[0]["text"], table[1]["text"] = "green square", "a purple horse"  # of a red square and a red bar
    (images / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    scores, rows = scored(tmp_path, images, *flags, "--weights", f"toyclip={out}")
    wrong, unknown = scores["red-square-0.png"], scores["red-bar-0.png"]
    right = [scores[row["file_name"]] for row in table[2:-1]]
    assert all(row["toyclip_accuracy"] == row["toyclip_accuracy:colour"] == 1 for row in right)
    assert wrong["toyclip_accuracy"] == wrong["toyclip_accuracy:colour"] == 0 < wrong["toyclip_accuracy:shape"]
    assert wrong["toyclip_score"] < min(row["toyclip_score"] for row in right) <= 1
    assert unknown["toyclip_score"] is not None and unknown["toyclip_accuracy"] is None
    assert unknown["toyclip_accuracy:shape"] is None
    assert rows["toyclip_accuracy"]["partial"] and "partial" not in rows["toyclip_score"]
    for name, row in rows.items():
        assert row["substitute"] and row["weights"]["toyclip"] == sha256_of(out)
        assert (
            row["label"] == f"{name}[toyclip {sha256_of(out)[:8]}][unverified]"
        )  # the networks are not the standard ones
    assert len({row["id"] for row in rows.values()}) == len(METRICS)


def test_another_file_is_another_identity(tmp_path, flags):
    images, ids = folder(tmp_path / "images", rich=False), []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.safetensors"
        train(tmp_path, out, *flags, "--seed", seed)
        ids += [row["id"] for row in scored(tmp_path, images, *flags, "--weights", f"toyclip={out}")[1].values()]
    assert len(set(ids)) == 2 * len(METRICS)


def said_of(capsys, *arguments) -> str:
    """What a mistake is answered with, in one line or a few, with exit code 2 and nothing on stdout."""
    capsys.readouterr()
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("--out", "{0}/a.pt"), "a head file ends in .safetensors"),
        (("--out", "{0}/there.safetensors"), "there.safetensors exists; choose another name"),
        (("--out", "{0}/a.safetensors", "--steps", "0"), "--steps must be at least 1, not 0"),
        (("--out", "{0}/a.safetensors", "--batch-size", "0"), "--batch-size must be at least 1"),
        (("--out", "{0}/a.safetensors", "--sides", "0,64"), "--sides 0: an image has at least one pixel"),
        (("--out", "{0}/a.safetensors", "--captions", "rcih"), "unknown column of captions"),
        (("--out", "{0}/a.safetensors", "--beside", "{0}/copy"), "2 images of copy are among those trained on"),
        (("--out", "{0}/a.safetensors", "--beside", "{0}/few"), "several folders are called few"),
        (("--out", "{0}/a.safetensors", "--beside", "{0}/nowhere"), "nowhere is no folder of images"),
        (("--out", "{0}/a.safetensors", "--beside", "{0}/bare"), "1 of the 1 images of"),
        (("--out", "{0}/a.safetensors", "--beside", "{0}/torn"), "cannot be read: "),
        (("--out", "{0}/a.safetensors", "--device", "tpu"), "unknown device"),
    ],
)
def test_a_mistake_in_training_is_one_line_and_exit_code_2(tmp_path, flags, capsys, arguments, answer):
    few = folder(tmp_path / "few", LEARNT[:2], copies=1)
    shutil.copytree(few, tmp_path / "copy")
    (tmp_path / "bare").mkdir()
    shutil.copy(few / "red-bar-0.png", tmp_path / "bare" / "a.png")
    torn = folder(tmp_path / "torn", [("blue", "disc")], copies=1) / "blue-disc-0.png"
    torn.write_bytes(torn.read_bytes()[:60])
    (tmp_path / "there.safetensors").touch()
    told = said_of(capsys, "toyclip", few, *QUICK, *flags, *(word.format(tmp_path) for word in arguments))
    assert answer in told and len(told.splitlines()) == 1
    assert not (tmp_path / "a.safetensors").exists()


def test_one_image_alone_is_no_training_set(tmp_path, flags, capsys):
    alone = folder(tmp_path / "alone", LEARNT[:1], copies=1)
    assert "one image has no other" in said_of(
        capsys, "toyclip", alone, *QUICK, *flags, "--out", tmp_path / "a.safetensors"
    )
    assert "say what to train on" in said_of(capsys, "toyclip", *flags, "--out", tmp_path / "a.safetensors")


def test_without_a_file_the_error_names_the_command_that_makes_one(tmp_path, flags, capsys):
    images = folder(tmp_path / "images", LEARNT[:1])
    told = said_of(capsys, "score", images, "--metrics", "toyclip_score", "--out", tmp_path / "out", *flags)
    assert "toyclip_score cannot be computed: toyclip is not on this machine" in told
    assert "python -m eval toyclip FOLDER" in told and "--weights toyclip=PATH" in told


def test_a_file_trained_on_other_weights_or_preparation_is_refused(tmp_path, flags, capsys, monkeypatch):
    out, images = tmp_path / "a.safetensors", folder(tmp_path / "images", LEARNT[:1])
    train(tmp_path, out, *flags)
    trained = sha256_of(tmp_path / "minilm")
    (tmp_path / "minilm").write_text("another")
    asked = ("score", images, "--metrics", "toyclip_accuracy", "--device", "cpu", "--workers", "0", *flags)
    asked = (*asked, "--weights", f"toyclip={out}", "--out", tmp_path / "out")
    told = said_of(capsys, *asked)
    assert f"was trained on minilm with sha256 {trained}" in told and sha256_of(tmp_path / "minilm") in told
    (tmp_path / "minilm").write_text("minilm")
    heads, about = head_file.read(out)
    out.unlink()
    head_file.write(out, heads, replace(about, preparation="halved"))
    assert "was trained on images prepared by halved" in said_of(capsys, *asked)


@pytest.mark.parametrize("kind", ["torn", "no metadata", "other metadata", "other tensors", "pickle"])
def test_any_other_file_is_refused(tmp_path, flags, capsys, kind):
    made, images = tmp_path / "a.safetensors", folder(tmp_path / "images", LEARNT[:1])
    train(tmp_path, made, *flags)
    out = tmp_path / ("b.pt" if kind == "pickle" else "b.safetensors")
    with safe_open(made, "pt") as file:
        metadata = file.metadata()
    if kind == "torn":
        out.write_bytes(made.read_bytes()[:-10])
    elif kind == "pickle":
        torch.save(load_file(made), out)
    elif kind == "other tensors":
        save_file({**load_file(made), "more": torch.zeros(1)}, out, metadata)
    else:
        save_file(load_file(made), out, None if kind == "no metadata" else {"koala_toyclip": "[]"})
    asked = ("score", images, "--metrics", "toyclip_score", "--device", "cpu", "--workers", "0", *flags)
    told = said_of(capsys, *asked, "--weights", f"toyclip={out}", "--out", tmp_path / "out")
    assert ("is not a whole safetensors file" if kind == "torn" else "b" + out.suffix + " is no head file") in told


def test_the_list_of_weights_says_that_it_is_made_here(tmp_path, flags, capsys):
    out = tmp_path / "a.safetensors"
    train(tmp_path, out, *flags)
    capsys.readouterr()
    assert run("weights", "toyclip", "--weights", f"toyclip={out}", "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["status"] == "made here" and line["sha256"] is None and line["path_sha256"] == sha256_of(out)
    assert set(line["wanted_by"]) >= set(METRICS)
    assert run("weights", "toyclip") == 0
    assert "made by python -m eval toyclip" in capsys.readouterr().out


@pytest.mark.proves("metric", name=METRICS, weights="real", remark="heads trained in the test")
def test_real_networks_tell_shapes_by_their_captions(tmp_path, real_flags):
    out = tmp_path / "a.safetensors"
    assert train(tmp_path, out, *real_flags) == 0
    _, about = head_file.read(out)
    assert all(line["text to image"] == 1 for line in about.check if line["images"] == "trained on")
    images = folder(tmp_path / "images", LEARNT, copies=1, side=48, rich=False)
    scores, rows = scored(tmp_path, images, *real_flags, "--weights", f"toyclip={out}")
    for name in METRICS[1:]:
        assert sum(row[name] for row in scores.values()) >= 8
    assert rows["toyclip_score"]["label"] == f"toyclip_score[toyclip {sha256_of(out)[:8]}]"
