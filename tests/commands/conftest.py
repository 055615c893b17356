"""Fixtures of the tests of commands."""

import pytest

from tests.cli import write_images


@pytest.fixture
def names_only(monkeypatch):
    """Write one byte for each plot: drawing takes seconds, and some tests need only know which plots there are."""
    monkeypatch.setattr("histocli.plots.style.render", lambda target, *_: target.write_bytes(b"-"))


@pytest.fixture
def images(histo, tmp_path):
    """A folder of twelve patches."""
    write_images(histo, tmp_path / "images")
    return tmp_path / "images"
