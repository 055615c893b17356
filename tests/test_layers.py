"""The imports go down from package to package, as CONTRIBUTING.md describes."""

import ast
from importlib import import_module

import pytest

from tests.cli import REPOSITORY

_PACKAGES = """
cli commands trackers training pages plots slides inference models data sources labels images files reports metrics
compute"""
PACKAGES = _PACKAGES.split()
EXCEPTIONS = {
    ("images", "files"),
    ("files", "images"),
    ("sources/slides.py", "slides"),
    ("sources/synthetic_slides.py", "slides"),
}
MODULES = sorted((REPOSITORY / "histocli").glob("*/**/*.py"))
ABOVE_ALL_PACKAGES = {"__init__", "__main__", "api", "api_options", "api_predictor"}  # modules beside the packages


def find_imports(path):
    """Return the full names of what a module imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down(package):
    above = set(PACKAGES[: PACKAGES.index(package)])
    wrong = []
    for path in MODULES:
        module = path.relative_to(REPOSITORY / "histocli")
        if module.parts[0] != package:
            continue
        for name in find_imports(path):
            parts = name.split(".")
            is_above = parts[0] == "histocli" and len(parts) > 1 and parts[1] in above
            if is_above and not EXCEPTIONS & {(package, parts[1]), (str(module), parts[1])}:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_config_and_the_modules_beside_the_packages_import_no_package():
    folder, above, wrong = REPOSITORY / "histocli", {*PACKAGES, *ABOVE_ALL_PACKAGES}, []
    beside = [path for path in folder.glob("*.py") if path.stem not in ABOVE_ALL_PACKAGES]
    for path in (*beside, *folder.glob("config/**/*.py")):
        for name in find_imports(path):
            if name.startswith("histocli.") and name.split(".")[1] in above:
                wrong.append(f"{path.relative_to(folder)} imports {name}")
    assert wrong == []


def test_every_package_has_its_place():
    assert {path.relative_to(REPOSITORY / "histocli").parts[0] for path in MODULES} == {*PACKAGES, "config"}


def test_every_exported_name_exists():
    for package in ["histocli", *(f"histocli.{name}" for name in [*PACKAGES, "config"])]:
        module = import_module(package)
        assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == [], package


def test_only_cli_and_console_import_typer_and_rich():
    users = {
        str(path.relative_to(REPOSITORY / "histocli").parts[0])
        for path in (REPOSITORY / "histocli").rglob("*.py")
        if any(name.split(".")[0] in {"typer", "rich"} for name in find_imports(path))
    }
    assert users == {"cli", "console.py"}
