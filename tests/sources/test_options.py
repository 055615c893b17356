"""Sources and the options that they declare."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
import pytest

from histocli.commands.download import DownloadConfig, download, find_dataset
from histocli.data.store import open_store
from histocli.enums import Resize
from histocli.errors import UsageError
from histocli.patch import Patch
from histocli.sources import SOURCE_NAMES, SourceContext, SourceOptions, SourceReport, SourceType, find_source_type
from histocli.sources.folder import FolderOptions
from histocli.sources.kaggle import KaggleOptions
from histocli.sources.options import FROM, Option, list_declared_options, make_source_options, require_single_location
from histocli.sources.synthetic import SyntheticOptions
from histocli.workspace import Workspace

SIZE = Option("--size", "Grey level of the squares.")


@dataclass(frozen=True)
class SquaresOptions(SourceOptions):
    locations: Annotated[tuple[str, ...], FROM] = ()
    level: Annotated[int, SIZE] = 7


class Squares:
    has_sha1_ids = should_drop_duplicates = False
    total = 3

    def __init__(self, options: SquaresOptions, context: SourceContext):
        self.level = options.level
        self.report = SourceReport("squares")

    def read_patches(self):
        for i in range(3):
            yield Patch(str(i), lambda: np.full((96, 96, 3), self.level, np.uint8), i % 2)


@pytest.fixture
def squares(monkeypatch):
    """A new source: a module and its name."""
    module = ModuleType("histocli.sources.squares")
    module.SOURCE = SourceType(SquaresOptions, Squares)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("histocli.sources.options.SOURCE_NAMES", (*SOURCE_NAMES, "squares"))
    find_source_type.cache_clear()
    yield module
    find_source_type.cache_clear()


def test_every_source_declares_its_options_and_a_function_that_opens_it():
    for name in SOURCE_NAMES:
        kind = find_source_type(name)
        assert issubclass(kind.options, SourceOptions)
        assert callable(kind.open)


def test_each_source_says_whether_it_reads_files_of_the_user():
    has_user_files = {"kaggle": False, "pcam": False, "folder": True, "synthetic": False, "slides": True}
    assert {name: find_source_type(name).has_user_files for name in has_user_files} == has_user_files


def test_options_are_shared_by_the_sources_that_declare_them():
    known = {"kaggle", "pcam", "folder", "synthetic"}
    takers = {
        declared.option.flag: known.intersection(declared.sources) for declared in list_declared_options().values()
    }
    assert {flag: sources for flag, sources in takers.items() if sources} == {
        "--from": {"kaggle", "pcam", "folder"},
        "--slides": {"kaggle", "folder"},
        "--labels": {"folder"},
        "--resize": {"folder"},
        "--mpp": {"folder"},
        "--classes": {"folder"},
        "--slide-pattern": {"folder"},
        **{f"--{role}-column": {"folder"} for role in ("id", "label", "slide", "hospital", "split")},
    }


def test_each_source_gets_its_own_options_with_their_types():
    values = {"locations": ("a",), "slides": Path("s.csv"), "labels": None, "resize": Resize.CROP}
    assert make_source_options("kaggle", values, None, 3) == KaggleOptions(("a",), Path("s.csv"))
    assert make_source_options("folder", values, 5, 3) == FolderOptions(("a",), None, Path("s.csv"))
    assert make_source_options("synthetic", {}, 5, 3) == SyntheticOptions(5, 3)
    assert make_source_options("synthetic", {}, None, 3) == SyntheticOptions(8000, 3)


def test_an_option_of_another_source_is_refused():
    with pytest.raises(UsageError, match="--source kaggle has no option --labels") as caught:
        make_source_options("kaggle", {"labels": Path("x.csv")}, None, 0)
    assert "folder" in caught.value.hint
    with pytest.raises(UsageError, match="takes one --from"):
        require_single_location("pcam", ("a", "b"))


def test_a_new_source_needs_only_a_module_and_its_name(squares, tmp_path):
    assert list_declared_options()["level"].sources == ("squares",)
    workspace = Workspace(tmp_path)
    config = DownloadConfig("squares", make_source_options("squares", {"level": 9}, None, 0))
    download(workspace, "grey", config)
    assert (open_store(workspace.patches_path("grey")) == 9).all()
    assert find_dataset(workspace, "grey", config).request["size"] == 9


def test_data_sets_packed_before_an_option_existed_are_recognised(request, tmp_path):
    workspace = Workspace(tmp_path)
    config = DownloadConfig("synthetic", SyntheticOptions(2, 0), n=2)
    dataset = download(workspace, "data", config)
    expected = {"source": "synthetic", "from": [], "labels": None, "slides": None, "n": 2, "resize": "crop", "seed": 0}
    assert dataset.request | expected == dataset.request
    request.getfixturevalue("squares")
    assert "size" in config.request
    assert find_dataset(workspace, "data", config) == dataset


def test_two_sources_may_not_declare_one_option_differently(squares):
    @dataclass(frozen=True)
    class Other(SourceOptions):
        locations: Annotated[str, FROM] = ""

    squares.SOURCE = SourceType(Other, Squares)
    with pytest.raises(ValueError, match="squares and kaggle declare locations differently"):
        list_declared_options()
