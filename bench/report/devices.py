"""What a device's folder holds beside its rows: CSV, markdown and figures, all drawn from the rows again."""

from pathlib import Path

import pandas as pd

from bench.report import roofline_figure, size_figure, stages_figure
from bench.report.table import render_markdown
from koala.harness import environment
from koala.harness.files import write_whole
from koala.harness.tables import to_csv

UNNAMED = "unnamed-device"
MOST_LINES = 5000  # of a table in markdown; CSV holds all


def folder(device: str, root: Path) -> Path:
    """The folder below `root` of a device."""
    return root / (environment.slug(device) or UNNAMED)


def render(frame: pd.DataFrame, device: str, root: Path) -> list[Path]:
    """Write the tables and figures of a device, whose rows alone are in the frame; the files."""
    place = folder(device, root)
    write_whole(place / "bench.csv", to_csv(frame))
    write_whole(place / "bench.md", render_markdown(frame, MOST_LINES))
    return [
        *(place / "bench.csv", place / "bench.md"),
        *roofline_figure.draw(frame, root),
        *size_figure.draw(frame, device, place / size_figure.NAME),
        *stages_figure.draw(frame, device, place / stages_figure.NAME),
    ]
