"""Environment variables with values that no tool gives them: one error, and no process waits for another."""

import os
import shutil
import signal
import time
from pathlib import Path
from threading import Timer

import pytest

from tests.cli import Histo
from tests.faults.processes import Process, histo

pytestmark = pytest.mark.attack

RUNS = ["runs"]
RANKS = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "x"),
        ("RANK", "-1"),
        ("RANK", "1"),
        ("RANK", "9" * 5000),
        ("RANK", "\x1b[31m"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", ""),
        ("MASTER_PORT", "99999"),
        ("LOCAL_RANK", "٣"),
    ],
)
def test_a_variable_of_torchrun_with_a_nonsensical_value_is_one_error(trained_workspace, name, value):
    process = histo(trained_workspace, *RUNS, **RANKS | {name: value}, code=2)
    assert process.stderr.count("error: ") == 1
    assert f"error: the environment variable {name} is '" in process.stderr
    assert "\x1b" not in process.stderr
    assert len(process.stderr) < 500


@pytest.mark.parametrize("kind", ["text", "pipe", "folder", "device", "link", "no folder"])
def test_a_file_through_which_no_processes_can_connect_is_refused_unchanged(trained_workspace, tmp_path, kind):
    """torch waited without end, Ctrl-C had no effect, and it could write into the file."""
    path = tmp_path / "x"
    if kind == "text":
        path.write_text("id,label\na,1\n")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = os.devnull
    elif kind == "link":
        path.symlink_to(tmp_path / "target")
    else:
        path = path / "x"
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--out", tmp_path / "out.csv"]
    process = Process(trained_workspace, *line, **RANKS | {"HISTO_RENDEZVOUS": str(path)})
    overdue = Timer(60, process.signal, [signal.SIGKILL])
    overdue.start()
    assert process.wait() == 2
    overdue.cancel()
    assert process.stderr.count("error: ") == 1
    assert f"error: the environment variable HISTO_RENDEZVOUS is '{path}'" in process.stderr
    assert kind != "text" or path.read_text() == "id,label\na,1\n"
    assert not (tmp_path / "target").exists()


ABSENT = [{"MASTER_ADDR": "nowhere.invalid"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "1"}]
ABSENT += [{"HISTO_RENDEZVOUS": "rendezvous"} | change for change in ABSENT[1:]]
NAMES = ["machine", "process 1", "process 0", "process 1 by a file", "process 0 by a file"]


@pytest.mark.parametrize("change", ABSENT, ids=NAMES)
def test_waiting_for_what_does_not_exist_can_be_interrupted(trained_workspace, tmp_path, change):
    """torch waited for half an hour, and Ctrl-C had no effect."""
    port = str(29517 + ABSENT.index(change))  # so that no two of these tests find each other
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--out", tmp_path / "x.csv"]
    process = Process(trained_workspace, *line, **RANKS | {"MASTER_PORT": port} | change, cwd=tmp_path)
    process.until(lambda: process_waits(process.pid), 60)
    process.signal(signal.SIGINT)
    assert process.wait() == 130


def process_waits(pid):
    """Whether the process sleeps in `_wait_for_store`: it uses no processor for a while."""
    before = processor_ticks(pid)
    time.sleep(0.5)
    return before and processor_ticks(pid) - before <= 2


def processor_ticks(pid):
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_a_nonsensical_launcher_is_not_watched(trained_workspace):
    histo(trained_workspace, *RUNS, TORCHELASTIC_RUN_ID="x", HISTO_LAUNCHER="x")


def test_a_backend_of_matplotlib_that_does_not_exist_is_not_used(trained_workspace, tmp_path):
    workspace = Histo(shutil.copytree(trained_workspace, tmp_path / "workspace"))
    _, messages = workspace.process("plot", "--kind", "balance", env={"MPLBACKEND": "nonsense"})
    assert "done: drew 1 plot" in messages
