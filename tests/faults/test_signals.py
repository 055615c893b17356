"""Signals, closed terminals and closed pipes: the state is saved, and no incomplete files are left."""

import os
import pty
import signal

import pytest

from histocli.models.checkpoint import load_checkpoint
from tests.faults.conftest import TINY
from tests.faults.processes import Process, has_head, histo
from tests.faults.trees import check_whole, differences, tree

LONG = ["train", *TINY, "--epochs", 4, "--name", "long"]


@pytest.fixture
def terminal():
    """Yield a pseudo-terminal: the descriptor of one end and the path of the other."""
    leader, follower = pty.openpty()
    name = os.ttyname(follower)
    os.close(follower)
    open_ends = [leader]
    yield open_ends, name
    for descriptor in open_ends:
        os.close(descriptor)


def state(root, run="long"):
    return load_checkpoint(root / "runs" / run / "last.pt").training


def has_begun(root, run="long"):
    return lambda: (root / "runs" / run / "last.pt").is_file()


def stop_before_validation(process, root):
    """Halt the process when it has saved an epoch whose steps are done: what comes next is the validation."""
    last = root / "runs" / "long" / "last.pt"
    while True:
        seen = last.stat().st_ino
        process.until(lambda seen=seen: last.stat().st_ino != seen)
        process.signal(signal.SIGSTOP)
        if state(root)["epoch_stats"]:
            return
        process.signal(signal.SIGCONT)


def test_sighup_while_training_saves_the_state(root):
    """As SIGINT and SIGTERM do: `commands/test_train.py` has the test of these."""
    process = Process(root, *LONG)
    process.until(lambda: has_head(process))
    process.signal(signal.SIGHUP)
    assert process.wait() == 129
    step = state(root)["trainer"]["step"]
    assert 0 < step < 8
    assert f"error: stopped by a signal after step {step} of 8; the state is saved" in process.stderr
    assert "hint: histo train --resume --name long" in process.stderr
    check_whole(root)
    assert not list(root.rglob(".*"))


def test_a_signal_stops_validation_at_once_and_resuming_validates_again(root, tmp_path):
    histo(root, "balance", "--n", 48, "--val-fraction", 0.7)
    line = ["train", "--device", "cpu", "--batch-size", 2, "--epochs", 2, "--name", "long"]
    histo(root, *line)
    whole = tree(root)
    (root / "runs" / "long").rename(tmp_path / "undisturbed")
    process = Process(root, *line)
    process.until(has_begun(root))
    stop_before_validation(process, root)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGCONT)
    assert process.wait() == 130, process.stderr
    saved = state(root)
    assert saved["epoch_stats"], "it was saved after the validation: the signal came too late to be heard in it"
    assert saved["history"] == []
    resumed = histo(root, "train", "--resume", "--name", "long")
    assert f"resumed after step {saved['trainer']['step']} of" in resumed.stderr
    assert differences(tree(root), whole) == []


def test_a_second_ctrl_c_ends_at_once(root):
    process = Process(root, *LONG)
    process.until(has_begun(root))
    process.signal(signal.SIGSTOP)  # so that both are there before the first is looked at
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGCONT)
    assert process.wait() in (130, 143)
    check_whole(root)
    histo(root, "train", "--resume", "--name", "long")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_packing_leaves_no_files(root, number):
    before = tree(root)
    process = Process(root, "download", "--source", "synthetic", "--n", 50_000, "--name", "large")
    process.until(lambda: any((root / "data" / "large").glob(".patches*")) if (root / "data").is_dir() else False)
    process.signal(number)
    assert process.wait() == 128 + number
    assert differences(tree(root), before) == []


def test_a_closed_terminal_saves_the_state(root, terminal):
    """The kernel sends SIGHUP, and writing to the terminal is an error from then on."""
    open_ends, name = terminal
    process = Process(root, *LONG, tty=name)
    process.until(has_begun(root))
    os.close(open_ends.pop())
    assert process.wait() == 129
    step = state(root)["trainer"]["step"]
    histo(root, "train", "--resume", "--name", "long")
    assert state(root)["trainer"]["step"] >= step
    check_whole(root)


def test_training_under_nohup_continues_after_the_terminal_is_closed(root, terminal):
    open_ends, name = terminal
    process = Process(root, *LONG, tty=name, ignore=[signal.SIGHUP])
    process.until(has_begun(root))
    os.close(open_ends.pop())
    assert process.wait() == 0
    assert len(state(root)["history"]) == 4


def test_a_closed_stderr_does_not_end_the_command(root):
    """`histo train 2>&1 | head -1`"""
    reader, writer = os.pipe()
    process = Process(root, *LONG, stderr=f"/proc/{os.getpid()}/fd/{writer}")
    process.until_read(reader)
    os.close(writer)
    os.close(reader)
    assert process.wait() == 0
    assert len(state(root)["history"]) == 4
