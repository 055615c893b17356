"""`kill -9` at any moment: the workspace stays valid, and the same command again gives the result without a kill."""

import random
import shutil
import time

import pytest

from tests.faults.conftest import TRAIN
from tests.faults.processes import Process, histo
from tests.faults.trees import check_whole, differences, tree
from tests.sources.server import FileServer

KILLS, CHAIN = 20, 4  # of each command; so many one after the other before it may end
COMMANDS = {
    "download": ["download", "--source", "pcam", "--name", "small"],
    "balance": ["balance", "--n", 24, "--seed", 1],
    "train": TRAIN,
    "eval": ["eval", "--ckpt", "first", "--device", "cpu"],
    "predict": ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--out", "preds.csv"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(pcam_files):
    with FileServer(pcam_files) as server:
        yield server


def again(line, root):
    """Return the same command, with --resume if the run exists."""
    return [*line, "--resume"] if line[0] == "train" and (root / "runs" / "killed").exists() else line


def kill_once(root, line, chance, seconds, operations):
    """Kill the command at a random moment: of the clock, or of its work on files. Whether it was not over by then."""
    if chance.random() < 0.5:
        return Process(root, *again(line, root), kill_at=chance.randrange(operations), NO_PROXY="*").wait() < 0
    process = Process(root, *again(line, root), NO_PROXY="*")
    time.sleep(chance.uniform(0, seconds))
    return process.kill() < 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_run_again_ends_as_if_never_killed(made, tmp_path, server, name):
    root, chance = tmp_path / "workspace", random.Random(name)
    line = [root / part if part == "preds.csv" else part for part in COMMANDS[name]]
    line += ["--from", server.url().rstrip("/")] if name == "download" else []
    shutil.copytree(made, root)
    began = time.monotonic()
    histo(root, *line, kill_at=-1, NO_PROXY="*")
    seconds, operations = time.monotonic() - began, int((tmp_path / "workspace.operations").read_text())
    undisturbed = tree(root)
    killed = 0
    while killed < KILLS:
        shutil.rmtree(root)
        shutil.copytree(made, root)
        for _ in range(CHAIN):
            killed += kill_once(root, line, chance, seconds, operations)
            check_whole(root)
        histo(root, *again(line, root), NO_PROXY="*")
        assert differences(tree(root), undisturbed) == []
