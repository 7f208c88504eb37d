"""The suites there are, parts of them, and the command that lists them."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite_texts import nothing_here, write  # noqa: F401

from eval import suites
from eval.prompts import load as loading
from eval.prompts.places import SUITES
from eval.suite import Prompt, Suite
from koala.errors import KoalaError
from koala.harness.cli import Command, main

COMMANDS = {"suites": Command("eval.commands.suites", "list")}

# ---- the registry


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_says_what_it_is_and_its_counts_add_up(name):
    entry = loading.entry(name)
    assert entry.title and entry.license and entry.source and entry.count
    counts = [file.prompts for file in entry.files]
    assert not counts or None in counts or sum(counts) == entry.count
    for file in entry.files:
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
    if entry.inline:
        assert len(suites.load(name).prompts) == entry.count


PUBLISHED = {  # as the papers and repositories count them
    "partiprompts": 1632,
    "drawbench": 200,
    "hpsv2": 4 * 800,
    "geneval": 553,
    "t2i-compbench": 6 * 300,
    "t2i-compbench-plus": 8 * 300,
    "coco-30k": 30_000,
    "coco-10k": 10_000,
    "coco-mlperf-5k": 5_000,
    "dpg-bench": 1065,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_suites_have_their_published_counts(name, count):
    assert loading.entry(name).count == count


# ---- parts of a suite


@given(total=st.integers(1, 200), n=st.integers(1, 250))
def test_a_limited_suite_is_spread_evenly_and_keeps_the_order(total, n):
    suite = Suite("s", "s", None, None, tuple(Prompt(str(i)) for i in range(total)))
    places = [int(prompt.text) for prompt in suites.limited(suite, n).prompts]
    assert len(places) == min(n, total) and places == sorted(set(places)) and places[0] == 0
    gaps = [b - a for a, b in zip(places, [*places[1:], total], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_a_limit_below_one_is_an_error():
    with pytest.raises(KoalaError, match="--limit must be at least 1"):
        suites.limited(suites.load("koala-smoke"), 0)


def test_another_tag_makes_another_digest():
    suite = suites.load("koala-smoke")
    first, *rest = suite.prompts
    changed = replace(suite, prompts=(replace(first, tags={**first.tags, "category": "x"}), *rest))
    assert changed.digest != suite.digest == suites.load("koala-smoke").digest


# ---- the command


def run(capsys, *arguments):
    code = main("eval", "", COMMANDS, (), ["suites", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_names_every_suite_and_what_is_here(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a command of this project would leave a suite of its own
    code, out, _ = run(capsys)
    assert code == 0
    for name in suites.names():
        (line,) = [line for line in out.splitlines() if line.startswith(f"| {name} ")]
        assert ("inline" if name.startswith("koala-") else "missing") in line


def test_json_tells_each_files_state_and_address(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(SUITES, str(tmp_path))
    write(tmp_path / "geneval" / "evaluation_metadata.jsonl", "{}")
    write(tmp_path / "drawbench" / "drawbench.csv", "Prompts,Category\n")
    code, out, _ = run(capsys, "geneval", "drawbench", "coco-mlperf-5k", "--json")
    states = {line["name"]: line["status"] for line in json.loads(out)}
    assert code == 0 and states == {"geneval": "another file", "drawbench": "unverified", "coco-mlperf-5k": "missing"}


def test_the_list_shows_the_place_of_what_is_wrong_or_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(SUITES, str(tmp_path))
    wrong = write(tmp_path / "geneval" / "evaluation_metadata.jsonl", "{}")
    write(tmp_path / "hpsv2" / "anime.json", "[]")
    _, out, _ = run(capsys, "geneval", "hpsv2")
    geneval, hpsv2 = (next(line for line in out.splitlines() if f"| {name} " in line) for name in ("geneval", "hpsv2"))
    assert "another file" in geneval and f"{wrong} " in geneval
    assert "missing" in hpsv2 and "concept-art.json and 2 more" in hpsv2


def test_what_cannot_be_fetched_is_said_and_exits_with_2(capsys, monkeypatch):
    entry = loading.entry("geneval")
    gone = replace(entry, files=(replace(entry.files[0], url="http://127.0.0.1:9/x"),))
    monkeypatch.setattr(loading, "entry", lambda name: gone)
    code, out, err = run(capsys, "geneval", "--fetch")
    assert code == 2 and "not fetched: http://127.0.0.1:9/x" in err and "| geneval " in out


def test_an_unknown_suite_is_an_error(capsys):
    code, _, err = run(capsys, "nosuch")
    assert code == 2 and err.startswith("error: unknown suite 'nosuch'")


def test_listing_needs_no_torch():
    check = "import sys; from eval import suites; suites.load('koala-core'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
