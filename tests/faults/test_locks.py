"""Two `histo` processes in one workspace: only one writes, the other gets an error, and readers do not wait."""

import errno
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest

from histocli.atomic import write_atomically
from histocli.errors import HistoError
from histocli.locks import HeldError, hold, is_held
from histocli.models.checkpoint import load_checkpoint
from histocli.temporary import make_temporary, remove_strays
from tests.faults.conftest import TINY
from tests.faults.processes import Process, histo
from tests.faults.trees import check_whole, differences, tree
from tests.sources.pcam_layout import file_name
from tests.sources.server import FileServer, Reply

LONG = ["train", *TINY, "--epochs", 1000]


@pytest.fixture
def training(root):
    """Yield a suspended process that trains the run `long`; kill it at the end."""
    process = Process(root, *LONG, "--name", "long")
    process.until(lambda: (root / "runs" / "long" / "last.pt").is_file())
    process.signal(signal.SIGSTOP)
    yield process
    if process.code is None:
        process.kill()


@pytest.fixture
def packing(root):
    """Yield a suspended process that packs the data set `large`; kill it at the end."""
    process = Process(root, "download", "--source", "synthetic", "--n", 50_000, "--name", "large")
    # The process locks its temporary file before it writes the first byte.
    process.until(lambda: any(path.stat().st_size for path in (root / "data" / "large").glob(".patches*")))
    process.signal(signal.SIGSTOP)
    yield process
    if process.code is None:
        process.kill()


def by(process):
    return f"process {process.pid} on {socket.gethostname()}"


def test_a_second_process_cannot_train_the_same_run(root, training):
    for line in (["train", "--resume", "--name", "long"], [*LONG, "--name", "long"]):
        refused = histo(root, *line, code=1)
        if "--resume" in line:
            assert f"error: another histo process is using run 'long': {by(training)}" in refused.stderr
        else:
            assert "error: there is a run 'long' already" in refused.stderr
    check_whole(root)


def test_the_run_of_a_killed_process_can_be_resumed(root, training):
    assert by(training) in (root / "runs" / ".long.lock").read_text()
    training.kill()
    assert (root / "runs" / ".long.lock").exists()  # stale
    process = Process(root, "train", "--resume", "--name", "long")
    process.until(lambda: by(process) in (root / "runs" / ".long.lock").read_text())
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.stderr
    assert not list(root.rglob(".*"))


def test_a_lock_does_not_stop_readers_and_other_runs(root, training, packing):
    """All other commands work while one process trains a run and another packs a data set."""
    for line in (
        ["eval", "--ckpt", "first", "--device", "cpu"],
        ["predict", "synthetic", "--ckpt", "first", "--device", "cpu"],
        ["balance", "--n", 24],
        ["download", "--source", "synthetic", "--n", 60, "--name", "small"],
        ["plot"],
        ["train", *TINY, "--epochs", 1, "--name", "beside"],
    ):
        histo(root, *line)
    for process in (training, packing):
        process.signal(signal.SIGTERM)  # heard when it goes on
        process.signal(signal.SIGCONT)
        assert process.wait() == 143
    check_whole(root)
    assert not list(root.rglob(".*"))


def test_two_runs_at_the_same_time_give_the_same_results_as_alone(root, tmp_path):
    lines = {name: ["train", *TINY, "--seed", seed, "--name", name] for seed, name in enumerate(("one", "two"))}
    alone = {}
    for name, line in lines.items():
        histo(root, *line)
        alone[name] = tree(root / "runs" / name)
        (root / "runs" / name).rename(tmp_path / name)
    together = [Process(root, *line) for line in lines.values()]
    assert [process.wait() for process in together] == [0, 0]
    for name in lines:
        assert differences(tree(root / "runs" / name), alone[name]) == []
    newest = [load_checkpoint(root / "checkpoints" / name).run for name in ("best.pt", "last.pt")]
    assert newest in (["one", "one"], ["two", "two"])


def test_a_second_process_cannot_pack_the_same_data_set(root, packing):
    line = ["download", "--source", "synthetic", "--n", 60, "--name", "large"]
    refused = histo(root, *line, code=1)
    assert f"error: another histo process is using data set 'large': {by(packing)}" in refused.stderr
    packing.kill()
    assert list((root / "data" / "large").glob(".*.tmp"))
    histo(root, *line)
    assert not list(root.rglob(".*"))
    check_whole(root)


def test_temporary_files_of_a_killed_process_are_removed_even_if_the_data_set_exists(root):
    before = tree(root)
    (root / "data" / ".synthetic.lock").write_text("process 1 on a machine")
    (root / "data" / "synthetic" / f".manifest.csv.{'0' * 16}.tmp").write_text("id,la")
    again = histo(root, "download", "--source", "synthetic", "--n", 72)
    assert "nothing to do" in again.stderr
    assert differences(tree(root), before) == []


def test_only_one_of_several_processes_downloads_a_file(root, pcam_files):
    with FileServer(pcam_files) as server:
        server.script(file_name("valid", "x") + ".h5.gz", Reply(stall_after=20_000))
        first, second = (
            ["download", "--source", "pcam", "--from", server.url().rstrip("/"), "--name", name] for name in "ab"
        )
        process = Process(root, *first, NO_PROXY="*")
        part = root / "downloads" / (file_name("valid", "x") + ".h5.gz.part")
        process.until(lambda: part.is_file() and part.stat().st_size >= 20_000)
        refused = histo(root, *second, code=1, NO_PROXY="*")
        assert re.search(rf"another histo process is using PCam's files in .*: {by(process)}", refused.stderr)
        process.kill()
        histo(root, *second, NO_PROXY="*")
    check_whole(root)
    assert not list(root.rglob(".*"))


# the locks themselves


def test_a_waiting_process_gets_the_lock_when_it_is_released(tmp_path):
    order = []

    def work(name):
        with hold(tmp_path / "lock", "it", wait=True):
            order.append(name)
            order.append(name)

    threads = [threading.Thread(target=work, args=[i]) for i in range(8)]
    with hold(tmp_path / "lock", "it"):
        for thread in threads:
            thread.start()
        with pytest.raises(HeldError, match=rf"using it: process {os.getpid()} on {socket.gethostname()}"):
            hold(tmp_path / "lock", "it").__enter__()
        assert order == []
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(8))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_may_only_be_read_is_seen(tmp_path, monkeypatch):
    """Such is the lock of another user; root may write every file, so permissions alone do not show this."""
    real = os.open

    def open_for_reading(path, flags, *rest, **options):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *rest, **options)

    (tmp_path / "stale").write_text("process 1 on a machine")
    with hold(tmp_path / "lock", "it"):
        monkeypatch.setattr(os, "open", open_for_reading)
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        assert is_held(tmp_path / "lock")
        assert not is_held(tmp_path / "stale")


def test_only_temporary_files_of_ended_processes_are_removed(tmp_path):
    (tmp_path / ".x.json.0123456789abcdef.tmp").write_text("a dead one's")
    (tmp_path / ".folder.0123456789abcdef.tmp").mkdir()
    (tmp_path / ".folder.0123456789abcdef.tmp" / "y").write_text("a dead one's too")
    kept = [".x.json.12.tmp", "x.json.0123456789abcdef.tmp", ".hidden", ".x.json.0123456789abcdeg.tmp"]
    for name in kept:
        (tmp_path / name).write_text("somebody else's")
    with make_temporary(tmp_path / "z") as living, make_temporary(tmp_path / "f", folder=True) as folder:
        remove_strays(tmp_path)
        assert living.exists()
        assert folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    with write_atomically(tmp_path / "x.json") as temporary:
        (tmp_path / ".y.json.0123456789abcdef.tmp").write_text("of another file")
        temporary.write_text("{}")
    assert (tmp_path / ".y.json.0123456789abcdef.tmp").exists()


def test_a_temporary_file_of_a_running_process_is_not_removed(root, packing):
    [path] = (root / "data" / "large").glob(".*.tmp")
    remove_strays(path.parent)
    assert path.exists()
    packing.kill()
    remove_strays(path.parent)
    assert not path.exists()


def test_child_processes_do_not_inherit_a_lock(tmp_path):
    """A program that a process starts with `exec` does not inherit its locks."""
    with hold(tmp_path / "lock", "it"):
        child = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)
    try:
        with hold(tmp_path / "lock", "it"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which no file can be made")
def test_a_lock_that_cannot_be_made_is_an_error():
    with pytest.raises(HistoError, match=r"cannot write /proc/x\.lock"), hold(Path("/proc/x.lock"), "it"):
        pass
