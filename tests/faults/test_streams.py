"""Standard streams that are closed or full, users without a home, folders that cannot be written: no result is lost."""

from io import BytesIO, TextIOWrapper
from itertools import combinations

import pytest

from histocli.errors import HistoError
from histocli.inference.path_list import read_stdin_lines
from histocli.training.run_folder import require_folder
from tests.cli import Histo
from tests.faults.processes import Process, histo
from tests.faults.trees import check_whole, differences, tree

pytestmark = pytest.mark.attack

EVAL = ["eval", "--ckpt", "first", "--device", "cpu"]
PREDICT = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu"]
CLOSED = [list(some) for count in (1, 2, 3) for some in combinations(range(3), count)]
HOMELESS = {"homeless": True}


def without(*closed, **options):
    """Options of a process that begins with some standard streams closed."""
    return {"faults": {"closed": closed}, **options}


def check(process, root):
    """Neither traceback nor bug, and no message went to a file that got the number of a closed stream."""
    assert "Traceback" not in process.stderr
    assert "bug" not in process.stderr
    assert not [path for path in root.rglob("*") if path.is_file() and b"patches scored" in path.read_bytes()]


def test_a_file_is_written_whatever_streams_are_closed(root, tmp_path):
    histo(root, *PREDICT, "--out", tmp_path / "expected.csv")
    for closed in CLOSED:
        process = histo(root, *PREDICT, "--out", tmp_path / "preds.csv", **without(*closed))
        assert (tmp_path / "preds.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
        check(process, root)
        (tmp_path / "preds.csv").unlink()


@pytest.mark.parametrize("closed", [[1], [0, 1], [1, 2]], ids=str)
@pytest.mark.parametrize("line", [PREDICT, [*EVAL, "--json"]], ids=["predict", "eval"])
def test_a_result_that_cannot_be_written_to_stdout_is_an_error(root, closed, line):
    process = histo(root, *line, **without(*closed), code=1)
    if 2 not in closed:
        assert "error: cannot write the result to stdout: it is closed" in process.stderr
    check(process, root)


def test_a_list_that_cannot_be_read_is_an_error(root, tmp_path):
    for out in ([], ["--out", tmp_path / "preds.csv"]):
        process = histo(root, "predict", "-", *PREDICT[2:], *out, **without(0), code=1)
        assert "error: cannot read paths from stdin: it is closed" in process.stderr
        check(process, root)
    assert not (tmp_path / "preds.csv").exists()


@pytest.mark.parametrize("out", [[], ["--out", "preds.csv"]], ids=str)
def test_a_list_that_is_one_endless_line_is_refused_in_little_memory(root, tmp_path, out):
    line = ["predict", "-", *PREDICT[2:], *out]
    process = histo(root, *line, code=1, stdin="/dev/zero", limits={"memory": 600 << 20}, cwd=tmp_path)
    assert "error: line 1 on stdin has 65,536 bytes or more, which no path has" in process.stderr
    assert not (tmp_path / "preds.csv").exists()


def test_a_list_on_stdin_has_a_largest_number_of_lines(monkeypatch):
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"a.png\n" * 5)))
    with pytest.raises(HistoError, match="the list on stdin has more than 4 lines"):
        list(read_stdin_lines(4))
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"a.png\n" * 4 + b"b.png")))
    assert len(list(read_stdin_lines(5))) == 5


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["train", "--help"], ["no-such-command"], ["train", "--epochs", "x"]], ids=str
)
def test_help_and_usage_errors_need_no_stream(root, args):
    is_wrong = "x" in args or "no-such-command" in args
    for closed in ([0], [1], [2], [0, 1, 2]):
        process = Process(root, *args, **without(*closed))
        assert process.wait() == (2 if is_wrong else int(1 in closed)), process.stderr
        assert "Traceback" not in process.stderr


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["train", "--help"]], ids=str)
def test_help_on_a_full_disk_is_one_error(root, args):
    process = histo(root, *args, stdout="/dev/full", code=1)
    assert "Traceback" not in process.stderr
    assert process.stderr.count("error: cannot write the result to stdout: No space left on device") == 1


def test_messages_that_cannot_be_written_to_stderr_do_not_end_the_command(root):
    before = tree(root)
    for number, options in enumerate(({"stderr": "/dev/full"}, without(2))):
        histo(root, "balance", "--n", 24, "--name", f"other{number}", **options)
    assert len(differences(tree(root), before)) == 4


def test_a_user_without_a_home_names_a_workspace(root, tmp_path):
    for args in (["balance", "--n", 24, "--name", "other"], EVAL, ["plot"]):
        check(histo(root, *args, faults=HOMELESS, cwd=tmp_path), root)
    for args in (["train", "--help"], ["--help"], ["--version"]):
        histo(root, *args, faults=HOMELESS, bare=True, cwd=tmp_path)
    process = histo(root, "balance", faults=HOMELESS, bare=True, cwd=tmp_path, code=2)
    assert "error: this user has no home folder for the workspace" in process.stderr
    assert "hint: give a folder with --workspace" in process.stderr
    assert not (tmp_path / "~").exists()


def test_a_bug_is_reported_where_no_log_can_be_written(root, tmp_path):
    for faults, env in (
        ({}, {}),
        (HOMELESS, {}),
        (HOMELESS, {"TMPDIR": "/dev/null"}),
        ({}, {"HOME": "/dev/null", "XDG_STATE_HOME": "/dev/null"}),
    ):
        process = histo(root, "plot", cwd=tmp_path, faults={"bug": True} | faults, **env, code=3)
        assert process.stderr.count("error: this is a bug in histo: ZeroDivisionError") == 1
        assert "hint: its traceback is in /" in process.stderr or "its traceback is: Traceback" in process.stderr
        assert "During handling of the above" not in process.stderr
    assert not (tmp_path / "~").exists()


def test_a_workspace_that_is_moved_during_training_is_not_made_again(root, tmp_path):
    process = Process(root, "train", "--device", "cpu", "--batch-size", 8, "--epochs", 200, "--name", "long")
    history = root / "runs" / "long" / "history.jsonl"
    process.until(lambda: history.is_file() and history.read_text())
    root.rename(tmp_path / "moved")
    assert process.wait() == 1
    assert f"error: {root}/runs/long is gone: it was moved or deleted during the training" in process.stderr
    assert "hint: move it back, and continue: histo train --resume --name long" in process.stderr
    assert not [path for path in root.rglob("*") if path.is_file()]
    check_whole(tmp_path / "moved")


def test_a_folder_that_is_moved_while_it_is_written_is_named(tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    with pytest.raises(PermissionError), require_folder(folder, "long"):
        raise PermissionError

    def write():
        with require_folder(folder, "long"):
            folder.rename(tmp_path / "moved")
            (folder / "last.pt").write_bytes(b"")

    with pytest.raises(HistoError, match="long is gone: it was moved or deleted during the training"):
        write()


def test_packed_patches_that_were_cut_short_are_named(root):
    path = root / "data" / "synthetic" / "patches.npy"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    for line in (PREDICT, [*EVAL, "--data", "synthetic"], ["train", "--device", "cpu", "--name", "new"]):
        process = histo(root, *line, code=1)
        assert f"error: cannot read {path}" in process.stderr
        assert "hint: histo download --force packs it again" in process.stderr


def test_a_current_folder_that_was_deleted_is_one_error(trained_workspace, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    for line in (["runs"], PREDICT):
        error, hint = Histo(trained_workspace).fails(*line)
        assert (error, hint) == ("the current folder was deleted", "change to a folder that exists: cd")
