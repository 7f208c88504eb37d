"""`python -m bench report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.sweep import DEFAULT_STORE
from koala.errors import KoalaError
from koala.harness.cli import stderr_console

RESULTS, RUNS = Path("results"), Path("runs/report")
QUALITY = "quality/rows.jsonl"
EXAMPLES = (
    "python -m bench report                          # results/README.md, index.html, tables and figures",
    "python -m bench report --readme README.md       # and the first table of the project's own README",
    "python -m bench report --runs                   # with the working rows, in runs/report",
    "python -m bench report a.jsonl b.jsonl --out report --quality runs/eval/rows.jsonl --metric clip_score:mlperf",
)


@dataclass(frozen=True)
class Options:
    """Turn rows into tables, figures, an index and one page that needs no network.

    README.md is the index with the headline table; index.html holds every row: sort, filter, plots, samples. Beside
    them each device has its CSV, markdown and figures. Where rows of quality meet rows of latency, quality is drawn
    against both. Paths go to stdout.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILES...]")] = ()
    """Files of measured rows; default: those under --results."""
    results: Path = RESULTS
    """Folder of published results."""
    runs: bool = False
    """The working rows too; the report is then written elsewhere than among the published ones."""
    quality: tuple[Path, ...] = ()
    """Files of scored rows; default: the published ones, with --runs runs/eval/rows.jsonl too."""
    metric: str | None = None
    """Which quality is drawn, as `eval report` calls it; default: the first by name."""
    readme: Path | None = None
    """A markdown file whose place for the models is filled: table and figure of the device that has most of them."""
    out: Path | None = None
    """Folder of the report; default: --results, or runs/report with files of your own or --runs."""


def run(options: Options) -> int:
    """Write the report; its files to stdout."""
    from bench.report.pytest_json import read_any
    from bench.report.site import PUBLISHED, build
    from koala.harness import records
    from koala.harness.garbage import collection_paused

    out = options.out or (RUNS if options.files or options.runs else options.results)
    files = options.files or (*sorted(options.results.glob("*/rows.jsonl")), *_working(options.runs, DEFAULT_STORE))
    measured = [path for path in files if path.parent.name != "quality"]
    if not measured:
        raise KoalaError(
            f"no rows under {options.results}: `python -m bench publish` brings some, or name files of rows"
        )
    scored = options.quality or (
        *filter(Path.is_file, (options.results / QUALITY,)),
        *_working(options.runs, Path("runs/eval/rows.jsonl")),
    )
    reference = options.results / "reference"
    with collection_paused():
        made = build(
            read_any(measured),
            records.read(scored),
            out,
            reference if (reference / PUBLISHED).is_file() else None,
            options.metric,
            options.readme,
        )
    console = stderr_console()
    for remark in made.remarks:
        console.print(f"warning: {remark}", markup=False)
    print(*made.files, sep="\n")
    return 0


def _working(wanted: bool, store: Path) -> tuple[Path, ...]:
    return (store,) if wanted and store.is_file() else ()
