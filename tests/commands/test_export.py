"""`histo export`: files that run without histo and say what the checkpoint says."""

import csv
import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import histocli.commands.export
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from tests.cli import histo_fixture, one_thread_fixture, write_images  # noqa: F401

PATCHES = 12
has_onnx = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture
def warm(histo, tmp_path):
    """A checkpoint whose temperature is not 1, and what `predict` says of some patches: float RGB images and scores."""
    checkpoint = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    save_checkpoint(replace(checkpoint, temperature=2.5), tmp_path / "warm.pt")
    write_images(histo, tmp_path / "images", PATCHES)
    rows = csv.DictReader(histo("predict", tmp_path / "images", "--ckpt", tmp_path / "warm.pt").stdout.splitlines())
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")[:PATCHES]
    images = np.ascontiguousarray(patches.transpose(0, 3, 1, 2), np.float32) / 255
    return tmp_path / "warm.pt", images, [float(row["label"]) for row in rows]


def test_a_program_of_torch_export_scores_as_predict_does(histo, tmp_path, warm):
    checkpoint, images, expected = warm
    out = tmp_path / "model.pt2"
    result = histo("export", "--ckpt", checkpoint, "--format", "pt2", "--out", out)
    assert "on patches of synthetic it differs" in result.stderr
    assert f"done: wrote {out}" in result.stderr
    facts = {"histo.json": ""}
    model = torch.export.load(out, extra_files=facts).module()
    for part in (slice(None), slice(1), slice(1, 6)):  # any number of images
        assert model(torch.from_numpy(images[part])).tolist() == pytest.approx(expected[part], abs=1e-5)
    known = json.loads(facts["histo.json"])
    assert (known["run"], known["arch"], known["temperature"]) == ("first", "histonet", "2.5")


@pytest.mark.slow
@pytest.mark.skipif(not has_onnx, reason="histocli[onnx] is not installed")
def test_an_onnx_file_scores_as_predict_does(histo, tmp_path, warm):
    import onnxruntime

    checkpoint, images, expected = warm
    histo("export", "--ckpt", checkpoint, "--out", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for part in (slice(None), slice(1), slice(1, 6)):
        [probs] = session.run(["probability"], {"images": images[part]})
        assert probs.tolist() == pytest.approx(expected[part], abs=1e-5)
    assert session.get_modelmeta().custom_metadata_map["temperature"] == "2.5"
    assert [path.name for path in tmp_path.glob("model*")] == ["model.onnx"]  # the weights are in it


@pytest.mark.skipif(has_onnx, reason="histocli[onnx] is installed")
def test_what_is_not_installed_is_named(histo, tmp_path):
    error, hint = histo.fails("export", "--out", tmp_path / "model.onnx")
    assert error.startswith("--format onnx needs ")
    assert hint == "pip install 'histocli[onnx]'"
    assert list(tmp_path.glob("*.onnx")) == []


def test_a_network_that_says_something_else_is_not_written(histo, tmp_path, monkeypatch):
    monkeypatch.setattr(histocli.commands.export, "Probability", Contrary)
    error, _ = histo.fails("export", "--ckpt", "first", "--format", "pt2", "--out", tmp_path / "model.pt2")
    assert "differ from the checkpoint's by up to" in error
    assert list(tmp_path.glob("*model*")) == []


class Contrary(histocli.commands.export.Probability):
    """An export that went wrong: the other class's probability, of which the sum with the right one is 1."""

    def forward(self, images):
        return 1 - super().forward(images)


def test_what_cannot_be_is_refused(histo, tmp_path):
    error, _ = histo.fails("export", "--format", "pt2", "--out", tmp_path, code=2)
    assert "is a folder" in error
    error, _ = histo.fails("export", "--format", "pt2", "--out", tmp_path / "x.pt2", "--ckpt", "nothing")
    assert "there is no checkpoint 'nothing'" in error
