"""What the documentation says is so: its files are written and its commands run, on a copy of the packages."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(
    r"(?:<!-- (?P<what>[a-z]+)(?:: (?P<of>.+?))? -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
EXECUTED = ("guides.md", "distil.md")


@dataclass(frozen=True)
class Block:
    """A block of code, and what is done with it: file, append, run, or needs."""

    what: str | None
    of: str | None
    language: str
    text: str


def blocks(page):
    return [Block(**found.groupdict()) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(page):
    for block in blocks(page):
        if "python -m" in block.text and block.language == "sh":
            assert block.what in ("run", "needs"), block.text
            assert block.what != "run" or page.name in EXECUTED, "and nothing runs this page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_broken(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", EXECUTED)
def test_a_page_does_what_it_says(name, tmp_path):
    for package in ("koala", "bench", "eval"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for block in blocks(ROOT / "docs" / name):
        if block.what == "file":
            (tmp_path / block.of).write_text(block.text, encoding="utf-8")
        elif block.what == "append":
            with (tmp_path / block.of).open("a", encoding="utf-8") as file:
                file.write(f"\n\n{block.text}")
        elif block.what == "run":
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
