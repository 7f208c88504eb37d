"""Everything that `python -m bench report` makes out of rows: index, tables, figures and the page."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.report import devices, index, models, pareto_figure, pareto_table
from bench.report.frame import frames_by_device, latest_rows, whole_cases
from bench.report.page.html import page
from bench.report.page.payload import MOST_WHOLE, payload
from bench.report.page.sections import comparison, sheets
from bench.report.pareto import Joined, join
from bench.report.published import read_published
from bench.report.quality import metrics_of, read_quality
from koala.errors import KoalaError
from koala.harness.files import write_folder, write_whole
from koala.harness.records import Records
from koala.harness.scores.headings import lines_of
from koala.harness.tables import to_csv

PUBLISHED = "koala_published_latency.csv"
SHEET = "contact_sheet.png"


@dataclass(frozen=True)
class Made:
    """The files that were written, the page last, and what is worth saying of them."""

    files: list[Path]
    remarks: list[str]


def build(
    measured: Records,
    quality: Records,
    root: Path,
    reference: Path | None,
    metric: str | None = None,
    readme: Path | None = None,
) -> Made:
    """Write the report of rows below `root`; `reference` holds published numbers, and `readme` shows the models."""
    cases = whole_cases(latest_rows(measured), measured)
    if not cases:
        raise KoalaError("there are no measured rows to report; `python -m bench sweep` measures some")
    frames = frames_by_device(cases, measured)
    frame = pd.concat(list(frames.values()))
    write_folder(root)
    remarks = list(measured.problems)
    written = [path for device, own in frames.items() for path in devices.render(own, device, root)]
    written += _models(frame, root, readme)
    joined, said = _joined(frame, quality, metric)
    remarks += said
    pareto = _pareto(joined, root / "pareto") if joined else []
    table = index.render(frame, {device: devices.folder(device, root) for device in frames}, root, pareto)
    write_whole(root / "README.md", table)
    shown = [*sorted(root.glob("lessons/*sheet*.png")), *_copied_sheets(quality, root / "sheets")]
    data = payload(cases, frame, measured) | {"quality": lines_of(joined.frame[_OF_QUALITY]) if joined else []}
    published = read_published(reference / PUBLISHED) if reference else None
    sections = [*comparison(published, frame), *sheets(shown, root)]
    write_whole(root / index.PAGE, page(data, _about(data), sections))
    return Made([*written, *pareto, root / "README.md", root / index.PAGE], remarks)


_OF_QUALITY = [
    *("model", "steps", "device", "latency_s", "quality", "peak_memory_bytes", "efficient", "metric"),
    "higher_is_better",
]


def _models(frame: pd.DataFrame, root: Path, readme: Path | None) -> list[Path]:
    if (shown := models.models(frame)) is None:
        return []
    drawn = models.draw(shown, root / models.NAME)
    if readme:
        models.to_readme(readme, shown, Path(os.path.relpath(drawn[0], readme.parent)))
    return drawn + ([readme] if readme else [])


def _about(data: dict) -> str:
    devices = len(data["columns"]["device_name"]["texts"])
    count = f"{data['of']} measured rows of {devices} device{'s' if devices != 1 else ''}"
    if data["whole"]:
        return f"{count}, with samples and environments; made by python -m bench report."
    return (
        f"{count}, shown as {data['rows']} medians: above {MOST_WHOLE} rows the page leaves samples and environments "
        "to the rows' own files; made by python -m bench report."
    )


def _joined(frame: pd.DataFrame, quality: Records, metric: str | None) -> tuple[Joined | None, list[str]]:
    """Quality beside latency, if any meets; else why not."""
    known = metrics_of(quality)
    if not known:
        return None, []
    try:
        joined = join(frame, read_quality(quality, metric or known[0]))
    except KoalaError as error:
        return None, [f"quality is left out: {error}"]
    others = ", ".join(name for name in known if name != joined.quality.name)
    said = [f"quality is by {joined.quality.name}; --metric chooses another: {others}"] if others and not metric else []
    return joined, [*said, *joined.remarks]


def _pareto(joined: Joined, folder: Path) -> list[Path]:
    write_whole(folder / "pareto.md", "# Quality against latency\n\n" + pareto_table.render_markdown(joined))
    write_whole(folder / "pareto.csv", to_csv(joined.frame))
    return [*pareto_figure.draw(joined, folder), folder / "pareto.md", folder / "pareto.csv"]


def _copied_sheets(quality: Records, folder: Path) -> list[Path]:
    """Contact sheets that lie in the folders which were scored, copied beside the page."""
    copied = []
    for path in _scored_folders(quality):
        if (path / SHEET).is_file():
            write_folder(folder)
            target = folder / f"{path.parent.name}-{path.name}.png"
            shutil.copyfile(path / SHEET, target)
            copied.append(target)
    return copied


def _scored_folders(quality: Records) -> Sequence[Path]:
    return list(dict.fromkeys(Path(row["path"]) for row in quality.rows if row["kind"] == "set" and row.get("path")))
