"""Fixtures of the tests of commands."""

import pytest

from tests.cli import write_images


@pytest.fixture
def images(histo, tmp_path):
    """A folder of twelve patches."""
    write_images(histo, tmp_path / "images")
    return tmp_path / "images"
