"""Parts of the page that are HTML from the start: published beside measured, and contact sheets."""

import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from bench.report.page.html import section
from bench.report.published import beside


def comparison(published: pd.DataFrame | None, measured: pd.DataFrame) -> list[str]:
    """The papers' cells beside ours."""
    if published is None or published.empty:
        return []
    note = (
        "Published cells are the KOALA paper's and its model card's, with the authors' GPUs and software; the others "
        "were measured here. Cells are latency in s | memory; an empty one was not measured, or not published."
    )
    return [section("Published beside measured", _table(beside(published, measured)), f'<p class="faint">{note}</p>')]


def sheets(files: Sequence[Path], root: Path) -> list[str]:
    """Contact sheets, which lie beside the page."""
    figures = [_figure(path.relative_to(root)) for path in files]
    return [section("Contact sheets", f'<div class="sheets">{"".join(figures)}</div>')] if figures else []


def _figure(path: Path) -> str:
    address, name = html.escape(quote(path.as_posix())), html.escape(path.stem)
    image = f'<img src="{address}" alt="Contact sheet {name}" loading="lazy">'
    return f'<figure><a href="{address}">{image}</a><figcaption>{name}</figcaption></figure>'


def _table(frame: pd.DataFrame) -> str:
    shown = frame.dropna(axis="columns", how="all").astype(object).fillna("")
    text = shown.to_html(index=False, escape=True, border=0, na_rep="", justify="left")
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Published beside measured">{text}</div>'
