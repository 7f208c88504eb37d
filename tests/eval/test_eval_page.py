import io
import re

import pandas as pd
import pytest
from eval_rows import CLIP, FID, HOSTILE, estimate_row, image_row, known, set_row, settings, store, unavailable_row
from PIL import Image

from eval.commands.report import Options, run
from eval.report.page import write_report
from koala.errors import KoalaError
from koala.harness import records

SCORES = [30.0, 31.0, 29.0, 32.0, 30.5, 28.0, 33.0, 30.0]
NO_REFERENCES = "no-published-numbers"


def cells(markdown, start):
    """The cells of the table line that starts with `start`."""
    (found,) = [text for text in markdown.splitlines() if text.startswith(f"| {start}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)[1:-1]]


def full_store(tmp_path):
    sets = []
    for name, shift in (("sdxl", 1.0), ("koala", 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        about = set_row(name, path=str(folder), settings=settings(name))
        rows = [
            image_row(about, i, {CLIP["id"]: s + shift}, prompt=HOSTILE if i == 0 else None)
            for i, s in enumerate(SCORES)
        ]
        for row in rows[:-1]:
            Image.new("RGB", (16, 16), (len(row["prompt"]) % 255, 80, 120)).save(folder / row["file"])
        sets += [about, *rows, estimate_row(about, FID, 20.0 + shift, 19.0, 22.0), unavailable_row(about, "cmmd")]
    path = store(tmp_path / "rows.jsonl", CLIP, FID, *sets)
    with path.open("a") as file:
        file.write('{"kind": "eval", "lev')
    return path


def test_a_report_is_a_page_tables_figures_and_sheets(tmp_path, capsys):
    rows, out = full_store(tmp_path), tmp_path / "report"
    assert run(Options((rows,), out, "sdxl", tags=True, results=tmp_path / NO_REFERENCES)) == 0
    printed = capsys.readouterr()
    page = (out / "report.md").read_text()
    assert printed.out == page + "\n"
    assert page.rstrip().splitlines()[-1].startswith("`python -m eval weights`")
    for title in (
        "## Against sdxl",
        "## By tag",
        "## Published beside measured",
        "## Left out",
        "## Not computed here",
    ):
        assert title in page
    assert "koala is better" not in page
    assert "sdxl is better" in page
    assert "not a whole row, skipped" in page
    assert "koala: 1 of 8 images are not here, or have changed" in printed.err
    files = [text for text in printed.err.splitlines() if text.startswith(str(out))]
    assert len(files) == 3 + 4 + 2 + 1
    assert all((out.parent / file).exists() for file in files)
    assert all((out / link).exists() for link in re.findall(r"\]\(([^)]+)\)", page))
    long = pd.read_csv(io.StringIO((out / "quality.csv").read_text()))
    assert long.loc[(long["name"] == "koala") & (long["level"] == "image"), "value"].iloc[0] == sum(SCORES) / 8
    assert set(pd.read_csv(out / "tags.csv")["tag_value"]) == {"animals", "food"}


def test_a_baseline_is_paired_with_every_other_set(tmp_path):
    page = write_report(records.read([full_store(tmp_path)]), tmp_path / "r", tmp_path, baseline="sdxl").markdown
    found = cells(page[page.index("## Against sdxl") :].split("\n\n")[1], "koala")
    assert found[2:6] == ["31.44", "30.44", "-1.000", "[-1.000, -1.000]"]
    with pytest.raises(KoalaError, match="unknown set 'nope'"):
        write_report(records.read([tmp_path / "rows.jsonl"]), tmp_path / "r", tmp_path, baseline="nope")


def test_a_set_without_pairs_is_named_once_under_the_baseline(tmp_path):
    alone = set_row("alone")
    rows = [image_row(alone, 0, {CLIP["id"]: 1.0}, prompt="another"), *records.read([full_store(tmp_path)]).rows]
    page = write_report(known(alone, *rows), tmp_path / "r", tmp_path, baseline="sdxl").markdown
    assert "- Without a pair: alone." in page and "no pairs" not in page.replace("have no pairs", "")


def test_an_image_that_changed_since_it_was_scored_is_not_shown(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0000.png")
    koala = set_row(n=1, path=str(tmp_path))
    row = image_row(koala, 0, {CLIP["id"]: 1.0}, bytes=(tmp_path / "0000.png").stat().st_size)
    assert len(write_report(known(CLIP, koala, row), tmp_path / "r", tmp_path).remarks) == 0
    changed = known(CLIP, koala, row | {"bytes": 1})
    assert "koala: none of its 1 images is here" in write_report(changed, tmp_path / "r", tmp_path).remarks[0]


def test_a_set_without_its_images_has_no_sheet_and_an_image_outside_its_folder_is_never_opened(tmp_path):
    outside = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(outside)
    (tmp_path / "in").mkdir()
    koala = set_row(n=1, path=str(tmp_path / "in"))
    row = image_row(koala, 0, {CLIP["id"]: 1.0}, file="../secret.png")
    report = write_report(known(CLIP, koala, row), tmp_path / "r", tmp_path)
    assert not list((tmp_path / "r").glob("sheets/*"))
    assert "koala: none of its 1 images is here, so it has no contact sheet" in report.remarks


def test_an_empty_store_makes_an_empty_report(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.touch()
    report = write_report(records.read([path]), tmp_path / "r", tmp_path)
    assert "No scores yet" in report.markdown
    assert [file.name for file in report.files] == ["quality.csv", "tags.csv", "report.md"]


def test_without_rows_the_command_says_how_to_make_some(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KoalaError, match="python -m eval score"):
        run(Options())
