"""Extreme data: a warning or an error, and never a NaN in a JSON file."""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch

from tests.faults.conftest import TINY
from tests.faults.processes import histo


def refuse(constant):
    raise AssertionError(f"{constant} in a JSON")


def read_strictly(path):
    return json.loads(path.read_text(), parse_constant=refuse)


def check_jsons(root):
    for path in root.rglob("*.json"):
        read_strictly(path)
    for path in root.rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=refuse)


def manifest(root, name="balanced"):
    with (root / "manifests" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_manifest(root, rows, name="balanced"):
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    (root / "manifests" / f"{name}.csv").write_text(stream.getvalue())


@pytest.mark.parametrize("label", ["0", "1"])
def test_a_class_missing_from_validation_trains_with_a_null_and_evaluates_with_reasons(root, label):
    rows = [row for row in manifest(root) if row["split"] == "train" or row["label"] == label]
    write_manifest(root, rows)
    histo(root, *["train", *TINY, "--name", "one-sided"])
    history = [json.loads(line) for line in (root / "runs/one-sided/history.jsonl").read_text().splitlines()]
    assert [row["val_auc"] for row in history] == [None, None]
    assert all(math.isfinite(row["val_loss"]) for row in history)
    process = histo(root, "eval", "--ckpt", "one-sided", "--device", "cpu")
    report = read_strictly(root / "metrics" / "one-sided-synthetic-val.json")
    assert report["metrics"]["auc"] is None
    assert report["undefined"]["auc"]
    assert "warning: AUC cannot be computed: " in process.stderr
    check_jsons(root)
    histo(root, "plot", "--run", "one-sided")


def test_a_class_missing_from_training_is_an_error(root):
    write_manifest(root, [row for row in manifest(root) if row["split"] == "val" or row["label"] == "1"])
    process = histo(root, "train", *TINY, "--name", "x", code=1)
    assert "error: all training patches have the same label" in process.stderr
    assert not (root / "runs" / "x").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_an_error(root, split):
    write_manifest(root, [row for row in manifest(root) if row["split"] != split])
    process = histo(root, "train", *TINY, "--name", "x", code=1)
    assert f"error: synthetic has no labelled patches in its split '{split}'" in process.stderr


def test_all_labels_equal_cannot_be_balanced(root):
    rows = [{**row, "label": "1"} for row in manifest(root, "synthetic")]
    write_manifest(root, rows, "synthetic")
    before = manifest(root)
    process = histo(root, "balance", code=1)
    assert "error: synthetic has 0 normal and " in process.stderr
    assert "both classes are needed" in process.stderr
    assert manifest(root) == before


def test_a_single_slide_cannot_be_split_by_slide(root):
    write_manifest(root, [{**row, "slide": "s1"} for row in manifest(root, "synthetic")], "synthetic")
    process = histo(root, "balance", "--n", 32, code=1)
    assert "error: 1 slide cannot be split with both classes in train and in validation" in process.stderr
    assert "hint: " in process.stderr
    histo(root, "balance", "--n", 32, "--split", "random")
    check_jsons(root)


@pytest.mark.parametrize(
    ("n", "split", "message"),
    [
        ("2", "random", "use --n 4 or more"),
        ("1000000", "random", "the largest n possible is --n "),
        ("2", "slide", "slides cannot be split"),
    ],
)
def test_invalid_numbers_are_refused(root, n, split, message):
    before = manifest(root)
    assert message in histo(root, "balance", "--n", n, "--split", split, code=1).stderr
    assert manifest(root) == before


def test_the_smallest_possible_number_of_patches_works_in_every_command(root):
    histo(root, "balance", "--n", 4, "--split", "random", "--val-fraction", 0.5)
    histo(root, "train", *TINY, "--name", "least")
    histo(root, "eval", "--ckpt", "least", "--device", "cpu")
    check_jsons(root)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_weights_in_a_checkpoint_are_an_error_and_the_checkpoint_is_kept(root, value):
    last = root / "runs" / "first" / "last.pt"
    content = torch.load(last, weights_only=True)
    content["training"]["history"] = content["training"]["history"][:1]
    for tensor in content["training"]["trainer"]["model"].values():
        if tensor.is_floating_point():
            tensor.fill_(value)
    content["training"]["trainer"]["step"] //= 2
    content["training"]["trainer"]["optimizer"]["steps"] //= 2
    torch.save(content, last)
    before = last.read_bytes()
    process = histo(root, "train", "--resume", "--name", "first", code=1)
    assert "its training state is damaged: weights or losses are not finite" in process.stderr
    assert last.read_bytes() == before
    check_jsons(root)


def test_patches_of_one_colour_are_scored(root, tmp_path):
    np.save(tmp_path / "flat.npy", np.stack([np.full((96, 96, 3), value, np.uint8) for value in (0, 128, 255)]))
    process = histo(root, "predict", tmp_path / "flat.npy", "--ckpt", "first", "--device", "cpu", "--flags")
    rows = list(csv.DictReader(io.StringIO(process.stdout)))
    assert len(rows) == 3
    assert all(math.isfinite(float(row[key])) for row in rows for key in ("label", "spread", "colour", "focus"))


def test_one_labelled_patch_can_be_evaluated(root, tmp_path):
    rows = manifest(root, "synthetic")
    write_manifest(root, [{**row, "label": row["label"] if i == 0 else ""} for i, row in enumerate(rows)], "synthetic")
    histo(root, "eval", "--ckpt", "first", "--data", "synthetic", "--device", "cpu")
    check_jsons(root)
