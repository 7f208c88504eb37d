"""The README and the index of results tell of the rows that are published now, and of commands that there are."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from bench.report import devices, index, models
from bench.report.frame import frame_of_cases, frames_by_device, latest_rows, whole_cases
from koala.harness import records
from koala.harness.cli import parsed

ROOT = Path(__file__).parents[2]
README, RESULTS = ROOT / "README.md", ROOT / "results"
STALE = "stale: python -m bench report --readme README.md"
COMMAND = re.compile(r"^(?:accelerate launch -m|python -m) (koala|bench|eval) (.+?)(?: +#.*)?$", re.M)
COMMANDS = COMMAND.findall(README.read_text(encoding="utf-8"))


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


@pytest.mark.parametrize(("package", "line"), COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_every_command_is_one_that_the_program_understands(package, line):
    assert options_of(package, line) is not None
