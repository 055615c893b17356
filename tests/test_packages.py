"""The error for a missing optional package, and the extra that installs it."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from histocli.errors import HistoError
from histocli.packages import require_packages

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("missing", "words"),
    [(["onnxscript"], "the package onnxscript"), (["onnx", "onnxscript"], "the packages onnx and onnxscript")],
)
def test_the_error_names_every_missing_package_and_its_extra(monkeypatch, missing, words):
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HistoError, match=f"^--format onnx needs {words}$") as caught:
        require_packages("--format onnx", "numpy", "onnx", "onnxscript", extra="onnx")
    assert caught.value.hint == "pip install 'histocli[onnx]'"


def test_every_extra_that_a_message_or_a_page_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    files = [*(ROOT / "histocli").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    texts = "".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(r"histocli\[(\w+)\]|extra=\"(\w+)\"", texts))
    named = {name for pair in named for name in pair if name}
    assert {"onnx", "slides", "tune", "lora"} <= named
    assert named - {"extra"} <= set(extras)
