"""How figures of this project look, and how they are written: SVG and PNG, the same bytes for the same figure."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from koala.harness.files import write_bytes, write_folder

INK, FAINT, GRID = "#262626", "#6f6f6a", "#e4e4df"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "text.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "koala",  # the same figure is the same file
}


def save(figure: Figure, base: Path) -> list[Path]:
    """`base`.svg and `base`.png, each written whole; a `KoalaError` says where they cannot be."""
    write_folder(base.parent)
    written = []
    for suffix in (".svg", ".png"):
        image = io.BytesIO()
        figure.savefig(image, format=suffix[1:], dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
        path = base.with_name(base.name + suffix)
        write_bytes(path, image.getvalue())
        written.append(path)
    return written
