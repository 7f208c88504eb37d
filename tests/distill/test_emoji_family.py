"""The script that makes the family: which commands it runs, and that it stops in time."""

import importlib.util
import json
import time
from pathlib import Path

import pytest

from koala.distill import runs

SCRIPT = Path(__file__).parents[2] / "scripts/emoji_family.py"


@pytest.fixture
def family(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("emoji_family", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def captions(tmp_path):
    """What `koala data emoji` leaves of captions."""
    rows = [{"file_name": "1.png", "text": 'a "red" heart'}, {"file_name": "2.png", "text": "pizza"}]
    table = tmp_path / "runs/data/emoji/train/metadata.jsonl"
    table.parent.mkdir(parents=True)
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_it_makes_data_then_a_cache_then_the_models_each_after_those_that_it_begins_with(family, captions):
    made = list(family.commands(family.NAMES, "", None))
    assert [command[0] for command in made] == ["data", "encode", *["train"] * 5, "pairs", *["train"] * 2]
    trained = [command[1] for command in made if command[0] == "train"]
    assert sorted(trained) == sorted(name for name in runs.names() if name.startswith("emoji") and "-64" not in name)
    for place, name in enumerate(trained):
        run = runs.get(name)
        begins = {run.teacher, run.critic, Path(run.student_weights).parent.name} - {"", "inherit", "random"}
        assert begins & set(trained) <= set(trained[:place]), f"{name} needs {begins}"


def test_the_teachers_pairs_are_drawn_of_the_captions_and_are_what_one_step_begins_with(family, captions, tmp_path):
    pairs, train = list(family.commands([family.PRETRAIN], "", None))[2:]
    prompts = tmp_path / pairs[pairs.index("--prompts") + 1]
    assert prompts.read_text() == 'a "red" heart\npizza\n'
    assert pairs[1] == runs.get(train[1]).teacher and pairs[pairs.index("--out") + 1] == runs.get(train[1]).data


def test_what_came_to_its_end_is_not_run_again(family, tmp_path):
    (tmp_path / "runs/train/emoji-teacher-64/final").mkdir(parents=True)
    made = list(family.commands(["emoji-teacher", "emoji-koala"], "-64", Path("packed")))
    assert [command[0] for command in made] == ["encode", "train"], "a packed dataset is there already"
    assert made[0][1] == "packed/emoji/train" and made[1][1] == "emoji-koala-64"


def test_at_the_deadline_a_run_is_interrupted_and_may_write_what_it_has(family, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ntrap 'echo saved > saved; exit 130' INT\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(family.sys, "executable", str(program))
    assert family.run(["train", "emoji-teacher"], time.monotonic() + 0.5) == family.OUT_OF_TIME
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_a_command_that_fails_ends_it_with_its_code(family, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(family.sys, "executable", str(program))
    monkeypatch.setattr(family.sys, "argv", ["emoji_family.py"])
    assert family.main() == 2


def test_an_unknown_run_is_answered_with_the_known_ones(family, monkeypatch, capsys):
    monkeypatch.setattr(family.sys, "argv", ["emoji_family.py", "emoji-koalla"])
    with pytest.raises(SystemExit, match="2"):
        family.main()
    assert "known: emoji-teacher, emoji-koala" in capsys.readouterr().err
