"""A short coverage-guided fuzz test of each reader; `FUZZ=20` makes it longer, and keeps what it finds."""

import os
import subprocess
import sys

import pytest

from tests.faults.guided_fuzz import TARGETS
from tests.faults.processes import ALONE

IS_LONG = "FUZZ" in os.environ
SECONDS = 20 if IS_LONG else 5


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_change_of_a_file_leads_to_a_fault(tmp_path, target):
    pytest.importorskip("atheris", reason="atheris is not installed: it has wheels for Linux on x86-64 only")
    line = ["-m", "tests.faults.guided_fuzz", target, str(SECONDS), tmp_path / "fuzz", *(["--keep"] if IS_LONG else [])]
    done = subprocess.run([sys.executable, *line], env=os.environ | ALONE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Done " in done.stdout  # libFuzzer's last line
