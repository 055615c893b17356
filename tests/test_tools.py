"""The audit of the dependencies fails where something is wrong, and where nothing is known."""

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
    "onnx": ("1.21.0", "files with external data that lead out of their folder"),
    "requests": ("2.32.4", "CVE-2024-47081: passwords of .netrc go to another host"),
    "urllib3": ("2.6.3", "CVE-2026-21441 and CVE-2025-66471: compressed answers that unpack without end"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "filelock": ("3.20.3", "CVE-2025-68146: a lock file that is a link"),
    "opencv-python-headless": ("4.12.0.88", "CVE-2025-53644: uninitialised memory in JPEG"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206"),
    "pyarrow": ("14.0.1", "CVE-2023-47248"),
}


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


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("answers[0]['vulns'] = [{'id': 'CVE-1', 'fix_versions': ['9.9']}]", "has CVE-1, mended in 9.9"),
        ("answers[0] = {'name': 'a', 'skip_reason': 'not on PyPI'}", "a was not audited: not on PyPI"),
        ("answers.pop()", "were audited"),
        ("sys.exit('ERROR: the service cannot be reached')", "nothing is known of them: ERROR: the service"),
        ("sys.exit(1)", "nothing is known of them"),
    ],
)
def test_an_audit_fails_where_there_is_a_hole_and_where_nothing_is_known(tmp_path, harm, message):
    done = audit(tmp_path, KNOWN.replace("HARM", harm))
    assert done.returncode == 1
    assert message in done.stderr
