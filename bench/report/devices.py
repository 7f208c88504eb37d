"""What a device's folder holds beside its rows: CSV, markdown and figures, all drawn from the rows again."""

from pathlib import Path

import pandas as pd

from bench.report import roofline_figure, size_figure, stages_figure
from bench.report.table import render_markdown
from koala.harness import environment
from koala.harness.files import write_whole
from koala.harness.tables import to_csv

UNNAMED = "unnamed-device"


def folders(frame: pd.DataFrame, root: Path) -> dict[str, Path]:
    """The folder below `root` of each device in the frame."""
    names = frame["device_name"].dropna().unique() if len(frame) else []
    return {name: root / (environment.slug(name) or UNNAMED) for name in names}


def render(frame: pd.DataFrame, root: Path) -> list[Path]:
    """Write the tables and figures of every device in the frame; the files."""
    written = roofline_figure.draw(frame, root)
    for device, folder in folders(frame, root).items():
        group = frame[frame["device_name"] == device]
        write_whole(folder / "bench.csv", to_csv(group))
        write_whole(folder / "bench.md", render_markdown(group))
        written += [folder / "bench.csv", folder / "bench.md"]
        written += size_figure.draw(group, device, folder / size_figure.NAME)
        written += stages_figure.draw(group, device, folder / stages_figure.NAME)
    return written
