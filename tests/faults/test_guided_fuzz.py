"""A short coverage-guided fuzz test of each reader; `FUZZ=20` makes it longer, and keeps what it finds."""

import os
import zipfile

import pytest

from tests.faults.guided_fuzz import HERE, TARGETS, Server

IS_LONG = "FUZZ" in os.environ
SECONDS, SEED = (20, 0) if IS_LONG else (None, 1)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("atheris", reason="atheris is not installed: it has wheels for Linux on x86-64 only")
    with Server() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_change_of_a_file_leads_to_a_fault(server, tmp_path, target):
    kept = HERE if IS_LONG else tmp_path / "kept"
    known = names(HERE, target)
    code, text = server.fuzz(target, SECONDS, tmp_path / "fuzz", kept, SEED)
    assert code == 0, "\n".join(text.splitlines()[-25:])
    assert "Done " in text  # libFuzzer's last line
    assert known <= names(kept, target)


def names(folder, target):
    with zipfile.ZipFile(folder / "fuzz_corpus" / f"{target}.zip") as archive:
        return set(archive.namelist())
