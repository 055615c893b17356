"""Malicious checkpoints: one error that names the file and the problem, and none of their code runs."""

import io
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch

from histocli.models.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from tests.faults.processes import histo

pytestmark = pytest.mark.attack

MIB = 1 << 20


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def rewrite_members(path, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    """The members of a checkpoint in an archive made anew."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for member in old.namelist():
            new.writestr(member, change(member, old.read(member)))
    return stream.getvalue()


def code(good, path):
    torch.save({**good, "metrics": Hostile(path.with_name("owned"))}, path)


def bare_pickle(good, path):
    path.write_bytes(pickle.dumps({"format": FORMAT, "model": Hostile(path.with_name("owned"))}))


def legacy(good, path):
    torch.save(good, path, _use_new_zipfile_serialization=False)


def whole_module(good, path):
    torch.save(torch.nn.Linear(2, 2), path)


def truncate(good, path):
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[:-1000])


def empty(good, path):
    path.write_bytes(b"")


def later_version(good, path):
    torch.save({**good, "format": 99}, path)


def unknown_architecture(good, path):
    torch.save({**good, "arch": "resnet9000"}, path)


def other_architecture(good, path):
    torch.save({**good, "arch": "resnet18"}, path)


def not_numbers(good, path):
    model = {name: tensor.clone() for name, tensor in good["model"].items()}
    next(iter(model.values())).view(-1)[0] = float("nan")
    torch.save({**good, "model": model}, path)


def enormous_shape(good, path):
    """A shape of 4 TB that holds one number."""
    model = dict(good["model"])
    name = next(name for name, tensor in model.items() if tensor.ndim == 4)
    torch.save({**good, "model": model | {name: torch.ones(1).expand(1 << 10, 1 << 10, 1 << 10, 1 << 10)}}, path)


def enormous_promise(good, path):
    """The sizes in the pickle are larger than what is stored."""
    torch.save(good, path)
    old = b"K\x10K\x03K\x03K\x03tq"  # the shape of the first convolution's weights
    path.write_bytes(
        rewrite_members(path, lambda name, data: data.replace(old, old.replace(b"K\x10", b"M\xff\xff"), 1))
    )


def without_storage(good, path):
    model = {name: tensor.to("meta") for name, tensor in good["model"].items()}
    torch.save({**good, "model": model}, path)


def sparse(good, path):
    name, tensor = next((name, t) for name, t in good["model"].items() if t.ndim == 2)
    torch.save({**good, "model": good["model"] | {name: tensor.to_sparse()}}, path)


def compress(good, path):
    """torch would unpack it whatever its size: here 200 MB of zeros in 200 KB."""
    torch.save({**good, "training": {"zeros": torch.zeros(50 * MIB)}}, path)
    path.write_bytes(rewrite_members(path, compression=zipfile.ZIP_DEFLATED))


def name_that_climbs(good, path):
    torch.save({**good, "run": "../../../owned"}, path)


def labels_of_another_kind(good, path):
    torch.save({**good, "validation": {"labels": torch.ones(3, dtype=torch.bfloat16), "log_odds": "none"}}, path)


def looks_of_another_kind(good, path):
    torch.save({**good, "appearance": {**good["appearance"], "colour_mean": [1.0] * 5}}, path)


def looks_unsaid(good, path):
    torch.save({**good, "appearance": {"surprise": 1}}, path)


FAULTS = {
    code: "cannot be read safely as a checkpoint",
    bare_pickle: "cannot be read safely as a checkpoint",
    legacy: "cannot be read safely as a checkpoint",
    whole_module: "cannot be read safely as a checkpoint",
    truncate: "cannot be read safely as a checkpoint",
    empty: "cannot be read safely as a checkpoint",
    later_version: f"is not a histo checkpoint of format {FORMAT} (found 99)",
    unknown_architecture: "the architecture 'resnet9000' is not known",
    other_architecture: "the weights do not fit resnet18",
    not_numbers: "the weights are not finite",
    enormous_shape: "cannot be read safely as a checkpoint: a tensor is larger than its storage",
    enormous_promise: "cannot be read safely as a checkpoint",
    without_storage: "cannot be read safely as a checkpoint",
    sparse: "cannot be read safely as a checkpoint",
    compress: "cannot be read safely as a checkpoint: its members are compressed",
    labels_of_another_kind: "the field validation.log_odds is 'none', not a Tensor",
    looks_of_another_kind: "the field appearance does not have 6 colours",
    looks_unsaid: "the field appearance.patches is missing",
}


@pytest.fixture(scope="module")
def good(trained_workspace):
    return torch.load(trained_workspace / "runs" / "first" / "best.pt", weights_only=True)


@pytest.mark.parametrize("harm", FAULTS, ids=lambda harm: harm.__name__)
def test_a_file_that_is_not_a_histo_checkpoint_is_one_error_that_names_it(trained_workspace, good, tmp_path, harm):
    path = tmp_path / "stranger's.pt"
    harm(good, path)
    line = ["predict", "synthetic", "--ckpt", path, "--device", "cpu", "--flags", "--threshold", "youden"]
    result = histo(trained_workspace, *line, code=1, limits={"memory": 3000 * MIB})
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    [error] = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    assert error.startswith(f"error: {path}")
    assert FAULTS[harm] in error
    assert not (tmp_path / "owned").exists()


def test_a_decompression_bomb_is_refused_without_using_memory(trained_workspace, good, tmp_path):
    path = tmp_path / "bomb.pt"
    compress(good, path)
    assert path.stat().st_size < 4 * MIB
    result = histo(trained_workspace, "predict", "synthetic", "--ckpt", path, code=1, limits={"memory": 150 * MIB})
    assert "its members are compressed" in result.stderr


@pytest.mark.parametrize("command", [["eval", "--data", "synthetic"], ["predict", "synthetic"]])
def test_a_run_name_in_a_checkpoint_cannot_be_a_path(root, good, tmp_path, command):
    path = tmp_path / "climbs.pt"
    name_that_climbs(good, path)
    before = sorted(tmp_path.rglob("*"))
    process = histo(root, *command, "--ckpt", path, "--device", "cpu", code=1)
    assert f"error: {path}: the field run: '../../../owned' cannot name a run" in process.stderr
    assert [found for found in sorted(tmp_path.rglob("*")) if found not in before] == []


def test_a_run_with_an_unknown_network_is_an_error(root):
    last = root / "runs" / "first" / "last.pt"
    checkpoint = load_checkpoint(last)
    lacking = {name: tensor for name, tensor in checkpoint.model.items() if "head" not in name}
    assert len(lacking) < len(checkpoint.model)
    save_checkpoint(replace(checkpoint, model=lacking), last)
    result = histo(root, "train", "--resume", "--name", "first", code=1)
    assert f"error: {last}: the weights do not fit histonet" in result.stderr
    assert "hint: if an older version of histo wrote it, train again" in result.stderr


def test_a_run_with_unknown_options_is_an_error(root):
    last = root / "runs" / "first" / "last.pt"
    checkpoint = load_checkpoint(last)
    save_checkpoint(replace(checkpoint, config={**checkpoint.config, "surprise": 1}), last)
    result = histo(root, "train", "--resume", "--name", "first", code=1)
    assert f"error: {last}" in result.stderr
    assert "surprise" in result.stderr
