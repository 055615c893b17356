"""The notebooks run from top to bottom on synthetic patches; `pip`, the copy for it and the parameters are replaced."""

import os
import re
import shlex
import sys
from types import ModuleType

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
import typer
from nbclient import NotebookClient

from histocli.cli import app
from tests.cli import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
COMMANDS = """\
import os, sys, pathlib
bin = pathlib.Path("bin"); bin.mkdir()
(bin / "histo").write_text(f'#!/bin/sh\\nexec "{sys.executable}" -m histocli "$@"\\n'); (bin / "histo").chmod(0o755)
os.environ |= {"PATH": f"{bin.absolute()}:{os.environ['PATH']}", "HISTO_WORKSPACE": "ws", "HISTO_DEVICE": "cpu"}
SOURCE, DATA, BALANCE = "--source synthetic --n 320", "synthetic", 64
OPTIONS, TEST = "--epochs 1 --batch-size 16 --arch histonet-64", "synthetic"
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
    assert "/kaggle/input" not in installs[0]  # pip builds in the folder, and this one cannot be written


def execute(name, parameters, folder):
    """Run all cells of a notebook in a folder, and return the text of their outputs."""
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    assert cells.keys() == {"install", "parameters"}
    cells["install"].source = without_shell(cells["install"].source)
    cells["parameters"].source = parameters
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") or str(output.get("data", "")) for output in outputs)


def without_shell(source):
    """Return the Python of a cell, without the lines that copy and install."""
    return "\n".join(line for line in source.splitlines() if line[:1] not in "!%")


def test_the_notebooks_of_kaggle_and_colab_run_the_same_commands():
    kaggle, colab = (
        [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.metadata.get("tags")]
        for notebook in (nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4) for name in ("kaggle", "colab"))
    )
    assert kaggle == colab
    assert sum("!histo" in source for source in kaggle) == 5
    (training,) = [source for source in kaggle if "!histo train" in source]
    assert "\nassert _exit_code == 0" in training  # a failed command alone does not stop a notebook


@pytest.mark.parametrize("name", ["kaggle", "colab"])
def test_the_commands_with_the_parameters_of_a_notebook_are_understood(name, monkeypatch):
    """The cells that `execute` replaces: the installation without its shell commands, and the parameters."""
    for variable in ("HISTO_WORKSPACE", "KAGGLE_API_TOKEN"):
        monkeypatch.setenv(variable, "")  # so that what the cells set is removed after the test
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab := ModuleType("google.colab"))
    colab.userdata = {"KAGGLE_API_TOKEN": "a token of Kaggle"}
    values, called = {}, []
    for cell in nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4).cells:
        if cell.metadata.get("tags"):
            exec(without_shell(cell.source), values)
        for line in re.findall(r"^!histo (.*)", cell.source, re.MULTILINE):
            command, *words = shlex.split(line.format_map(values))
            root = typer.main.get_command(app)
            root.commands[command].make_context(command, words, parent=root.make_context("histo", [command]))
            called.append(command)
    assert called == ["download", "balance", "train", "eval", "plot", "predict"]
    assert os.environ["HISTO_WORKSPACE"] == "ws"
    assert os.environ["KAGGLE_API_TOKEN"] == ("a token of Kaggle" if name == "colab" else "")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_notebooks_write_a_submission(one_thread, tmp_path, monkeypatch):
    """The notebook of Colab is run: Kaggle's has the same commands, and only other parameters."""
    colab = tmp_path / "site" / "google" / "colab"  # of the packages that only Colab has
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("userdata = {'KAGGLE_API_TOKEN': 'a token of Kaggle'}\n")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{tmp_path / 'site'}")
    text = execute("colab", COMMANDS, tmp_path)
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
    for i, label in enumerate(table["label"][:64]):
        path = tmp_path / "images" / ("normal", "tumour")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", cv2.cvtColor(patches[i], cv2.COLOR_RGB2BGR))[1].tobytes())
    text = execute("python", PYTHON, tmp_path)
    assert "'auc'" in text
    assert "image/png" in text
    assert (tmp_path / "ws" / "runs" / "first" / "best.pt").is_file()
