"""The notebooks run from top to bottom on synthetic patches; installation and parameters are replaced."""

import re

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.cli import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
COMMANDS = """\
import os, sys, pathlib
bin = pathlib.Path("bin"); bin.mkdir()
(bin / "histo").write_text(f'#!/bin/sh\\nexec "{sys.executable}" -m histocli "$@"\\n'); (bin / "histo").chmod(0o755)
os.environ |= {"PATH": f"{bin.absolute()}:{os.environ['PATH']}", "HISTO_WORKSPACE": "ws", "HISTO_DEVICE": "cpu"}
SOURCE, DATA, BALANCE = "--source synthetic --n 320", "synthetic", 64
OPTIONS, TEST = "--epochs 1 --batch-size 16", "synthetic"
"""
PYTHON = 'FOLDER, OPTIONS = "images", {"epochs": 1, "batch_size": 16, "device": "cpu"}'


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_has_no_outputs_and_installs_no_torch(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 10
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    installs = [line for cell in code for line in cell.source.splitlines() if "pip install" in line]
    assert len(installs) == 1
    assert "torch" not in installs[0]
    assert "--upgrade" not in installs[0]


def execute(name, parameters, folder):
    """Run a notebook in a folder, and return the text of its outputs."""
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    tags = {"install": "", "parameters": parameters}
    replaced = set()
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", ()):
            cell.source = tags[tag]
            replaced.add(tag)
    assert replaced == tags.keys()
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") or str(output.get("data", "")) for output in outputs)


def test_the_notebooks_of_kaggle_and_colab_run_the_same_commands():
    """Only the installation and the parameters differ, so that it is enough to run one of the two."""
    kaggle, colab = (
        [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.metadata.get("tags")]
        for notebook in (nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4) for name in ("kaggle", "colab"))
    )
    assert kaggle == colab
    assert sum("!histo" in source for source in kaggle) == 5


def test_the_parameters_of_kaggle_and_colab_have_the_same_names():
    names = [
        set(re.findall(r"^(\w+) = ", cell.source, re.MULTILINE))
        for path in NOTEBOOKS
        if path.stem != "python"
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", ())
    ]
    assert names == [{"SOURCE", "DATA", "BALANCE", "OPTIONS", "TEST"}] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_notebook_writes_a_submission(one_thread, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    text = execute("kaggle", COMMANDS, tmp_path)
    assert "error:" not in text
    assert "image/png" in text
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission.columns) == ["id", "label"]
    assert len(submission) == 320
    assert submission["label"].between(0, 1).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_python_notebook_scores_a_folder(histo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    table = pd.read_csv(histo.root / "manifests" / "synthetic.csv")
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")
    for i, label in enumerate(table["label"][:120]):
        path = tmp_path / "images" / ("normal", "tumour")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", cv2.cvtColor(patches[i], cv2.COLOR_RGB2BGR))[1].tobytes())
    text = execute("python", PYTHON, tmp_path)
    assert "'auc'" in text
    assert "image/png" in text
    assert (tmp_path / "ws" / "runs" / "first" / "best.pt").is_file()
