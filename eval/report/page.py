"""A whole report in a folder: the page, long tables as CSV, figures and contact sheets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from eval.report import figures, sheets, steps_figure
from eval.report.compare import find_set, pair_scores, pairing_line
from eval.report.markdown import not_computed, render_markdown, render_tags
from eval.report.published import read_published, render_published
from koala.harness.files import write_whole
from koala.harness.records import Records
from koala.harness.scores.collect import Scored, SetKey, collect
from koala.harness.scores.headings import lines_of, plain, set_key, set_names
from koala.harness.scores.table import frame_of, tag_frame
from koala.harness.tables import escape, to_csv, to_markdown

PAGE = "report.md"


@dataclass(frozen=True)
class Report:
    """The page, the files that were written, and what could not be shown."""

    markdown: str
    files: list[Path]
    remarks: list[str]


def write_report(
    records: Records,
    folder: Path,
    reference: Path,
    baseline: str | None = None,
    with_tags: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Tables, figures and sheets of what counts in `records`; `reference` holds the published numbers."""
    scored = collect(records)
    say("tables")
    frame = frame_of(scored, records)
    tags = tag_frame(scored) if not frame.empty else pd.DataFrame()
    against = _against(scored, frame, baseline) if baseline else ""
    say("figures and contact sheets")
    drawn, remarks = _draw(scored, frame, tags, folder) if not frame.empty else ([], [])
    parts = ["# Image quality", "", render_markdown(frame), ""]
    parts += [against, ""] if against else []
    parts += ["## By tag", "", render_tags(tags, frame) or "No image has a tag.", ""] if with_tags else []
    parts += ["## Published beside measured", "", render_published(read_published(reference), frame), ""]
    parts += _pictures(drawn, folder)
    parts += [*_skipped([*scored.problems, *remarks]), "## Not computed here", ""]
    parts += [not_computed(scored.unavailable, frame)]
    tables = {"quality.csv": to_csv(frame), "tags.csv": to_csv(tags), PAGE: "\n".join(parts)}
    for name, text in tables.items():
        write_whole(folder / name, text)
    return Report(tables[PAGE], [*(folder / name for name in tables), *drawn], [*scored.problems, *remarks])


def _draw(scored: Scored, frame: pd.DataFrame, tags: pd.DataFrame, folder: Path) -> tuple[list[Path], list[str]]:
    """All pictures, and what could not be drawn."""
    drawn = [*figures.draw_metrics(frame, folder / "figures"), *steps_figure.draw_steps(frame, folder / "figures")]
    drawn += figures.draw_tags(tags, frame, folder / "figures")
    of_sets, remarks = sheets.draw_sheets(scored, frame, folder / "sheets")
    extremes = sheets.draw_extremes(scored, frame, folder / "sheets")
    if not tags.empty and len(set_names(frame)) > figures.MOST_SETS_BY_TAG:
        remarks.append(f"figures by tag show the first {figures.MOST_SETS_BY_TAG} sets; tags.csv holds all")
    return [*drawn, *of_sets, *extremes], remarks


def _against(scored: Scored, frame: pd.DataFrame, baseline: str) -> str:
    """Every set against the baseline, image metrics paired by prompt and seed."""
    names = set_names(frame)
    base = _baseline(scored, frame, baseline)
    lines = [
        {
            "images of": names[key],
            **pairing_line(pair, names[base], names[key], ("mean of baseline", "mean")),
        }
        for key in names
        if key != base
        for pair in pair_scores(scored, base, key)
        if pair.difference
    ]
    without = [name for key, name in names.items() if key != base and name not in {line["images of"] for line in lines}]
    title = f"## Against {escape(names[base])}"
    if not lines:
        return f"{title}\n\nNo other set has scores that pair with its own.\n"
    notes = [_BASELINE_NOTE, *([f"- Without a pair: {escape(', '.join(without))}."] if without else [])]
    table = pd.DataFrame(lines)
    right = [name for name in table.columns if name not in ("images of", "metric", "verdict")]
    return "\n".join([title, "", to_markdown(table, dict.fromkeys(right, str)), "", *notes, ""])


_BASELINE_NOTE = (
    "- Differences are a set's minus the baseline's over pairs of one prompt and seed (where no seed is known, of one "
    "prompt and file name); the interval is a bootstrap over prompts, p that of a sign-flip permutation of prompts, "
    "not corrected for the number of comparisons. Metrics of whole sets have no pairs."
)


def _baseline(scored: Scored, frame: pd.DataFrame, asked: str) -> SetKey:
    """The set that a model's name or a set's stands for."""
    of_model = {set_key(line) for line in lines_of(frame) if line["model"] == asked}
    return of_model.pop() if len(of_model) == 1 else find_set(scored, asked)


def _pictures(drawn: list[Path], folder: Path) -> list[str]:
    shown = [path for path in drawn if path.suffix != ".svg"]
    links = [f"![{path.stem}]({path.relative_to(folder).as_posix()})\n" for path in shown]
    return ["## Pictures", "", *links] if links else []


def _skipped(problems: list[str]) -> list[str]:
    if not problems:
        return []
    return ["## Left out", "", *(f"- {escape(plain(problem))}" for problem in problems), ""]
