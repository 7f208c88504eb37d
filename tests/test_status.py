"""docs/status.md says what the tests prove, no more and nothing old."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from koala.errors import UnknownName

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import status
from status import NOT_RUN, ON_REQUEST, ROOT, Gate, Proof, checked, registries, render, verdict

RANDOM = Proof("metric", "fid:clean", "random", "full", "", "tests/a.py::test_a")
REAL, TOY = replace(RANDOM, weights="real"), replace(RANDOM, size="toy", test="tests/a.py::test_toy")
GPU, ASKED = Gate("needs a GPU", here=False), Gate("only with KOALA_FULLSIZE=1", here=True)


def test_the_page_is_what_the_tests_say_now():
    command = [sys.executable, str(ROOT / "scripts" / "status.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The status page of a checkout with one extractor's proof, checked or written."""
    monkeypatch.setattr(status, "STATUS", tmp_path / "docs" / "status.md")
    monkeypatch.setattr(status, "collect", lambda paths: [replace(RANDOM, kind="extractor", name="vgg16")])
    return status.STATUS


def test_a_stale_page_is_told_with_what_differs_and_left_alone(page, capsys):
    assert status.main(["--check"]) == 1 and not page.exists()
    assert status.main([]) == 0 == status.main(["--check"])
    page.write_text(
        page.read_text().replace("| `vgg16` | run on random weights |", "| `vgg16` | run on real weights |")
    )
    stale = page.read_text()
    capsys.readouterr()
    assert status.main(["--check"]) == 1 and page.read_text() == stale
    out, err = capsys.readouterr()
    assert "-| `vgg16` | run on real weights |" in out and "+| `vgg16` | run on random weights |" in out
    assert "python scripts/status.py" in err


def test_a_mark_of_an_unknown_name_is_an_error_that_names_the_test(page, monkeypatch, capsys):
    monkeypatch.setattr(status, "collect", lambda paths: [replace(RANDOM, name="fid:claen")])
    assert status.main([]) == 2 and not page.exists()
    assert "metric in a mark of tests/a.py::test_a 'fid:claen' (did you mean 'fid:clean'?)" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"name": "fdi"}, {"kind": "metrics"}, {"kind": "loader"}, {"kind": "profile"}])
def test_kinds_and_names_are_those_of_the_registries(wrong):
    with pytest.raises(UnknownName, match=r"tests/a\.py::test_a"):
        checked([replace(RANDOM, **wrong)], registries())


def test_every_name_of_every_registry_has_a_row():
    known = registries()
    text = render(known, {})
    assert {"eager", "low-vram"} < set(known["profile"]) and {"clip:ViT-B-32/openai"} < set(known["extractor"])
    for names in known.values():
        assert names and all(f"\n| {cell} | {NOT_RUN} |  | no test |" in text for cell in names.values())


def test_a_metric_proves_the_extractor_that_it_reads_and_a_variant_that_none_lists_gets_a_row():
    other, known = "clip_score:ViT-H-14/laion2b_s32b_b79k", registries()
    found = checked([RANDOM, replace(REAL, name=other), replace(REAL, name="brightness")], known)
    assert {(kind, name) for kind, name in found if kind == "extractor"} == {
        ("extractor", "inception"),
        ("extractor", "clip:ViT-H-14/laion2b_s32b_b79k"),
    }
    assert other in known["metric"] and f"| `{other}` | run on real weights |" in render(known, found)


@pytest.mark.parametrize(
    ("proofs", "said"),
    [
        ([], NOT_RUN),
        ([RANDOM, REAL], "run on real weights"),
        ([replace(RANDOM, weights="none")], "run, needs no weights"),
        ([RANDOM, TOY], "run on random weights"),
        ([TOY, replace(REAL, gate=GPU)], "run at toy size on random weights"),
        ([replace(REAL, gate=GPU)], NOT_RUN),
        ([replace(RANDOM, gate=ASKED)], "run on random weights" + ON_REQUEST),
        ([replace(RANDOM, gate=ASKED), TOY], "run on random weights" + ON_REQUEST),
        ([replace(TOY, weights="stand-in")], "run on a stand-in file"),
    ],
)
def test_the_most_that_was_run_here_is_said(proofs, said):
    assert verdict(proofs)[0] == verdict(proofs[::-1])[0] == said


def test_what_a_test_needs_stands_beside_it():
    assert verdict([replace(REAL, gate=GPU)]) == (NOT_RUN, [REAL.test], ["needs a GPU"])
    assert verdict([replace(RANDOM, gate=ASKED, remark="in bf16")])[2] == ["in bf16", "only with KOALA_FULLSIZE=1"]
    assert verdict([TOY, replace(REAL, gate=GPU)])[1:] == ([TOY.test], [f"at real size needs a GPU: {REAL.test}"])


COLLECTING = """
import pathlib, sys
from status import KoalaError, collect

for path in map(pathlib.Path, sys.argv[1:]):
    try:
        print(*collect([path]), sep="\\n")
    except KoalaError as error:
        print(f"KoalaError: {error}")
"""
SUITE = """
import pytest

def test_without_a_mark(): ...

@pytest.mark.proves("metric", param="name", weights="random")
@pytest.mark.parametrize("name", ["a", pytest.param("b", marks=pytest.mark.gpu)])
def test_of_a_parameter(name): ...

@pytest.mark.proves("loader", name=("c", "d"), weights="random", size="toy", remark="little")
@pytest.mark.proves("profile", name="e", weights="real")
@pytest.mark.skipif(True, reason="gigabytes: set KOALA_FULLSIZE=1")
def test_of_several(): ...

@pytest.mark.network
@pytest.mark.proves("extractor", name="f", weights="real")
@pytest.mark.skipif(True, reason="no compiler")
def test_of_a_hub(): ...

@pytest.mark.slow
@pytest.mark.proves("extractor", name="i", weights="random")
def test_of_minutes(): ...

@pytest.mark.slow
@pytest.mark.proves("extractor", name="j", weights="random")
@pytest.mark.skipif(True, reason="gigabytes: set KOALA_FULLSIZE=1")
def test_of_minutes_and_gigabytes(): ...

@pytest.mark.proves("extractor", name="g", weights="random")
def test_of_speed(benchmark): ...

@pytest.mark.proves("extractor", name="h", weights="real")
@pytest.mark.skipif(True, reason="no compiler")
def test_with_a_compiler(): ...
"""


def collected(tmp_path, *suites):
    """What `collect` finds in each file, a line a proof, or why it cannot; pytest needs a process of its own."""
    paths = [tmp_path / f"test_{i}.py" for i in range(len(suites))]
    for path, suite in zip(paths, suites, strict=True):
        path.write_text(suite)
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING, *map(str, paths)],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_marks_and_gates_are_read_from_a_suite_without_running_it(tmp_path):
    lines = collected(tmp_path, SUITE).splitlines()
    found = {proof.name: proof for proof in (eval(line, {"Proof": Proof, "Gate": Gate}) for line in lines)}
    assert sorted(found) == [*"abcdefghij"]
    assert {name: found[name].gate and found[name].gate.why for name in found} == {
        "a": None,
        "b": "needs a GPU",
        **dict.fromkeys("cde", "only with KOALA_FULLSIZE=1"),
        "f": "needs a hub",
        "g": "only in tox -e perf",
        "h": None,
        "i": "only in tox -e slow",
        "j": "only in tox -e slow with KOALA_FULLSIZE=1",
    }
    assert all(found[name].test == "test_0.py::test_of_a_parameter" for name in "ab")
    assert (found["d"].size, found["d"].remark, found["e"].weights) == ("toy", "little", "real")


def test_a_mark_that_cannot_be_read_and_a_file_that_cannot_be_imported_are_errors(tmp_path):
    marks = ('"metric", name="a"', '"metric", name="a", weights="good"', '"metric", param="n", weights="real"')
    suites = [f"import pytest\n@pytest.mark.proves({mark})\ndef test_it(): ...\n" for mark in marks]
    said = collected(tmp_path, *suites, "import no_such_module  # mark.proves(\n")
    for i in range(len(marks)):
        assert f"KoalaError: test_{i}.py::test_it: proves" in said
    assert "KoalaError: the tests cannot be collected" in said and "no_such_module" in said
