"""The processes of a job end with the program that launched them, whatever happens to it."""

import os
import signal
import sys
import time

import pytest

from histocli.models.checkpoint import load_checkpoint
from tests.cli import TRAIN
from tests.compute.test_distributed import members, torchrun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.attack,
    pytest.mark.skipif(sys.platform != "linux", reason="the processes of a job are found in /proc"),
]
BOUND = 120  # seconds; on a busy machine three steps and a save take long


def begin(histo, launch):
    """Start a long training in two processes, and return the launcher and the processes when it has trained a while."""
    line = histo.line([*TRAIN, "--shots", 8, "--epochs", 500, "--name", "long"])
    if launch == "torchrun":
        with torchrun("-m", "histocli", *line) as job:
            wait_for(job, histo)
            yield job, list(members(job).values())
    else:
        job = histo.start(*TRAIN, "--shots", 8, "--epochs", 500, "--name", "long", "--processes", 2)
        try:
            wait_for(job, histo)
            yield job, list(members(job).values())
        finally:
            job.kill()
            job.communicate(timeout=60)


def wait_for(job, histo):
    history = histo.root / "runs" / "long" / "history.jsonl"
    while not (history.is_file() and history.read_text()):
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.1)


def wait_for_end(pids):
    began = time.monotonic()
    try:
        while any(map(is_alive, pids)):
            assert time.monotonic() - began < BOUND, "they train on"
            time.sleep(0.1)
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("launch", ["torchrun", "--processes"])
def test_processes_save_and_end_when_their_launcher_is_killed(histo, launch):
    for job, pids in begin(histo, launch):
        assert len(pids) == 2
        job.send_signal(signal.SIGKILL)
        wait_for_end(pids)
    last = load_checkpoint(histo.root / "runs" / "long" / "last.pt")
    assert last.training["trainer"]["step"] > 0
    histo("balance", "--n", 24, "--name", "other")  # no lock is left
    epochs = len(last.training["history"])
    stopped = histo("train", "--resume", "--name", "long", "--epochs", 2, code=2)  # the run can be opened
    assert "the run has 500 epochs" in stopped.stderr
    assert epochs >= 1


def test_processes_save_and_end_when_their_launcher_is_asked_to_end(histo):
    for job, pids in begin(histo, "--processes"):
        job.send_signal(signal.SIGTERM)
        wait_for_end([*pids, job.pid])
        assert "the state is saved" in job.stderr.read()
