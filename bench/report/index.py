"""results/README.md: the headline tables, and where everything else is."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.report import headline, models, size_figure, stages_figure
from koala.harness.tables import escape

PAGE = "index.html"
_LINKS = {
    "bench.md": "table",
    "bench.csv": "CSV",
    f"{size_figure.NAME}.svg": "latency and memory by resolution",
    f"{stages_figure.NAME}.svg": "where the time goes",
    "roofline.svg": "roofline",
}


def render(frame: pd.DataFrame, devices: Mapping[str, Path], root: Path, pareto: Sequence[Path] = ()) -> str:
    """The page of what lies below `root`; made by `python -m bench report`."""
    parts = [
        "# Results",
        "",
        "Made by `python -m bench report` out of the rows below. The same command writes "
        f"`{PAGE}` beside this file: all rows in one page that needs no network, to sort, filter and plot, with every "
        "row's environment and samples. (It is not in the repository, for it holds plotly's script.)",
        "",
        *_models(root),
        headline.render_markdown(frame),
        *_devices(frame, devices, root),
        *_quality(root, pareto),
        *_folder("lessons", "Lessons about distillation, measured here", root),
        *_folder("reference", "Published numbers", root),
    ]
    return "\n".join(parts)


def _models(root: Path) -> list[str]:
    figure = root / f"{models.NAME}.svg"
    return [f"![Latency and memory of each model]({figure.name})", ""] if figure.is_file() else []


def _devices(frame: pd.DataFrame, devices: Mapping[str, Path], root: Path) -> list[str]:
    lines = []
    for device, folder in devices.items():
        there = [(name, word) for name, word in _LINKS.items() if (folder / name).is_file()]
        links = [f"[{word}]({(folder / name).relative_to(root)})" for name, word in there]
        links += [f"[breakdown of {path.parent.name}]({path.relative_to(root)})" for path in _breakdowns(folder)]
        count = int((frame["device_name"] == device).sum())
        lines.append(f"- **{escape(device)}**, {count} rows: {', '.join(links)}")
    return ["## Devices", "", *lines, ""] if lines else []


def _breakdowns(folder: Path) -> list[Path]:
    return sorted(folder.glob("breakdown/*/breakdown.svg"))


def _quality(root: Path, pareto: Sequence[Path]) -> list[str]:
    lines = [f"- [{_title(path)}]({path.relative_to(root)})" for path in sorted(root.glob("quality/*.md"))]
    lines += [f"- [Quality against latency]({path.relative_to(root)})" for path in pareto if path.suffix == ".md"]
    figures = [f"![Quality against latency]({path.relative_to(root)})" for path in pareto if path.suffix == ".svg"]
    return ["## Quality", "", *lines, "", *figures, ""] if lines else []


def _folder(name: str, heading: str, root: Path) -> list[str]:
    lines = [f"- [{_title(path)}]({path.relative_to(root)})" for path in sorted((root / name).glob("*.md"))]
    return [f"## {heading}", "", *lines, ""] if lines else []


def _title(page: Path) -> str:
    """The first heading of a markdown file, else its name."""
    found = re.search(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else page.stem
