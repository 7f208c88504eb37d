"""The notebook does what it says: every cell of it runs, on a copy of the packages."""

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/walk.ipynb"


@pytest.mark.timeout(600)
def test_the_notebook_walks_from_a_prompt_to_quality_beside_latency(tmp_path, monkeypatch):
    for package in ("koala", "bench", "eval"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "results/lessons/emoji-koala", tmp_path / "results/lessons/emoji-koala")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    joined = pd.read_csv(tmp_path / "runs/walk/pareto/pareto.csv")
    assert sorted(joined["steps"]) == [1, 4] and joined["latency_s"].gt(0).all()
    assert joined.set_index("steps")["quality"].idxmin() == 4, "four steps are nearer to 25 than one is"


def test_the_committed_notebook_was_executed_from_first_to_last():
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
