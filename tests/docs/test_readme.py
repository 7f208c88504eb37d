"""The README and the index of results tell of the rows that are published now, and of commands that there are."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from bench.report import devices, index, models
from bench.report.frame import frame_of_cases, frames_by_device, latest_rows, whole_cases
from koala.harness import records
from koala.harness.cli import parsed

ROOT = Path(__file__).parents[2]
README, RESULTS = ROOT / "README.md", ROOT / "results"
STALE = "stale: python -m bench report --readme README.md"
COMMAND = re.compile(r"^(?:accelerate launch -m|python -m) (koala|bench|eval) (.+?)(?: +#(.*))?$", re.M)
COMMANDS = COMMAND.findall(README.read_text(encoding="utf-8").replace("\\\n", ""))
NEEDS = re.compile(r"\[(GPU|weights|network|hours|page)\]$")
RUN = [f"python -m {package} {line}" for package, line, comment in COMMANDS if not NEEDS.search(comment)]
CAPTIONS = ("a red heart", "a green apple", "a panda", "two cars")


@pytest.fixture(scope="module")
def published():
    known = records.read(sorted(RESULTS.glob("*/rows.jsonl")))
    return whole_cases(latest_rows(known), known), known


def test_the_models_of_the_readme_are_those_of_the_published_rows(published):
    shown = models.models(frame_of_cases(*published))
    text = README.read_text(encoding="utf-8")
    there = text.partition(models.BEGIN)[2].partition(models.END)[0].strip()
    assert there == models.render_markdown(shown, Path("results/models.svg")), STALE
    assert (RESULTS / "models.svg").is_file() and (RESULTS / "models.png").is_file(), STALE


def test_the_index_of_results_is_that_of_the_published_rows(published):
    cases, known = published
    frame = frame_of_cases(cases, known)
    folders = {device: devices.folder(device, RESULTS) for device in frames_by_device(cases, known)}
    pareto = [RESULTS / "pareto" / name for name in ("pareto.svg", "pareto.png", "pareto.md", "pareto.csv")]
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == index.render(frame, folders, RESULTS, pareto), STALE


def options_of(package, line):
    """The options that a command line means, without running it."""
    name, *rest = shlex.split(line)
    commands = import_module(f"{package}.__main__").COMMANDS
    module = import_module(commands[name].module)
    if hasattr(module, "parse"):
        return module.parse(name, rest)
    return parsed(module.Options, module.EXAMPLES, name, rest)


@pytest.mark.parametrize(("package", "line"), [command[:2] for command in COMMANDS], ids=lambda word: word)
def test_every_command_is_one_that_the_program_understands(package, line):
    assert options_of(package, line) is not None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the README's commands find: the packages, the results, rows of one's own, images, two galleries."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("koala", "bench", "eval", "results", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "index.html"))
    rows = next(RESULTS.glob("amd*/rows.jsonl"))
    (root / "runs/bench").mkdir(parents=True)
    for place in ("before.jsonl", "after.jsonl", "runs/bench/rows.jsonl"):
        shutil.copyfile(rows, root / place)
    lines = []
    for folder in ("photos", "DIR"):
        (root / folder).mkdir()
        for number, text in enumerate(4 * CAPTIONS):
            Image.effect_noise((128, 128), 20 + number).convert("RGB").save(root / folder / f"{number}.png")
            lines.append(json.dumps({"file_name": f"{number}.png", "text": f"{text} {number}"}) + "\n")
        (root / folder / "metadata.jsonl").write_text("".join(lines))
        lines.clear()
    (root / "captions.txt").write_text("\n".join(CAPTIONS))
    for steps, name in ((1, "A"), (4, "B")):
        options = f"--suite captions.txt --steps {steps} --batch-size 4 --device cpu --out drawn{steps}"
        run_in(root, f"python -m eval generate --models emoji-koala {options}")
        (root / name).symlink_to(next((root / f"drawn{steps}/captions").iterdir()))
    (root / "runs/eval/images").mkdir(parents=True)
    shutil.copytree(root / "drawn1/captions", root / "runs/eval/images/koala-core")
    run_in(root, "python -m eval score A B --metrics brightness --device cpu")
    return root


def run_in(root, line):
    """Run a line of a shell; what went wrong is in the error."""
    variables = {"PYTHONPATH": str(root), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", line]
    done = subprocess.run(
        command, cwd=root, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", RUN)
def test_every_command_that_says_nothing_else_runs_here(checkout, line):
    run_in(checkout, line)
