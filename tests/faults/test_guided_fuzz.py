"""A short coverage-guided fuzz test of each reader; `FUZZ=20` makes it longer, and keeps what it finds."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.faults.guided_fuzz import HERE, TARGETS
from tests.faults.processes import ALONE

IS_LONG = "FUZZ" in os.environ
SECONDS, SEED = (20, 0) if IS_LONG else (5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_change_of_a_file_leads_to_a_fault(tmp_path, target):
    pytest.importorskip("atheris", reason="atheris is not installed: it has wheels for Linux on x86-64 only")
    kept = HERE if IS_LONG else tmp_path / "kept"
    known = names(HERE, target)
    options = ["--keep", kept, "--seed", SEED]
    line = ["-m", "tests.faults.guided_fuzz", target, SECONDS, tmp_path / "fuzz", *options]
    process = subprocess.run(
        [sys.executable, *map(str, line)], env=os.environ | ALONE, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Done " in process.stdout  # libFuzzer's last line
    assert known <= names(kept, target)


def names(folder, target):
    with zipfile.ZipFile(folder / "fuzz_corpus" / f"{target}.zip") as archive:
        return set(archive.namelist())
