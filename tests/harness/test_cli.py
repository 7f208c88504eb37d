import importlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from koala.errors import KoalaError
from koala.harness import cli
from koala.harness.cli import Command
from koala.harness.options import Ints

ROOT = Path(__file__).parents[2]
PACKAGES = ("koala", "bench", "eval")
HELP_S = 0.3


def python(*args):
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def commands(package):
    return importlib.import_module(f"{package}.__main__").COMMANDS


# ---- the three packages


@pytest.mark.parametrize("package", PACKAGES)
def test_help_comes_at_once_and_names_every_command(package):
    done = python("-m", package, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, command in commands(package).items():
        assert f"  {name}" in done.stdout
        assert command.summary in done.stdout

    def seconds():
        start = time.perf_counter()
        python("-m", package, "--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < HELP_S


RUN_HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(end.code, [name for name in ("torch", "pandas", "numpy", "tyro") if name in sys.modules])
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_help_imports_nothing_heavy(package):
    assert python("-c", RUN_HELP, package).stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_command_at_all_shows_the_help(package):
    bare, asked = python("-m", package), python("-m", package, "-h")
    assert bare.stdout == asked.stdout != ""
    assert bare.returncode == asked.returncode == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_command_is_answered_with_the_known_ones(package):
    done = python("-m", package, "xyzzy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: unknown command 'xyzzy'; known: {', '.join(sorted(commands(package)))}\n"


def test_a_command_that_is_nearly_right_is_suggested():
    done = python("-m", "bench", "sweeep")
    assert done.returncode == 2
    assert "did you mean 'sweep'?" in done.stderr


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in PACKAGES for name in commands(package)])
def test_every_command_has_what_the_command_line_needs(package, name):
    module = importlib.import_module(commands(package)[name].module)
    assert module.Options.__doc__
    assert callable(module.run)
    assert module.EXAMPLES
    assert all(example.startswith(f"python -m {package} {name}") for example in module.EXAMPLES)


# ---- main(), with a command of our own


@dataclass(frozen=True)
class Options:
    """Do a thing.

    A second paragraph.
    """

    size: int = 3
    """How big."""
    sides: Ints = ()
    """How long."""


@pytest.fixture
def call(monkeypatch):
    """Runs `go` of a package `fake`; what `go` does is the first argument, the rest of the command line follows."""
    module = ModuleType("fake_go")
    module.Options, module.EXAMPLES = Options, ("python -m fake go --size 4",)
    monkeypatch.setitem(sys.modules, "fake_go", module)
    table = {"go": Command("fake_go", "does a thing")}

    def run(action, *argv):
        module.run = action
        return cli.main("fake", "A fake.", table, ("python -m fake go",), ["go", *argv])

    return run


def raising(error):
    def action(options):
        raise error

    return action


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_is_the_commands_own(call, code):
    assert call(lambda options: code) == code


def test_options_are_read_from_the_command_line_and_have_defaults(call):
    seen = []

    def action(options):
        seen.append(options)
        return 0

    call(action)
    call(action, "--size", "4", "--sides", "512, 1024")
    assert seen == [Options(size=3, sides=()), Options(size=4, sides=(512, 1024))]


def test_a_koala_error_is_one_line_and_exit_code_2(call, capsys):
    assert call(raising(KoalaError("no such thing; try another"))) == 2
    assert capsys.readouterr() == ("", "error: no such thing; try another\n")


def test_an_interrupt_ends_without_a_traceback(call, capsys):
    assert call(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_of_ours_is_not_hidden(call):
    with pytest.raises(ZeroDivisionError):
        call(raising(ZeroDivisionError()))


def test_a_list_that_cannot_be_read_is_one_line_and_exit_code_2(call, capsys):
    assert call(lambda options: 0, "--sides", "512,wide") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: cannot read '512,wide' as N,M,...")
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [("--sizes", "4"), ("--size", "big"), ("extra",)])
def test_an_option_that_does_not_exist_or_cannot_be_read_is_exit_code_2(call, capsys, argv):
    with pytest.raises(SystemExit) as end:
        call(lambda options: 0, *argv)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_of_a_command_holds_its_docstring_options_and_examples(call, capsys):
    with pytest.raises(SystemExit) as end:
        call(lambda options: 0, "--help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for text in ("python -m fake go", "Do a thing.", "A second paragraph.", "How big.", "python -m fake go --size 4"):
        assert text in shown


PRINT_LINES = """
import sys
from dataclasses import dataclass
from types import ModuleType
from koala.harness.cli import Command, main

@dataclass
class Options:
    '''Print a lot.'''

def run(options):
    for n in range(int(sys.argv[1])):
        print(n)
    return 0

module = sys.modules["long"] = ModuleType("long")
module.Options, module.EXAMPLES, module.run = Options, (), run
sys.exit(main("fake", "A fake.", {"long": Command("long", "prints")}, (), ["long"]))
"""


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "args",
    [("-c", PRINT_LINES, "1"), ("-c", PRINT_LINES, "100000"), ("-m", "bench", "--help")],
    ids=["one line", "more lines than a buffer holds", "help"],
)
def test_a_reader_of_stdout_that_went_away_leaves_no_message(args, buffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    unbuffered = () if buffered else ("-u",)
    with open(writer, "wb") as gone:
        done = subprocess.run(
            [sys.executable, *unbuffered, *args],
            cwd=ROOT,
            env=environment,
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")
