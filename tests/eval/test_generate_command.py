"""`python -m eval generate` from the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from koala.harness.cli import Command, main
from koala.sampling.gallery import Gallery

COMMANDS = {"generate": Command("eval.commands.generate", "draw")}
MODEL = "tiny-sdxl-turbo"


@pytest.fixture
def run(tmp_path, capsys):
    def command(*arguments):
        code = main("eval", "", COMMANDS, (), ["generate", *map(str, arguments), "--out", str(tmp_path / "images")])
        captured = capsys.readouterr()
        return code, captured.out.split(), captured.err

    return command


def test_galleries_go_to_stdout_and_a_second_run_draws_nothing(run, tmp_path):
    arguments = ("--models", MODEL, "--suite", "koala-smoke", "--limit", 3, "--steps", "1,2", "--device", "cpu")
    code, folders, err = run(*arguments)
    root = tmp_path / "images" / "koala-smoke-limit3"
    assert code == 0 and folders == [str(root / MODEL), str(root / f"{MODEL}_steps2")]
    assert "random weights: the images will be noise" in err and f"{MODEL}: drawing 3 images" in err
    assert "images/s" in err and len(Gallery(root / MODEL).rows()) == 3
    assert (root / MODEL / "contact_sheet.png").is_file()
    code, again, err = run(*arguments)
    assert code == 0 and again == folders and "drawing" not in err


def test_own_prompts_and_several_images_of_each(run, tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,kind\na cat,animal\na cup,thing\n")
    arguments = ("--model", MODEL, "--suite", tmp_path / "mine.csv", "--images-per-prompt", 2, "--seed", 9)
    code, (folder,), _ = run(*arguments, "--device", "cpu", "--batch-size", 3)
    rows = Gallery(folder).rows()
    assert code == 0 and folder.endswith(f"mine/{MODEL}")
    assert [(row["prompt"], row["seed"]) for row in rows] == [("a cat", 9), ("a cup", 9), ("a cat", 10), ("a cup", 10)]
    assert rows[0]["tags"] == {"kind": "animal"}


def test_a_model_trained_here_is_named_by_its_folder(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    from trained_folders import trained_folder

    folder = trained_folder(tmp_path / "runs" / "final", "tiny-sdxl-turbo")
    arguments = ("--model", folder, "--suite", "koala-smoke", "--limit", 1, "--resolutions", 64, "--device", "cpu")
    code, (gallery,), _ = run(*arguments)
    (row,) = Gallery(gallery).rows()
    assert code == 0 and row["model"] == "tiny-mine@01234567" and row["weights"] == str(folder)
    assert len(row["weights_hash"]) == 64
    shards = next((folder / "unet").glob("*.safetensors"))
    shards.touch()
    assert run(*arguments)[1] == [gallery]  # the same bytes are the same weights
    data = bytearray(shards.read_bytes())
    data[-1] ^= 1
    shards.write_bytes(data)
    code, _, err = run(*arguments)
    assert code == 2 and "drawn with another weights_hash" in err


def test_images_made_elsewhere_are_taken(run, tmp_path):
    for place in range(16):
        path = tmp_path / "theirs" / f"{place:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), place, np.uint8)).save(path)
    code, (folder,), err = run("--models", "dalle", "--suite", "koala-smoke", "--from-images", tmp_path / "theirs")
    assert code == 0 and folder.endswith("koala-smoke/dalle") and "16 images taken" in err
    assert len(Gallery(folder).rows()) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", MODEL), "--suite says which prompts: coco-10k"),
        (("--suite", "koala-smoke"), "--models says who draws"),
        (("--suite", "koala-smok", "--models", MODEL), "unknown suite 'koala-smok' (did you mean 'koala-smoke'?)"),
        (("--suite", "geneval", "--models", MODEL), "evaluation_metadata.jsonl of GenEval is not on this machine"),
        (("--suite", "koala-smoke", "--models", "sdxxl"), "unknown model 'sdxxl'"),
        (("--suite", "koala-smoke", "--models", MODEL, "--limit", 0), "--limit must be at least 1"),
        (("--suite", "koala-smoke", "--models", MODEL, "--batch-size", 0), "--batch-size must be at least 1"),
        (("--suite", "koala-smoke", "--models", MODEL, "--images-per-prompt", 0), "--images-per-prompt must be at"),
        (("--suite", "koala-smoke", "--models", MODEL, "--guidance", "-1"), "--guidance must be 0 or more"),
        (("--suite", "koala-smoke", "--models", MODEL, "--steps", "x"), "cannot read 'x' as N,M,..."),
        (("--suite", "koala-smoke", "--models", MODEL, "--resolutions", "63"), "nothing can be drawn"),
        (("--suite", "koala-smoke", "--models", "a,b", "--from-images", "."), "takes the images of one model"),
        (("--suite", "koala-smoke", "--models", MODEL, "--profile", "fastest"), "unknown profile 'fastest'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KOALA_SUITES", raising=False)
    code, out, err = run(*arguments, *(() if "--from-images" in arguments else ("--device", "cpu")))
    assert code == 2 and not out and message in err and "Traceback" not in err
    assert not list((tmp_path / "images").rglob("*.png"))


def test_a_missing_models_weights_are_named_before_any_model_draws(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("KOALA_WEIGHTS", raising=False)
    code, _, err = run("--models", f"{MODEL},koala-700m", "--suite", "koala-smoke", "--limit", 1, "--device", "cpu")
    assert code == 2 and "koala-700m" in err and not list((tmp_path / "images").rglob("*.png"))
