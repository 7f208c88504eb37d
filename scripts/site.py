"""The documentation as a site of its own, with no broken link: python scripts/site.py (`tox -e docs`), into site/.

Every markdown page of this repository and what they link to lie in build/pages as they do here, so that links hold in
both; beside them a page of docstrings for each folder of the three packages. mkdocs makes the site of it, strictly.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES, API = ROOT / "build/pages", "api"
PACKAGES = ("koala", "bench", "eval")
READ = {
    "Start": "README.md",
    "Methods": "docs/methods.md",
    "Reading the report": "docs/reading.md",
    "Guides": "docs/guides.md",
    "Distil your own": "docs/distil.md",
    "Status": "docs/status.md",
    "Contributing": "CONTRIBUTING.md",
    "Changelog": "CHANGELOG.md",
}
PLACES = {"docs_dir": str(PAGES), "site_dir": str(ROOT / "site")}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def main() -> int:
    """Lay out the pages and build the site; mkdocs' exit code."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for path in sorted({*pages(), *linked()}):
        place = PAGES / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    for folder in folders():
        write_api(folder)
    config = ROOT / "build/mkdocs.yml"
    config.write_text(json.dumps({"INHERIT": "../mkdocs.yml", "nav": navigation(), **PLACES}), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False).returncode


def navigation() -> list[dict]:
    """The site's contents: its pages in the order in which they are read, results by folder, the API by package."""
    results = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "results").rglob("*.md"))]
    results.sort(key=lambda path: (path.count("/"), path))
    api = [
        {package: [f"{API}/{name_of(folder)}.md" for folder in folders() if name_of(folder).split(".")[0] == package]}
        for package in PACKAGES
    ]
    return [*({title: page} for title, page in READ.items()), {"Results": results}, {"API": api}]


def pages() -> Iterator[Path]:
    """The markdown pages that people read."""
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
    for folder in ("docs", "results"):
        yield from (ROOT / folder).rglob("*.md")


def linked() -> Iterator[Path]:
    """The other files of this repository that pages link to; a link that leads nowhere is left to mkdocs."""
    for page in pages():
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if "://" not in link and target.is_file() and target.is_relative_to(ROOT):
                yield target


def folders() -> Iterator[Path]:
    """The folders of the packages that hold modules."""
    for package in PACKAGES:
        found = {path.parent for path in (ROOT / package).rglob("*.py")}
        yield from sorted(folder for folder in found if modules(folder))


def name_of(folder: Path) -> str:
    """The full name of a package's folder."""
    return ".".join(folder.relative_to(ROOT).parts)


def modules(folder: Path) -> list[str]:
    """The public modules in a folder by their full names."""
    names = (path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_"))
    return [f"{name_of(folder)}.{name}" for name in names]


def write_api(folder: Path) -> None:
    """The page of a folder: the docstrings of its modules."""
    place = PAGES / API / f"{name_of(folder)}.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(f"::: {module}\n" for module in modules(folder))
    place.write_text(f"# {name_of(folder)}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
