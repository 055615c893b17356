"""`histo export`: files that run without histo and give the scores of the checkpoint."""

import csv
import json
import shutil
import sys
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import histocli.commands.export
import histocli.models.export
from histocli.data.manifest import hash_file
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from tests.cli import write_images

PATCHES = 12


@pytest.fixture
def warm(histo, tmp_path):
    """A checkpoint with a temperature other than 1, some float RGB images, and their scores by `predict`."""
    checkpoint = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    save_checkpoint(replace(checkpoint, temperature=2.5), tmp_path / "warm.pt")
    write_images(histo, tmp_path / "images", PATCHES)
    rows = csv.DictReader(histo("predict", tmp_path / "images", "--ckpt", tmp_path / "warm.pt").stdout.splitlines())
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")[:PATCHES]
    images = np.ascontiguousarray(patches.transpose(0, 3, 1, 2), np.float32) / 255
    return tmp_path / "warm.pt", images, [float(row["label"]) for row in rows]


def test_a_torch_export_program_gives_the_scores_of_predict(histo, tmp_path, warm):
    checkpoint, images, expected = warm
    out = tmp_path / "model.pt2"
    result = histo("export", "--ckpt", checkpoint, "--format", "pt2", "--out", out)
    assert "the exported probabilities of patches of synthetic differ" in result.stderr
    assert f"done: wrote {out}" in result.stderr
    facts = {"histo.json": ""}
    model = torch.export.load(out, extra_files=facts).module()
    for part in (slice(None), slice(1), slice(1, 6)):  # any number of images
        probs, log_odds = model(torch.from_numpy(images[part]))
        assert probs.tolist() == pytest.approx(expected[part], abs=1e-5)
        assert (log_odds / 2.5).sigmoid().tolist() == pytest.approx(expected[part], abs=1e-5)
    known = json.loads(facts["histo.json"])
    assert (known["run"], known["arch"], known["temperature"]) == ("first", "histonet", "2.5")


@pytest.mark.slow
def test_an_onnx_file_gives_the_scores_of_predict_and_is_used_for_its_checkpoint(histo, tmp_path, warm):
    checkpoint, pixels, expected = warm
    images = tmp_path / "images"
    for place in ("runs/first", "checkpoints"):
        shutil.copy(checkpoint, histo.root / place / "best.pt")
    cpu = ("--device", "cpu", "--precision", "fp32")
    before = histo("predict", images, *cpu, "--tta")
    assert before.stderr.splitlines()[1].endswith("by PyTorch")
    result = histo("export")
    [exported] = (histo.root / "exports").iterdir()  # one file, with its weights
    assert f"done: wrote {exported}" in result.stderr.replace("\n", "")
    check_onnx(exported, pixels, expected)
    after = histo("predict", images, *cpu, "--tta")
    assert after.stderr.splitlines()[1].endswith(
        "by ONNX Runtime (with the file of histo export; --engine torch ignores it)"
    )
    assert labels(after.stdout) == pytest.approx(labels(before.stdout), abs=1e-5)
    histo("eval", *cpu, "--tta")
    report = json.loads((histo.root / "metrics" / "first-synthetic-val-tta.json").read_text())
    assert report["engine"] == "ONNX Runtime"
    other = histo.root / "runs" / "first" / "last.pt"  # another checkpoint has no such file, and takes none
    assert histo("predict", images, *cpu, "--ckpt", other).stderr.splitlines()[1].endswith("by PyTorch")
    exported.rename(exported.with_name(exported.name.replace(sha256_of("best.pt", histo), sha256_of("last.pt", histo))))
    error, hint = histo.fails("predict", images, *cpu, "--ckpt", other)
    assert error.endswith("was not made from this checkpoint")
    assert hint == "remove it, or write it again with histo export"
    for path in (histo.root / "exports").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    error, _ = histo.fails("predict", images, *cpu, "--ckpt", other)
    assert "cannot be used" in error


def check_onnx(path, images, expected):
    """A file of `histo export` must give the expected probabilities for any number of images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for part in (slice(None), slice(1), slice(1, 6)):
        [probs] = session.run(["probability"], {"images": images[part]})
        assert probs.tolist() == pytest.approx(expected[part], abs=1e-5)
    assert session.get_modelmeta().custom_metadata_map["temperature"] == "2.5"


def labels(table):
    return [float(row["label"]) for row in csv.DictReader(table.splitlines())]


def sha256_of(name, histo):
    return hash_file(histo.root / "runs" / "first" / name)[:16]


def test_a_missing_package_is_named(histo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error, hint = histo.fails("export", "--out", tmp_path / "model.onnx")
    assert error == "--format onnx needs the package onnxscript"
    assert hint == "pip install 'histocli[onnx]'"
    assert list(tmp_path.glob("*.onnx")) == []


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_export_with_different_outputs_is_not_written(histo, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(histocli.commands.export, "Probability", Contrary)
    monkeypatch.setattr(Contrary, "wrong", wrong)
    error, _ = histo.fails("export", "--ckpt", "first", "--format", "pt2", "--out", tmp_path / "model.pt2")
    assert "differ from the checkpoint's by up to" in error
    assert list(tmp_path.glob("*model*")) == []


class Contrary(histocli.commands.export.Probability):
    """An export with a wrong output: that of the other class."""

    wrong = 0

    def forward(self, images):
        probs, log_odds = super().forward(images)
        return (1 - probs, log_odds) if self.wrong == 0 else (probs, -log_odds)


def test_impossible_options_are_refused(histo, tmp_path):
    error, _ = histo.fails("export", "--format", "pt2", "--out", tmp_path, code=2)
    assert "is a folder" in error
    error, _ = histo.fails("export", "--format", "pt2", "--out", tmp_path / "x.pt2", "--ckpt", "nothing")
    assert "there is no checkpoint 'nothing'" in error
    error, hint = histo.fails("export", "--out", tmp_path / "x.PT2", code=2)
    assert error.endswith("x.PT2: the format is onnx")
    assert hint == "add --format pt2, or rename it"


@pytest.mark.parametrize("options", [["x.txt"], ["model.v2"], ["x.pt", "--format", "pt2"], ["x.onnx.gz"]])
def test_a_suffix_that_no_format_has_is_refused(histo, tmp_path, options):
    error, hint = histo.fails("export", "--out", tmp_path / options[0], *options[1:], code=2)
    assert error.endswith(f"{options[0]}: .{options[0].rpartition('.')[2]} is not the suffix of a network")
    assert hint == "--format onnx writes .onnx, --format pt2 writes .pt2, and --format wsinfer writes a folder"
    assert list(tmp_path.glob("*.*")) == []


def test_a_wsinfer_folder_scores_as_predict_does(histo, tmp_path, warm):
    """Its keys are those that the schema of the WSInfer Model Zoo requires; softmax of its logits is the score."""
    checkpoint, images, expected = warm
    out = histo.root / "exports" / f"{hash_file(checkpoint)[:16]}.wsinfer"
    out.mkdir(parents=True)
    (out / "earlier").touch()
    result = histo("export", "--ckpt", checkpoint, "--format", "wsinfer")
    assert f"done: wrote {out}" in result.stderr
    assert {path.name for path in out.iterdir()} == {"config.json", "torchscript_model.pt"}
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    config = json.loads((out / "config.json").read_text())
    assert config == {
        "spec_version": "1.0",
        "architecture": "histonet",
        "num_classes": 2,
        "class_names": ["Normal", "Tumor"],
        "patch_size_pixels": 96,
        "spacing_um_px": 0.972,
        "transform": [{"name": "ToTensor"}],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against TorchScript
        network = torch.jit.load(str(out / "torchscript_model.pt"))
    for part in (slice(None), slice(1), slice(1, 6)):
        with torch.inference_mode():
            scores = network(torch.from_numpy(images[part])).softmax(1)[:, 1].numpy()
        np.testing.assert_allclose(scores, expected[part], atol=1e-5)
    error, _ = histo.fails("export", "--ckpt", checkpoint, "--format", "wsinfer", "--out", out)
    assert error == f"{out} exists already"


def test_a_wsinfer_network_resamples_squares_of_a_slide_as_predict_does(histo, tmp_path):
    """`histo predict` resamples the squares of slides with OpenCV: by area, or with INTER_LINEAR if they are coarse."""
    histo("export", "--ckpt", "histonet-pcam", "--format", "wsinfer", "--out", tmp_path / "network")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against TorchScript
        network = torch.jit.load(str(tmp_path / "network" / "torchscript_model.pt"))
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")[:8]
    area, linear = (cv2.INTER_AREA, 1e-3), (cv2.INTER_LINEAR, 3e-3)  # INTER_LINEAR rounds its weights
    for size, (method, tolerance) in (((187, 187), area), ((240, 239), area), ((192, 192), area), ((80, 90), linear)):
        squares = [cv2.resize(patch, size, interpolation=cv2.INTER_CUBIC) for patch in patches]
        resampled = [cv2.resize(square, (96, 96), interpolation=method) for square in squares]
        with torch.inference_mode():
            scores, expected = (
                network(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255).softmax(1)[:, 1]
                for images in (squares, resampled)
            )
        assert expected.max() - expected.min() > 0.3
        np.testing.assert_allclose(scores, expected, atol=tolerance)
