"""Files of suites as tests write them, on a machine that has none."""

import pytest

from eval.prompts.places import SUITES

HEAD = 'title = "T"\nsource = "S"\nlicense = "MIT"\nprompts = {}\n'


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """A machine without any suite's files."""
    monkeypatch.delenv(SUITES, raising=False)
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))


def write(path, text, encoding="utf-8"):
    """The path, at which there is the text now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def toml(tmp_path, text, name="mine"):
    """The path of a suite's TOML file with that text."""
    return write(tmp_path / f"{name}.toml", text)
