"""The models side by side: whose group is shown, what is said of it, and where it is put."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from bench_rows import GPU, PIPELINE, SDXL, SIX, frame_of, row, store
from command_lines import bench_here
from report_rows import HOSTILE, published, rows

from bench.report import models
from koala.errors import KoalaError
from koala.models import zoo

CPU = GPU | {"id": "cpu", "device_name": "Xeon", "device_kind": "cpu"}
FIGURE = Path("results/models.svg")


def on_cpu(name, seconds, resolution=1024):
    case = replace(SDXL, model=name, dtype="fp32", resolution=resolution)
    return row(case, [seconds] * 6, environment="cpu", memory_bytes={"rss_peak": 2**32})


def shown(tmp_path, *lines, environment=GPU):
    return models.models(frame_of(store(tmp_path / "rows.jsonl", *lines, environment=environment)))


def test_the_largest_group_is_shown_slowest_first_with_memory_of_its_kind(tmp_path):
    lines = [on_cpu("koala-700m", 1.5), on_cpu("sdxl", 4.0), on_cpu("koala-1b", 2.0)]
    lines += [on_cpu("sdm-v2.0", 1.0, resolution=2048)]
    found = shown(tmp_path, *lines, environment=CPU)
    assert list(found.rows["name"]) == ["sdxl", "koala-1b", "koala-700m"]
    assert found.memory_kind == "resident in the process (RSS)" and set(found.rows["memory"]) == {2**32}
    text = models.render_markdown(found, FIGURE)
    assert text.startswith("One denoising step, 1024 px, fp32: Xeon; random weights; memory: resident in the process")
    assert "| koala-700m |" in text.replace("  ", "") and "2.67" in text and text.endswith("(results/models.svg)")


def test_a_gpu_comes_before_a_processor_with_more_models(tmp_path):
    with_gpu = store(tmp_path / "rows.jsonl", *rows(), environment=GPU)
    store(with_gpu, *(on_cpu(name, 1.0) for name in zoo.names()), environment=CPU)
    found = models.models(frame_of(with_gpu))
    assert set(found.rows["device_name"]) == {GPU["device_name"]} and found.memory_kind.startswith("reserved by torch")
    assert list(found.rows["name"]) == ["sdxl, 25 steps", "koala-700m, 25 steps"], "whole images before steps"
    assert set(found.rows["resolution"]) == {1024} and found.rows["vram_bytes"].isna().all()
    assert "<b>" not in models.render_markdown(found, FIGURE)


def test_out_of_memory_is_an_answer_and_a_failure_is_none(tmp_path):
    lines = [row(replace(PIPELINE, model="koala-1b"), SIX), row(PIPELINE, status="oom", reason=HOSTILE)]
    found = shown(tmp_path, *lines, row(replace(PIPELINE, model="koala-700m"), status="failed"))
    assert list(found.rows["model"]) == ["sdxl", "koala-1b"]
    text = models.render_markdown(found, FIGURE)
    line = next(line for line in text.splitlines() if "| sdxl" in line)
    assert [cell.strip() for cell in line.split("|")][2:5] == ["out of memory", "", ""] and HOSTILE not in text
    svg, png = models.draw(found, tmp_path / "models")
    assert svg.stat().st_size and png.stat().st_size


def test_nothing_is_shown_where_nothing_was_measured(tmp_path):
    assert shown(tmp_path, row(SDXL, status="failed")) is None


def test_the_place_in_a_markdown_file_is_filled_and_filled_again_alike(tmp_path):
    published(tmp_path / "results")
    readme = tmp_path / "docs/page.md"
    readme.parent.mkdir()
    readme.write_text(f"# Mine\n\n{models.BEGIN}\nold\n{models.END}\n\nmore\n")
    for _ in range(2):
        done = bench_here("report", "--readme", "docs/page.md", cwd=tmp_path)
        assert done.returncode == 0 and "docs/page.md" in done.stdout.splitlines(), done.stderr
        text = readme.read_text()
        assert text.startswith(f"# Mine\n\n{models.BEGIN}\nWhole images, 1024 px") and "old" not in text
        assert text.endswith(f"(../results/models.svg)\n{models.END}\n\nmore\n") and text.count("sdxl, 25 steps") == 1


def test_a_file_without_the_place_is_left_alone(tmp_path):
    found = shown(tmp_path, row(PIPELINE, SIX))
    (tmp_path / "page.md").write_text(f"{models.BEGIN}\nno end\n")
    with pytest.raises(KoalaError, match=r"page\.md has no place for the models"):
        models.to_readme(tmp_path / "page.md", found, FIGURE)
    assert (tmp_path / "page.md").read_text() == f"{models.BEGIN}\nno end\n"
    assert isinstance(found.rows, pd.DataFrame)
