"""Checkpoints are read as they were written; damaged, foreign or malicious files are refused with an error."""

import io
import os
import pickle
import struct
import sys
import zipfile
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histocli.atomic import write_json
from histocli.errors import DamagedError, HistoError
from histocli.models import create_model, packaged
from histocli.models.archive import load_archive
from histocli.models.checkpoint import FORMAT, Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from histocli.workspace import Workspace


def checkpoint(**changes):
    torch.manual_seed(5)
    original = Checkpoint("histonet", create_model("histonet").state_dict(), "run", 3, {"val_auc": 0.9}, {}, "ab" * 32)
    return replace(original, **changes)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(checkpoint(), path)
    return path


def error_of(path):
    with pytest.raises(HistoError) as caught:
        load_checkpoint(path).build()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_checkpoint_is_read_unchanged(path):
    loaded, original = load_checkpoint(path), checkpoint()
    assert vars(loaded).keys() - {"origin"} == vars(original).keys()
    for name in vars(original).keys() - {"model"}:
        assert getattr(loaded, name) == getattr(original, name)


def test_tensors_are_loaded_as_pytorch_loads_them(tmp_path):
    shared = torch.arange(24.0)
    tensors = [shared[:4], shared[2:20:3], shared.view(4, 6).T, torch.ones(0), torch.tensor(True)]
    tensors += [shared.view(1, 2, 3, 4).to(memory_format=torch.channels_last), torch.ones(2).requires_grad_()]
    tensors += [shared.to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8)]
    path = tmp_path / "a.pt"
    torch.save({"tensors": tensors, "state": torch.nn.BatchNorm1d(3).state_dict(), "plain": (1, -0.5, "a", None)}, path)
    with torch.device("meta"):  # without an effect: a checkpoint is always loaded onto the CPU
        loaded = load_archive(path)
    expected = torch.load(path, weights_only=True)
    assert loaded["state"]._metadata == expected["state"]._metadata
    again, wanted = io.BytesIO(), io.BytesIO()
    torch.save(loaded, again)
    torch.save(expected, wanted)
    assert again.getvalue() == wanted.getvalue()  # the types, shapes, strides, values, and what is shared
    loaded["tensors"][0][2] = 7
    assert loaded["tensors"][1][0] == 7


@pytest.mark.parametrize("kind", ["byte order", "doubled", "directory"])
def test_an_archive_that_pytorch_does_not_write_is_refused(path, kind):
    with zipfile.ZipFile(path) as archive:
        pairs = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(pairs)).partition("/")[0]
    if kind == "byte order":
        pairs[f"{folder}/byteorder"] = b"big" if sys.byteorder == "little" else b"little"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pairs.items():
            archive.writestr(name, data)
        if kind == "doubled":
            archive.filelist += [archive.getinfo(f"{folder}/version")] * 2
    if kind == "directory":  # it announces 17 MiB, of which zipfile would make objects
        with path.open("r+b") as file:
            file.truncate(17 << 20)
            file.seek(0, io.SEEK_END)
            file.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 17 << 20, 0, 0))
    words = {"byte order": "byte order", "doubled": "files that PyTorch does not write", "directory": "is too large"}
    assert words[kind] in error_of(path)


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"](K\1K\2\x86eq\1ccollections\nOrderedDict\nh\1\x85R", "takes 0 positional arguments"),
        (b"ccollections\nOrderedDict\n}X\1\0\0\0aK\1sb", "__dict__"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}X\1\0\0\0aK\1sb", "__dict__"),
        (b"})" + b"\x85" * 50_001 + b"Ns", "too many values"),
    ],
    ids=["a copy of a list", "an attribute of a class", "an attribute of a function", "tuples that crash Python"],
)
def test_a_pickle_that_does_what_pytorch_does_not_is_refused(path, pickled, why):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2" + pickled + b".")
    assert why in error_of(path)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("value", [Hostile(), {"format": FORMAT, "model": Hostile()}])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, monkeypatch, save, value):
    monkeypatch.chdir(tmp_path)
    save(value, tmp_path / "evil.pt")
    assert "cannot be read safely as a checkpoint" in error_of(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in error_of(path)


def test_a_file_whose_beginning_is_missing_is_damaged(path):
    path.write_bytes(path.read_bytes()[100:])
    with pytest.raises(DamagedError, match="its beginning is missing"):
        load_checkpoint(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path, content):
    (tmp_path / "random.pt").write_bytes(content)
    assert "random.pt" in error_of(tmp_path / "random.pt")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_pickle_is_refused_or_harmless(tmp_path, data):
    """Change bytes of the pickle in the file."""
    path = tmp_path / "small.pt"
    content = {"format": FORMAT, "arch": "histonet", "model": {"a": torch.ones(2)}, "run": "r"}
    torch.save(content, path, pickle_protocol=2)
    content = bytearray(path.read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6)):
        content[at] = byte
    path.write_bytes(bytes(content))
    error_of(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1, 2], "found a list"),
        ({"format": 1}, "found 1"),
        ({"state_dict": {}}, "found None"),
        ({"format": FORMAT, "arch": "histonet"}, "the field model is missing"),
        ({**vars(checkpoint()), "surprise": 1}, "surprise"),
        ({**vars(checkpoint()), "model": [1]}, "the field model is a list, not an object"),
        ({**vars(checkpoint()), "epoch": "three"}, "the field epoch is 'three', not a whole number"),
        ({**vars(checkpoint()), "arch": "vgg99"}, "'vgg99' is not known"),
        ({**vars(checkpoint()), "arch": "resnet18"}, "do not fit resnet18"),
        ({**vars(checkpoint()), "model": {}}, "do not fit histonet"),
        ({**vars(checkpoint()), "model": {"a": 1}}, "the field model.a is 1, not a Tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_content_is_refused(tmp_path, content, why):
    torch.save(content, tmp_path / "other.pt")
    assert why in error_of(tmp_path / "other.pt")


def test_an_unknown_architecture_is_named_once(tmp_path):
    torch.save({**vars(checkpoint()), "arch": "vgg99"}, tmp_path / "other.pt")
    assert error_of(tmp_path / "other.pt").count("vgg99") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    original = checkpoint()
    weights = next(tensor for tensor in original.model.values() if tensor.ndim == 4 and tensor.is_floating_point())
    weights.view(-1)[0] = value
    save_checkpoint(original, tmp_path / "nan.pt")
    assert "not finite" in error_of(tmp_path / "nan.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "there is no checkpoint" in error_of(tmp_path / "none.pt")
    assert str(tmp_path) in error_of(tmp_path)


def test_a_failed_write_leaves_the_old_checkpoint(path):
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(checkpoint(config={"f": lambda: 0}), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]


def test_a_bare_name_is_only_looked_up_in_the_workspace(path, monkeypatch, tmp_path):
    """`path` is best.pt in the current directory, which may be from another tool."""
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / "workspace")
    for place in ("checkpoints", "runs/best.pt", "runs/other"):
        (workspace.root / place).mkdir(parents=True)
        save_checkpoint(checkpoint(), workspace.root / place / "best.pt")
    assert find_checkpoint(workspace, "best.pt") == workspace.checkpoints_dir / "best.pt"
    assert find_checkpoint(workspace, "./best.pt").resolve() == path
    assert find_checkpoint(workspace, str(path)) == path
    (workspace.checkpoints_dir / "best.pt").unlink()
    assert find_checkpoint(workspace, "best.pt") == workspace.runs_dir / "best.pt" / "best.pt"
    assert find_checkpoint(workspace, "other") == workspace.runs_dir / "other" / "best.pt"


def test_the_error_of_a_name_says_how_to_use_the_file_in_the_current_directory(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HistoError, match=r"there is no checkpoint 'best\.pt'") as caught:
        find_checkpoint(Workspace(tmp_path / "workspace"), "best.pt")
    assert caught.value.hint == "to use the file in the current directory, write ./best.pt"
    path.unlink()
    assert find_checkpoint(Workspace(tmp_path / "workspace"), "best.pt") == packaged.PATH
    with pytest.raises(HistoError, match=r"there is no checkpoint 'mine'") as caught:
        find_checkpoint(Workspace(tmp_path / "workspace"), "mine")
    assert caught.value.hint == "histo train makes one"
    with pytest.raises(HistoError, match=r"there is no checkpoint \./best\.pt"):
        find_checkpoint(Workspace(tmp_path / "workspace"), "./best.pt")


def test_the_error_of_a_run_without_a_checkpoint_says_how_to_finish_it(tmp_path):
    workspace = Workspace(tmp_path)
    write_json(workspace.run_dir("net-seed10") / "config.json", {})
    write_json(workspace.run_dir("net-seed9") / "config.json", {})
    with pytest.raises(HistoError, match="the run 'net-seed9' has not finished an epoch") as caught:
        find_checkpoint(workspace, "net-seed9")
    assert caught.value.hint == "histo train --resume --name net-seed9"
    (workspace.run_dir("net-seed10") / "best.pt").mkdir()
    with pytest.raises(HistoError, match=r"best\.pt is not a file"):
        find_checkpoint(workspace, "net-seed10")
    with pytest.raises(HistoError, match="'net' is the common name of 2 runs, and not a checkpoint") as caught:
        find_checkpoint(workspace, "net")
    assert caught.value.hint == "for the mean of their probabilities: --ckpt net-seed9 --ckpt net-seed10"
