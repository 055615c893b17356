"""Paths in the workspace, and atomic writes to it."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.atomic import read_json, write_atomically, write_json, write_text
from histocli.errors import HistoError, UsageError
from histocli.fs import measure_folder
from histocli.workspace import Workspace, check_name


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def test_every_path_is_below_the_root_and_no_folder_is_created(workspace):
    root = workspace.root
    assert workspace.patches_path("a") == root / "data" / "a" / "patches.npy"
    assert workspace.dataset_path("a") == root / "data" / "a" / "dataset.json"
    assert workspace.manifest_path("a") == root / "manifests" / "a.csv"
    assert workspace.run_dir("r") == root / "runs" / "r"
    folders = (workspace.downloads_dir, workspace.checkpoints_dir, workspace.metrics_dir, workspace.plots_dir)
    assert [path.parent for path in folders] == [root] * 4
    assert workspace.list_datasets() == []
    assert workspace.list_runs() == []
    assert not root.exists()


def test_the_root_may_be_text(workspace):
    assert Workspace(str(workspace.root)) == workspace
    assert Workspace(str(workspace.root)).runs_dir == workspace.runs_dir


def test_finished_data_sets_and_started_runs_are_listed(workspace):
    for name in ("b", "a"):
        write_json(workspace.dataset_path(name), {})
    workspace.dataset_dir("half").mkdir()
    assert workspace.list_datasets() == ["a", "b"]
    for name, started, trained in (("first", 1, 2), ("third", 0, 4), ("second", 3, None)):
        for file, time in (("config.json", started), ("last.pt", trained)):
            if time is not None:
                write_json(workspace.run_dir(name) / file, {})
                os.utime(workspace.run_dir(name) / file, (time, time))
    workspace.run_dir("empty").mkdir()
    assert workspace.list_runs() == ["first", "second", "third"]  # by when they were trained last


@pytest.mark.parametrize("name", ["a", "pcam", "2024-01-31_run.2", "A" * 100, "console", "com10"])
def test_valid_names_are_accepted(name):
    assert check_name(name, "run") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "a\\b",
        "/a",
        "a b",
        "a\n",
        "ä",
        "-a",
        "_a",
        "a.",
        "A" * 101,
        "con",
        "NUL.csv",
        "lpt1",
    ],
)
def test_names_that_are_invalid_on_some_platform_are_refused(workspace, name):
    with pytest.raises(UsageError, match="cannot name a"):
        check_name(name, "run")
    for path in (workspace.dataset_dir, workspace.manifest_path, workspace.run_dir):
        with pytest.raises(UsageError, match="cannot name a"):
            path(name)


@given(st.text(max_size=12))
@settings(max_examples=100, deadline=None)
def test_no_name_can_be_a_path_outside_its_folder(tmp_path_factory, name):
    workspace = Workspace(tmp_path_factory.getbasetemp())
    try:
        path = workspace.run_dir(name)
    except UsageError:
        return
    assert path.resolve().parent == workspace.runs_dir.resolve()


# atomic writes


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_complete_file_appears_in_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert files_in(path.parent) == ["x.txt"]


def test_a_file_that_is_renamed_while_a_folder_is_measured_is_left_out(tmp_path, monkeypatch):
    for name in ("a", "sub/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    real = Path.lstat

    def rename_first(path):
        if path.name == "a":
            path.rename(tmp_path / "c")
        return real(path)

    monkeypatch.setattr(Path, "lstat", rename_first)
    assert measure_folder(tmp_path) == 3


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, HistoError])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write():
        with write_atomically(path) as temporary:
            temporary.write_text("new")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        write()
    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["x.txt"]


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path):
    def write():
        with write_atomically(tmp_path / "x.npy"), open("/dev/full", "wb") as full:  # noqa: PTH123
            full.write(b"x" * 100_000)

    with pytest.raises(HistoError, match=r"cannot write .*x\.npy: No space left on device") as raised:
        write()
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC
    assert raised.value.hint
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["file/x.txt", "file/deeper/x.txt", "folder", "x" * 300])
def test_a_folder_without_permission_is_an_error_that_names_the_file(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(HistoError, match="cannot write"):
        write_text(tmp_path / name, "x")
    assert files_in(tmp_path) == ["file", "folder"]


def test_text_is_utf8_with_line_feeds(tmp_path):
    write_text(tmp_path / "x.txt", "ä\n中\n")
    assert (tmp_path / "x.txt").read_bytes() == "ä\n中\n".encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(max_examples=50, deadline=None)
def test_json_is_read_back_as_it_was_written(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "x.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_nan_and_infinity_are_never_written_as_json(tmp_path, value):
    path = tmp_path / "x.json"
    write_json(path, {"auc": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"auc": value})
    assert json.loads(path.read_text()) == {"auc": 0.5}
    assert files_in(tmp_path) == ["x.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_invalid_json_is_an_error_that_names_the_file(tmp_path, data):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(HistoError, match=r"cannot read .*x\.json"):
        read_json(path)


def test_a_missing_json_is_an_error_that_names_it(tmp_path):
    with pytest.raises(HistoError, match=r"there is no .*x\.json"):
        read_json(tmp_path / "x.json")
    with pytest.raises(HistoError, match="is not a file"):
        read_json(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "link", "link to a file", "folder"])
def test_what_is_not_a_file_is_not_replaced(tmp_path, kind):
    path, target = tmp_path / "x.json", tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
        if kind == "link to a file":
            target.write_text("theirs")
    before = path.lstat()
    with pytest.raises(HistoError, match=f"cannot write {path}: it is a {kind.split()[0]}"):
        write_json(path, {})
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert not target.exists() or target.read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} <= {"x.json", "target"}
