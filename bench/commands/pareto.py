"""`python -m bench pareto`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bench.sweep import DEFAULT_STORE
from koala.errors import KoalaError
from koala.harness.cli import stderr_console

QUALITY_STORE = Path("runs/eval/rows.jsonl")
EXAMPLES = (
    "python -m bench pareto --metric clip_score:mlperf",
    "python -m bench pareto results/*/rows.jsonl --quality results/quality/rows.jsonl --metric fid:clean --out pareto",
    "python -m bench pareto --metric hps:v2.1 --suite koala-core --against memory",
)


@dataclass(frozen=True)
class Options:
    """Which models no other one beats in both quality and latency (or memory), device by device.

    Joins pipelines that `bench sweep` timed with images that `python -m eval score` scored, where model, resolution,
    steps, scheduler, guidance (whether there is any), dtype and profile agree; the weights may be random on the side
    of latency, and the table says so. What finds no partner is named on stderr. Files: pareto.svg, .png, .csv and .md.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[BENCH_ROWS...]")] = (
        DEFAULT_STORE,
    )
    """Files of rows (.jsonl) of `bench sweep`."""
    quality: tuple[Path, ...] = (QUALITY_STORE,)
    """Files of rows (.jsonl) of `eval score`, or published ones."""
    metric: str | None = None
    """Which quality, as `eval report` calls it; needed where the rows have several."""
    suite: str | None = None
    """Folder of the galleries, such as koala-core; needed where the rows are of several."""
    against: Literal["latency", "memory"] = "latency"
    """What quality is weighed against."""
    out: Path | None = None
    """Folder for the figure, the table and the CSV; nothing is written without it."""


def run(options: Options) -> int:
    """Print the table and the paths of the files."""
    if options.quality == (QUALITY_STORE,) and not QUALITY_STORE.exists():
        raise KoalaError(f"nothing is scored yet: {QUALITY_STORE} does not exist; run `python -m eval score`")
    from bench.report.measured import measured_frame
    from bench.report.pareto import join
    from bench.report.pareto_table import render_markdown
    from bench.report.quality import read_quality
    from koala.harness import records

    measured = measured_frame(options.files)
    quality = read_quality(records.read(options.quality), options.metric, options.suite)
    joined, console = join(measured, quality, options.against), stderr_console()
    for line in joined.left_out:
        console.print(f"not joined: {line}", markup=False)
    for line in joined.remarks:
        console.print(f"warning: {line}", markup=False)
    page = render_markdown(joined)
    print(page, end="")
    if options.out is not None:
        from bench.report.pareto_figure import draw
        from koala.harness.files import write_whole
        from koala.harness.tables import to_csv

        written = draw(joined, options.out)
        write_whole(options.out / "pareto.csv", to_csv(joined.frame))
        write_whole(options.out / "pareto.md", page)
        for path in [*written, options.out / "pareto.csv", options.out / "pareto.md"]:
            print(path)
    return 0
