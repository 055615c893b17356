"""The audit of the dependencies fails where something is wrong, and where nothing is known; `make help`."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.cli import REPOSITORY

pytest.importorskip("packaging", reason="it is installed with the tools of a developer only")

from packaging.version import Version

from tools.audit import floors, installed_versions, stated_requirements

# The oldest versions without a known hole on a path that histo uses, and the hole.
MENDED = {
    "torch": ("2.10.0", "CVE-2026-24747: torch.load(weights_only=True) runs code"),
    "onnx": ("1.22.0", "files with external data that lead out of their folder; crashes of the version converter"),
    "requests": ("2.33.0", "CVE-2026-25645: a temporary file that others may write"),
    "urllib3": ("2.8.0", "CVE-2026-97689: a chunk's length without end takes all memory; CVE-2026-97688"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "filelock": ("3.20.3", "CVE-2025-68146: a lock file that is a link"),
    "h5py": ("3.16.0", "its wheels contain HDF5 2.0.0, which mends the overflows known in HDF5 1.14"),
    "opencv-python-headless": ("4.14.0.94", "its wheels contain libpng 1.6.58, libtiff 4.7.1; CVE-2025-53644"),
    "pillow": ("13.0.0", "CVE-2026-96639, CVE-2026-96636, CVE-2026-40192"),
    "imagecodecs": ("2026.3.6", "its wheels contain OpenJPEG 2.5.4, libtiff 4.7.1: CVE-2025-54874, CVE-2025-9900"),
    "openslide-bin": ("4.0.0.14", "CVE-2026-48977"),
    "mlflow": ("3.11.1", "CVE-2026-2033: names of artifacts that lead out of their folder"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206"),
    "pyarrow": ("23.0.1", "CVE-2026-25087, CVE-2023-47248"),
}


@pytest.mark.attack
def test_no_floor_admits_a_version_with_a_known_hole():
    oldest = floors(stated_requirements())
    for name, (mended, hole) in MENDED.items():
        assert Version(oldest[name]) >= Version(mended), hole


def test_every_dependency_has_a_floor_that_is_installed_or_older():
    requirements = stated_requirements()
    oldest, installed = floors(requirements), installed_versions(requirements)
    assert set(installed) > {"torch", "numpy", "typing-extensions"}  # those of the dependencies too
    for name in oldest.keys() & installed.keys():
        assert Version(oldest[name]) <= Version(version(name))
        assert "+" not in installed[name]


def audit(tmp_path, answer):
    """The output of the audit with a pip-audit that gives this answer."""
    (tmp_path / "pip_audit").mkdir()
    (tmp_path / "pip_audit" / "__init__.py").touch()
    (tmp_path / "pip_audit" / "__main__.py").write_text(answer)
    run = "runpy.run_module('tools.audit', run_name='__main__')"
    line = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); {run}"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    return subprocess.run(
        [sys.executable, "-c", line], env=env, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


KNOWN = """
import json, sys
rows = [line.strip().split("==") for line in open(sys.argv[-1])]
answers = [{"name": name, "version": version, "vulns": []} for name, version in rows]
HARM
print(json.dumps({"dependencies": answers, "fixes": []}))
"""


def test_an_audit_without_findings_passes_and_lists_licences(tmp_path):
    done = audit(tmp_path, KNOWN.replace("HARM", ""))
    assert done.returncode == 0, done.stderr
    assert "installed versions: " in done.stdout
    assert "oldest allowed versions: " in done.stdout
    assert any(row.split()[:1] == ["numpy"] and "BSD" in row for row in done.stdout.splitlines())


@pytest.mark.attack
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("answers[0]['vulns'] = [{'id': 'CVE-1', 'fix_versions': ['9.9']}]", "has CVE-1, mended in 9.9"),
        ("answers[0] = {'name': rows[0][0], 'skip_reason': 'not on PyPI'}", " was not audited: not on PyPI"),
        (
            "answers = [{'name': name, 'skip_reason': 'not on PyPI'} for name, _ in rows]",
            "could be audited, so nothing",
        ),
        ("answers.pop()", " was not audited"),
        ("answers[0] = answers[1]", " was not audited"),
        ("answers[0]['name'] = 'another'", " was not audited"),
        ("answers[0]['version'] = '0.0.1'", " was audited as version 0.0.1, not "),
        ("del answers[0]['vulns']", "nothing is known of them"),
        ("answers[0]['vulns'] = [{'id': 'CVE-1'}]", "nothing is known of them"),
        ("print('null'); sys.exit()", "nothing is known of them"),
        ("sys.stdout.buffer.write(b'\\xff'); sys.exit()", "nothing is known of them"),
        ("sys.exit('ERROR: the service cannot be reached')", "nothing is known of them: ERROR: the service"),
        ("sys.exit(1)", "nothing is known of them"),
    ],
)
def test_an_audit_fails_where_there_is_a_hole_and_where_nothing_is_known(tmp_path, harm, message):
    done = audit(tmp_path, KNOWN.replace("HARM", harm))
    assert done.returncode == 1
    assert message in done.stderr


def test_make_help_lists_every_target():
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: help (.*)$", text, re.MULTILINE)[1].split()
    assert sorted(re.findall(r'^\t@echo "make (\S+) {2,}\w', text, re.MULTILINE)) == sorted(targets)
