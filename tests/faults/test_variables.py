"""Environment variables with values that no tool gives them: one error, and no process waits for another."""

import pytest

from tests.faults.processes import histo

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


def test_a_nonsensical_launcher_is_not_watched(trained_workspace):
    histo(trained_workspace, *RUNS, TORCHELASTIC_RUN_ID="x", HISTO_LAUNCHER="x")
