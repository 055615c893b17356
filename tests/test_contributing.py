"""The worked examples of CONTRIBUTING.md work as they are written."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?P<kind>\w+)\n# (?P<name>\S+)\n(?P<body>.*?)^```$", flags=re.DOTALL | re.MULTILINE)
PIPELINE = """
import sys
from histocli.cli import app

for line in sys.stdin:
    app(line.split(), standalone_mode=False)
"""


def examples():
    """The blocks of each worked example, as {title: [(kind, file name, body), ...]}."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Worked examples\n")[2]
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {section.split("\n", 1)[0]: BLOCK.findall(section) for section in sections}


def apply_block(root, kind, name, body):
    """Write the new file of a `python` block, or change the file that a `diff` block names."""
    path = root / name
    if kind == "python":
        assert not path.exists(), f"{name} exists already: is the example a part of histo now?"
        path.write_text(body, encoding="utf-8")
        return
    assert kind == "diff", f"a block of {kind} begins with a file name"
    lines = body.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, f"these lines occur {content.count(before)} times in {name}:\n{before}"
    path.write_text(content.replace(before, after), encoding="utf-8")


def run_python(root, *args, stdin=None):
    """Run Python in the copy of the repository, and return what it prints."""
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *args], cwd=root, env=env, input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def changed_copy(tmp_path_factory):
    """A copy of the repository with all examples applied."""
    root = tmp_path_factory.mktemp("contributing")
    for name in ("histocli", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for blocks in examples().values():
        for kind, name, body in blocks:
            apply_block(root, kind, name, body)
    return root


def test_each_example_has_blocks():
    assert list(examples()) == [
        *("Add a metric", "Add a source", "Add an architecture", "Add an output format"),
        "Add a column to the predictions",
    ]
    assert all(examples().values())


def test_changed_copy_passes_the_linter(changed_copy):
    pytest.importorskip("ruff", reason="ruff is installed with the tools of a developer only")
    files = {name for blocks in examples().values() for _, name, _ in blocks}
    run_python(changed_copy, "-m", "ruff", "check", "--no-cache", *files)
    run_python(changed_copy, "-m", "ruff", "format", "--no-cache", "--check", *files)


def test_tests_of_the_examples_pass(changed_copy):
    new_tests = [name for blocks in examples().values() for _, name, _ in blocks if name.startswith("tests/")]
    assert new_tests
    run_python(changed_copy, "-m", "pytest", "-p", "no:cacheprovider", *new_tests)


def test_commands_use_the_new_source_architecture_metric_format_and_column(changed_copy, tmp_path):
    labels = np.arange(64) % 2
    patches = np.random.default_rng(0).integers(0, 256, (64, 96, 96, 3), np.uint8)
    np.save(tmp_path / "patches.npy", patches)
    np.save(tmp_path / "labels.npy", labels)
    workspace, table, full = tmp_path / "workspace", tmp_path / "scores.tsv", tmp_path / "full.csv"
    commands = [
        f"download --source npy --from {tmp_path}/patches.npy --label-array {tmp_path}/labels.npy --name arrays",
        "balance --data arrays --n max --split random --val-fraction 0.25",
        "train --arch tinynet --epochs 1 --batch-size 16 --device cpu --name tiny",
        "eval --ckpt tiny --device cpu --json",
        f"predict arrays --ckpt tiny --device cpu --out {table}",
        f"predict arrays --ckpt tiny --device cpu --columns full --out {full}",
        "train --help",
        "predict --help",
    ]
    stdin = "".join(f"-w {workspace} {command}\n" for command in commands)
    stdout = run_python(changed_copy, "-c", PIPELINE, stdin=stdin)
    assert '"jaccard":' in stdout
    stdout = " ".join(stdout.split())
    assert "--arch TEXT histonet, histonet-wide, histonet-64, histonet-pair, p4m-densenet, tinynet;" in stdout
    assert "--format <csv|jsonl|parquet|tsv>" in stdout
    assert "full: id, path, probability, uncalibrated and class;" in stdout
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["id", "label"]
    assert [row[0] for row in rows[1:]] == [str(row) for row in range(64)]
    with full.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "path", "probability", "uncalibrated", "class"]
    assert all(0 < float(row["uncalibrated"]) < 1 for row in rows)


def test_messages_name_the_new_format(changed_copy):
    code = """
from pathlib import Path
from histocli.config import PredictConfig
from histocli.errors import UsageError
try:
    PredictConfig(("patches",), out=Path("scores.xlsx")).output_format
except UsageError as error:
    print(error.hint)
"""
    assert run_python(changed_copy, "-c", code) == "it writes .csv, .jsonl, .parquet and .tsv\n"
