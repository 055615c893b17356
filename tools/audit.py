"""Compare the dependencies with the known vulnerabilities, and list their licences; `make audit`.

Both the installed versions and the oldest ones that pyproject.toml allows are looked up. It fails if one of them has a
known hole, and also if the service cannot be reached or does not know a version: then nothing is known.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
OF_DEVELOPERS = {"bench", "test", "docs", "release", "audit", "fuzz", "dev"}  # users install all other extras
_CLASSIFIER = "License :: "


def main() -> None:
    """Audit the installed versions and the floors, and list the licences."""
    requirements = stated_requirements()
    installed = installed_versions(requirements)
    problems = audit("installed", installed) + audit("oldest allowed", floors(requirements))
    list_licences(sorted(installed))
    if problems:
        sys.exit("\n".join(problems))


def stated_requirements() -> list[Requirement]:
    """Return the dependencies of histo, and of its extras for users.

    An extra that contains another one, as `histocli[tiff]`, is not listed again: the other one is in the list itself.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [texts for name, texts in project["optional-dependencies"].items() if name not in OF_DEVELOPERS]
    requirements = [Requirement(text) for texts in [project["dependencies"], *extras] for text in texts]
    return [
        requirement
        for requirement in requirements
        if canonicalize_name(requirement.name) != canonicalize_name(project["name"])
    ]


def floors(requirements: list[Requirement]) -> dict[str, str]:
    """Return the oldest version that is allowed of each dependency.

    Raises:
        SystemExit: a dependency has no lower bound.
    """
    oldest = {}
    for requirement in requirements:
        bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        if len(bounds) != 1:
            sys.exit(f"{requirement} has no lower bound")
        oldest[canonicalize_name(requirement.name)] = bounds[0]
    return oldest


def installed_versions(requirements: list[Requirement]) -> dict[str, str]:
    """Return the installed versions of the dependencies, and of theirs, without local parts such as `+cpu`."""
    versions: dict[str, str] = {}
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in versions:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        versions[name] = Version(found.version).public
        needed = [Requirement(text) for text in found.requires or []]
        waiting += [
            requirement
            for requirement in needed
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return versions


def audit(what: str, versions: dict[str, str]) -> list[str]:
    """Look up some versions with pip-audit, and return what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "requirements.txt")
        table.write_text("".join(f"{name}=={version}\n" for name, version in sorted(versions.items())), "utf-8")
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(table)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    try:
        answers = {canonicalize_name(package["name"]): package for package in json.loads(done.stdout)["dependencies"]}
        problems = [problem for pair in versions.items() for problem in find_problems(*pair, answers.get(pair[0]))]
    except (ValueError, LookupError, TypeError, AttributeError):
        reason = (done.stderr.strip().splitlines() or ["pip-audit gave no answer that is understood"])[-1]
        return [f"{what} versions: they could not be audited, so nothing is known of them: {reason}"]
    if answers and all("skip_reason" in package for package in answers.values()):
        name, version = next(iter(sorted(versions.items())))
        return [
            f"{what} versions: none of the {len(versions)} could be audited, so nothing is known of them: the service "
            f"does not know {name} {version}; is it a mirror of PyPI without advisories?"
        ]
    if not problems:
        print(f"{what} versions: {len(answers)} packages, no known vulnerability")
    return [f"{what} versions: {problem}" for problem in problems]


def find_problems(name: str, version: str, answer: dict[str, Any] | None) -> list[str]:
    """Return what pip-audit's answer says against a version of a package; an answer about another one says nothing."""
    if answer is None:
        return [f"{name} was not audited"]
    if "skip_reason" in answer:
        return [f"{name} was not audited: {answer['skip_reason']}"]
    if Version(answer["version"]) != Version(version):
        return [f"{name} was audited as version {answer['version']}, not {version}"]
    return [
        f"{name} {version} has {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for hole in answer["vulns"]
    ]


def list_licences(names: list[str]) -> None:
    """Print the licence that each package states."""
    for name in names:
        metadata = distribution(name).metadata
        classified = [
            text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier", []) if text.startswith(_CLASSIFIER)
        ]
        stated = metadata.get("License-Expression") or ", ".join(classified) or metadata.get("License") or ""
        licence = re.split(r"[\r\n]", stated.strip())[0][:60]
        print(f"{name:28} {distribution(name).version:18} {licence or 'not stated'}")


if __name__ == "__main__":
    main()
