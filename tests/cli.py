"""Run `histo` as a user does, in this process or in another one, on a copy of a small workspace."""

import atexit
import csv
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from histocli.cli import app

typer.testing._get_command = cache(typer.main.get_command)  # else all commands are built again at each call

REPOSITORY = Path(__file__).parents[1]
PATCHES = 320  # in the template workspace: synthetic, from 8 slides
SUBSET = 64  # patches in balanced.csv
TRAIN = ["train", "--batch-size", 16, "--device", "cpu"]
SMALL_TRAIN = [*TRAIN, "--arch", "histonet-64"]  # for tests in which the network is not important
# One step of a small network: for tests in which the weights of a run are not important.
QUICK = [*SMALL_TRAIN, "--shots", 8, "--epochs", 1]
PREDICT = ["predict", "--device", "cpu"]


class Histo:
    """Runs commands on one workspace; `code` is the expected exit code."""

    def __init__(self, root):
        self.root = Path(root)

    def line(self, args):
        return ["-w", str(self.root), *map(str, args)]

    def __call__(self, *args, code=0, stdin=None):
        result = CliRunner().invoke(app, self.line(args), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def fails(self, *args, code=1):
        """Run a command that fails, and return the text of its error and of its hint; stdout must be empty."""
        result = self(*args, code=code)
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        error, _, hint = result.stderr[result.stderr.index("error: ") :].partition("hint: ")
        return error.removeprefix("error: ").strip(), hint.strip()

    def start(self, *args, **options):
        """Start the command in another process."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = os.environ | {"PYTHONPATH": str(REPOSITORY)} | options.pop("env", {})
        return subprocess.Popen([sys.executable, "-m", "histocli", *self.line(args)], env=env, **pipes | options)

    def process(self, *args, code=0, **options):
        """Run the command in another process; return its stdout and its stderr."""
        with self.start(*args, **options) as process:
            stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == code, stderr
        return stdout, stderr


def table(text):
    """Return the rows of a CSV text."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read_rows(path):
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Write rows with the same columns as a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_images(histo, folder, n=12):
    """Write the first `n` patches of the data set as PNG files, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")
    paths = [folder / f"patch-{i:02}.png" for i in range(n)]
    for path, patch in zip(paths, patches, strict=False):
        path.write_bytes(cv2.imencode(".png", cv2.cvtColor(patch, cv2.COLOR_RGB2BGR))[1].tobytes())
    return paths


@contextmanager
def pseudo_terminal():
    """Yield the descriptor of a terminal, and a list; at the end of this block the list has all that was printed."""
    leader, follower = pty.openpty()
    shown = []

    def read():  # all the time: a terminal takes 4 KiB, and then lets the process wait
        with suppress(OSError):  # the other end is closed
            while block := os.read(leader, 1 << 16):
                shown.append(block)

    reader = Thread(target=read)
    reader.start()
    try:
        yield follower, shown
    finally:
        os.close(follower)
        reader.join(10)
        os.close(leader)


def make_folder_for_all_tests():
    """Make a temporary folder that is removed when the tests have ended."""
    root = Path(tempfile.mkdtemp(prefix="histo-tests-"))
    atexit.register(shutil.rmtree, root)
    return root


def copy_for_all_tests(root):
    """Return `histo` for a copy of a workspace that is removed when the tests have ended; tests copy it again."""
    return Histo(shutil.copytree(root, make_folder_for_all_tests(), dirs_exist_ok=True))


@cache
def template():
    """Make a workspace with a data set, a balanced subset and a run of two epochs, `first`; return its path."""
    histo = Histo(make_folder_for_all_tests())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as `one_thread`, whichever fixture is the first
        histo("download", "--source", "synthetic", "--n", PATCHES)
        histo("balance", "--n", SUBSET, "--val-fraction", 0.25)
        histo(*TRAIN, "--epochs", 2, "--name", "first")
    return histo.root


@cache
def template_of_two_runs():
    """Make a copy of the template with a second run, `second`, of one epoch and another seed; return its path."""
    histo = copy_for_all_tests(template())
    histo(*TRAIN, "--epochs", 1, "--name", "second", "--seed", 3)
    return histo.root


@cache
def template_with_evaluation():
    """Make a copy of the template in which `first` is evaluated on its validation patches; return its path."""
    histo = copy_for_all_tests(template())
    histo("eval", "--ckpt", "first", "--device", "cpu")
    return histo.root


@pytest.fixture
def one_thread(monkeypatch):
    """Compute with one thread: the last bits of a sum depend on the number of threads, and tests run in parallel."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def empty(one_thread, tmp_path):
    """Return `histo` for a workspace that does not exist yet."""
    return Histo(tmp_path / "not-yet")


@pytest.fixture
def histo(one_thread, tmp_path):
    """Return `histo` for a copy of the template workspace."""
    return Histo(shutil.copytree(template(), tmp_path / "workspace"))


@pytest.fixture
def evaluated_run(one_thread, tmp_path):
    """Return `histo` for a copy of the workspace with an evaluation of the run `first`."""
    return Histo(shutil.copytree(template_with_evaluation(), tmp_path / "evaluated"))


@pytest.fixture
def two_runs(one_thread, tmp_path):
    """Return `histo` for a copy of the workspace with the runs `first` and `second`."""
    return Histo(shutil.copytree(template_of_two_runs(), tmp_path / "two-runs"))


def rename_slides(histo, slides):
    """Give the patches of `synthetic` this number of slides, in turn."""
    path = histo.root / "manifests" / "synthetic.csv"
    write_rows(path, [row | {"slide": f"renamed_{i % slides}"} for i, row in enumerate(read_rows(path))])
