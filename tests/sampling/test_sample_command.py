import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from koala.harness.cli import Command, main
from koala.sampling.gallery import MANIFEST, Gallery, file_name
from koala.sampling.png import png_text

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "sample": Command("koala.commands.sample", "draw images"),
    "profiles": Command("koala.commands.profiles", "list the profiles"),
}
TINY = "tiny-sdxl-turbo"
GUIDED = "tiny-koala-700m"


@pytest.fixture
def one_thread():
    """Networks this small are slower on several threads, and far slower where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sample(tmp_path, capsys, one_thread):
    """Run the command in this process: its exit code, the images it says it wrote, and stderr."""

    def run(*arguments, model=TINY, out=tmp_path / "out"):
        argv = ["sample", model, *map(str, arguments), "--device", "cpu", "--out", str(out)]
        code = main("koala", "", COMMANDS, (), argv)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def start(*arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "koala", "sample"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def rows(folder):
    return Gallery(folder).rows()


def test_images_manifest_metadata_and_sheet_tell_one_story(sample, tmp_path):
    prompts = ("a red apple", 'une "pomme" rouge,\nsur ‹une› table 🍎')
    code, paths, stderr = sample(*prompts, "--seed", 7, "--n", 2, "--batch-size", 2)
    assert code == 0
    expected = [file_name(prompt, seed) for prompt in prompts for seed in (7, 8)]
    assert [Path(path).name for path in paths] == expected == [row["file"] for row in rows(tmp_path / "out")]
    for path, row in zip(paths, rows(tmp_path / "out"), strict=True):
        text = png_text(Path(path))
        assert (text["prompt"], int(text["seed"])) == (row["prompt"], row["seed"])
        assert (text["model"], text["profile"], text["weights"]) == (TINY, "eager", "random")
        assert json.loads(text["recipe"]) == row["recipe"]
        assert pixels(path).shape == (row["height"], row["width"], 3) == (64, 64, 3)
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert "images will be noise" in stderr


def test_every_row_names_the_environment_it_was_drawn_in(sample, tmp_path):
    sample("a red apple")
    environment, row = map(json.loads, (tmp_path / "out" / MANIFEST).read_text().splitlines())
    assert environment["kind"] == "environment"
    assert row["environment"] == environment["id"]
    assert row["device_name"] == environment["device_name"]


@pytest.mark.parametrize("model", [TINY, GUIDED, "tiny-bk-sdm-tiny"])
def test_a_batch_draws_the_pictures_that_one_by_one_are_drawn(sample, tmp_path, model):
    prompts = ("a red apple", "two dogs", "--n", 2, "--steps", 2, "--resolution", 32)
    _, single, _ = sample(*prompts, model=model, out=tmp_path / "single")
    _, batched, _ = sample(*prompts, "--batch-size", 3, model=model, out=tmp_path / "batched")
    assert [Path(path).name for path in single] == [Path(path).name for path in batched]
    images = [pixels(path) for path in single]
    for one, other in zip(images, map(pixels, batched), strict=True):
        assert np.abs(one - other).max() <= 1
    assert np.abs(images[0] - images[1]).max() > 1, "seeds matter"
    assert np.abs(images[0] - images[2]).max() > 1, "prompts matter"


def test_flags_reach_the_recipe_the_size_and_the_manifest(sample, tmp_path):
    flags = ("--steps", 2, "--guidance", 3, "--scheduler", "ddim", "--negative", "ugly", "--height", 32, "--width", 64)
    code, (path,), _ = sample("a cat", *flags, model=GUIDED)
    (row,) = rows(tmp_path / "out")
    recipe = row["recipe"]
    assert (code, pixels(path).shape) == (0, (32, 64, 3))
    assert (recipe["steps"], recipe["guidance"], recipe["scheduler"]) == (2, 3.0, "ddim")
    assert row["negative"] == recipe["negative"] == png_text(Path(path))["negative"] == "ugly"


def test_a_negative_prompt_changes_the_picture_and_is_said_to_do_nothing_without_guidance(sample, tmp_path):
    flags = ("a cat", "--steps", 1, "--resolution", 32)
    _, (plain,), _ = sample(*flags, "--negative", "none", model=GUIDED, out=tmp_path / "none")
    _, (negative,), _ = sample(*flags, "--negative", "ugly", model=GUIDED, out=tmp_path / "ugly")
    assert (pixels(plain) != pixels(negative)).any()
    code, _, stderr = sample("a cat", "--negative", "ugly")
    assert code == 0 and "the negative prompt has no effect" in stderr
    assert rows(tmp_path / "out")[0]["negative"] is None


def test_prompts_of_a_file_are_one_a_line_and_count_once(sample, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeffa cat\r\n\n  une élève\u2028assise  \na cat\n".encode())
    sample("a dog", "--prompts", tmp_path / "prompts.txt")
    assert [row["prompt"] for row in rows(tmp_path / "out")] == ["a dog", "a cat", "une élève\u2028assise"]


def test_a_long_prompt_is_drawn_and_its_lost_end_is_one_line_on_stderr(sample, tmp_path):
    prompt = "a very " + "long " * 200 + "[bold]prompt[/bold]"
    code, paths, stderr = sample(prompt, "--n", 2)
    assert (code, len(paths)) == (0, 2)
    (line,) = (line for line in stderr.splitlines() if "77 tokens" in line)
    assert line.startswith("warning: ") and "[ bold ]" in line
    assert ".py" not in stderr
    assert rows(tmp_path / "out")[0]["prompt"] == prompt


# ---- profiles


def test_every_row_of_a_profile_says_how_far_it_is_from_eager(sample, tmp_path):
    code, _, stderr = sample("a cat", "--n", 2, "--profile", "tiny-vae")
    assert code == 0 and "tiny-vae differs from eager by " in stderr
    differences = [row["profile_difference"] for row in rows(tmp_path / "out")]
    assert differences[0] == differences[1]
    assert differences[0].items() >= {"to": "eager", "prompt": "a cat", "seed": 0, "identical": False}.items()
    sample("a cat", out=tmp_path / "eager")
    apart = np.abs(pixels(next((tmp_path / "eager").glob("0000*"))) - pixels(next((tmp_path / "out").glob("0000*"))))
    assert differences[0]["max_absolute_levels"] == apart.max()
    assert differences[0]["mean_absolute_levels"] == pytest.approx(apart.mean())


@pytest.mark.proves("profile", name=("eager", "low-vram"), weights="random", size="toy")
def test_a_profile_that_changes_nothing_here_is_identical_to_eager(sample, tmp_path):
    _, _, stderr = sample("a cat", "--profile", "low-vram", "--resolution", 32)
    difference = rows(tmp_path / "out")[0]["profile_difference"]
    assert (difference["identical"], difference["psnr_db"]) == (True, None)
    assert "low-vram draws the same picture as eager" in stderr


def test_a_difference_is_measured_once_and_only_if_wanted(sample, tmp_path):
    sample("a cat", "--profile", "tiny-vae", "--no-difference")
    assert rows(tmp_path / "out")[0]["profile_difference"] is None
    sample("a cat", "--profile", "tiny-vae", "--n", 2)  # the picture to compare is on disk already
    sample("a cat", "a dog", "--profile", "tiny-vae")
    first, second, third = (row["profile_difference"] for row in rows(tmp_path / "out"))
    assert first is None and second == third
    assert (second["prompt"], second["seed"]) == ("a cat", 0)


def test_profiles_are_listed_with_what_works_here(capsys):
    assert main("koala", "", COMMANDS, (), ["profiles", TINY, "--json"]) == 0
    table = {line["profile"]: line for line in json.loads(capsys.readouterr().out)}
    assert table["eager"]["works on cpu"] == "yes"
    assert table["fp8"]["works on cpu"].startswith("no: fp8 matrix products need an NVIDIA GPU")
    assert main("koala", "", COMMANDS, (), ["profiles"]) == 0
    assert "| low-vram" in capsys.readouterr().out


# ---- resuming


def test_a_second_run_draws_only_what_is_missing(sample, tmp_path):
    _, first, _ = sample("a cat", "--n", 3)
    Path(first[1]).unlink()
    times = {path: Path(path).stat().st_mtime_ns for path in (first[0], first[2])}
    code, again, stderr = sample("a cat", "--n", 4, "--batch-size", 2)
    assert (code, again) == (0, [first[1], str(tmp_path / "out" / "0003-a-cat.png")])
    assert "2 of 4 images are there already" in stderr
    assert {path: Path(path).stat().st_mtime_ns for path in times} == times
    assert sample("a cat", "--n", 4)[:2] == (0, [])


def test_other_prompts_join_a_gallery_and_other_settings_do_not_replace(sample, tmp_path):
    _, (path,), _ = sample("a cat")
    before = Path(path).read_bytes()
    assert sample("a dog", "--steps", 2)[0] == 0
    code, drawn, stderr = sample("a cat", "--steps", 2)
    assert (code, drawn) == (2, [])
    assert f"error: {path} exists, drawn with another recipe; choose another --out" in stderr
    assert Path(path).read_bytes() == before
    assert len(rows(tmp_path / "out")) == 2


def read_paths(process, n):
    return [process.stdout.readline().strip() for _ in range(n)]


def test_after_a_kill_every_listed_image_is_whole_and_the_next_run_completes_them(sample, tmp_path):
    out = tmp_path / "out"
    process = start(TINY, "a cat", "--n", 2000, "--out", out, "--device", "cpu", "--resolution", 32)
    with process:
        read_paths(process, 3)
        process.kill()
    kept = rows(out)
    assert 3 <= len(kept) < 2000
    assert all(pixels(out / row["file"]).shape == (32, 32, 3) for row in kept)
    code, drawn, _ = sample("a cat", "--n", len(kept) + 3, "--resolution", 32)
    assert (code, len(drawn)) == (0, 3)
    assert [row["seed"] for row in rows(out)] == list(range(len(kept) + 3))
    assert not list(out.glob(".*.part"))


def test_ctrl_c_says_what_is_kept_and_stdout_holds_nothing_but_paths(tmp_path):
    out = tmp_path / "out"
    process = start(TINY, "a cat", "--n", 2000, "--out", out, "--device", "cpu", "--resolution", 32)
    with process:
        paths = read_paths(process, 2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    paths += stdout.splitlines()
    assert process.returncode == 130, stderr
    assert paths == [str(out / file_name("a cat", seed)) for seed in range(len(paths))]
    assert f"interrupted: {len(paths)} of 2000 images are kept in {out}; the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert len(rows(out)) == len(paths)


# ---- mistakes

MISTAKES = {
    "nothing to draw": (),
    "--n must be at least 1, not 0": ("a cat", "--n", 0),
    "--batch-size must be at least 1": ("a cat", "--batch-size", 0),
    "--seed must be at least 0": ("a cat", "--seed", -1),
    "seeds end below": ("a cat", "--seed", 2**63 - 1, "--n", 2),
    "at least 1 step": ("a cat", "--steps", 0),
    "--guidance must be": ("a cat", "--guidance", "nan"),
    "unknown scheduler 'eular'": ("a cat", "--scheduler", "eular"),
    "unknown profile 'fast'": ("a cat", "--profile", "fast"),
    "the profile fp8 cannot work here": ("a cat", "--profile", "fp8"),
    "unknown dtype 'fp7'": ("a cat", "--dtype", "fp7"),
    "not both": ("a cat", "--resolution", 64, "--height", 64),
    "multiples of 8 pixels, which 60 is not": ("a cat", "--resolution", 60),
    "cannot read no-such-file.txt": ("--prompts", "no-such-file.txt"),
    "not valid UTF-8": ("a \udce9 cat",),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_every_mistake_is_one_clear_line_and_exit_code_2(sample, tmp_path, message):
    code, drawn, stderr = sample(*MISTAKES[message])
    (line,) = (line for line in stderr.splitlines() if line.startswith("error: "))
    assert (code, drawn, message in line) == (2, [], True)
    assert not list(tmp_path.glob("out/*.png"))


def test_an_unknown_model_or_device_is_an_error_that_lists_what_is_known(sample, capsys):
    assert "unknown model" in sample("a cat", model="koala-900m")[2]
    assert main("koala", "", COMMANDS, (), ["sample", TINY, "a cat", "--device", "tpu"]) == 2
    assert "unknown device 'tpu'; known: cpu, cuda" in capsys.readouterr().err


def test_a_prompt_file_in_another_encoding_is_refused(sample, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("une élève".encode("latin-1"))
    code, _, stderr = sample("--prompts", tmp_path / "prompts.txt")
    assert code == 2 and "is not UTF-8 (byte 4)" in stderr


def test_a_folder_of_something_else_is_left_alone(sample, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("...")
    code, _, stderr = sample("a cat")
    assert code == 2 and "holds other files" in stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_model_without_weights_here_says_how_to_supply_them(sample, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, drawn, stderr = sample("a cat", model="koala-700m")
    assert (code, drawn) == (2, [])
    assert "--weights" in stderr
