"""`python -m bench compare`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from koala.errors import KoalaError
from koala.harness.cli import stderr_console
from koala.harness.options import Names

if TYPE_CHECKING:
    from koala.harness.records import Records

CHANGE = 0.05  # what the number of processes asked for would see, where no margin says
EXAMPLES = (
    "python -m bench compare before.jsonl after.jsonl",
    "python -m bench compare before.jsonl after.jsonl --fail-over 5% >> $GITHUB_STEP_SUMMARY",
    "python -m bench compare before.jsonl after.jsonl --across torch,cuda     # an upgrade",
    "python -m bench compare a1.json,a2.json,a3.json b1.json,b2.json,b3.json  # pytest-benchmark, a run a process",
)


@dataclass(frozen=True)
class Options:
    """Print which cases of B are faster or slower than in A, with the ratio of medians and its interval.

    Exit code 1 on a regression: a case that is slower, by its interval, or no longer runs; 2 where nothing could be
    compared. Unlike environments are not compared unless --across names what may differ.
    """

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """Rows (.jsonl) or pytest-benchmark's JSON, saved with its data; several joined by commas. Of the latter each file
    is one process."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """What is held against A."""
    fail_over: Annotated[str, tyro.conf.arg(metavar="N%")] = "0%"
    """A case regresses if its ratio is above 1 + N% too."""
    across: Names = ()
    """Fields that may differ: device_name, driver, torch, ... (an unknown one lists all)."""
    format: Literal["markdown", "csv", "json"] = "markdown"
    """markdown rounds; csv and json do not."""


def run(options: Options) -> int:
    """Print the comparison; the exit code says whether something regressed."""
    from bench.compare import APART, compare
    from bench.report.compare import render_markdown, to_frame
    from koala.harness.tables import to_csv

    margin = share(options.fail_over)
    change = margin or CHANGE
    comparisons = compare(read_side(options.a), read_side(options.b), options.across, change)
    text = {
        "markdown": lambda: render_markdown(comparisons, (options.a, options.b), margin, change),
        "csv": lambda: to_csv(to_frame(comparisons, margin)),
        "json": lambda: to_frame(comparisons, margin).to_json(orient="records", indent=1),
    }[options.format]()
    print(text, end="" if text.endswith("\n") else "\n")
    if all(one.verdict in APART for one in comparisons):
        fields = sorted({reason.partition(":")[0] for one in comparisons for reason in one.differing})
        hint = f"; --across {','.join(fields)} compares unlike ones all the same" if fields else ""
        raise KoalaError(f"no case of {options.b} could be compared with one of {options.a}{hint}")
    return 1 if any(one.regressed(margin) for one in comparisons) else 0


def share(text: str) -> float:
    """A percentage as a share: "5%" is 0.05."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if found is None:
        raise KoalaError(f"--fail-over wants a percentage such as 5%, not {text!r}")
    return float(found[1]) / 100


def read_side(names: str) -> "Records":
    """The rows of one side; problems are named on stderr. Files of pytest-benchmark are numbered as processes."""
    from bench.report.pytest_json import read_any
    from koala.harness.records import Records

    side, console, process = Records(), stderr_console(), 0
    for path in (Path(name.strip()) for name in names.split(",") if name.strip()):
        read = read_any([path])
        for problem in read.problems:
            console.print(f"warning: {problem}", markup=False)
        side.environments.update(read.environments)
        is_run = path.suffix == ".json"
        side.rows += [row | {"process": process} if is_run else row for row in read.rows]
        process += is_run
    if not side.of_kind("bench").rows:
        raise KoalaError(f"{names} holds no measured case")
    return side
