"""A small complete workspace that is made once, and a copy of it for each test that damages it."""

import shutil
import sys

import pytest

from tests.faults.processes import histo

TINY = ["--batch-size", 8, "--device", "cpu", "--epochs", 2]
TRAIN = ["train", *TINY, "--name", "killed"]


@pytest.fixture(scope="session")
def trained_workspace(tmp_path_factory):
    """72 synthetic patches, 32 of them in the balanced subset, and a run of two epochs, `first`."""
    root = tmp_path_factory.mktemp("made") / "workspace"
    histo(root, "download", "--source", "synthetic", "--n", 72)
    histo(root, "balance", "--n", 32, "--val-fraction", 0.25)
    histo(root, "train", *TINY, "--name", "first")
    return root


@pytest.fixture
def root(trained_workspace, tmp_path):
    """Return a copy of the workspace, which a test may damage."""
    return shutil.copytree(trained_workspace, tmp_path / "workspace")


def pytest_terminal_summary(terminalreporter):
    """Print the number of inputs that the fuzz tests tried."""
    tried = getattr(sys.modules.get("tests.faults.test_fuzz"), "TRIED", None)
    if tried:
        counts = ", ".join(f"{count:,} {what}" for what, count in tried.items())
        terminalreporter.write_line(f"{tried.total():,} inputs tried: {counts}")
