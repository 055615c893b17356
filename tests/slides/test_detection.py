"""Which slides are found in folders and inputs, and their names."""

import pytest

from histocli.slides.detection import find_slides
from tests.slides.files import tissue_image, write_slide


@pytest.fixture
def folder(tmp_path):
    """A folder with the slides `a`, `sub/b` and `sub/c`."""
    for name in ("a", "sub/b", "sub/c"):
        write_slide(tmp_path / "slides" / f"{name}.tif", tissue_image(1100, 1100))
    return tmp_path / "slides"


def names(*inputs):
    """Return the names of the slides in some inputs."""
    return [slide.name for slide in find_slides([str(path) for path in inputs]).slides]


def test_a_link_to_a_folder_is_followed_once(folder, tmp_path):
    write_slide(tmp_path / "elsewhere" / "d.tif", tissue_image(1100, 1100))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "sub")
    (folder / "sub" / "loop").symlink_to(folder)
    assert names(folder) == ["a", "d", "b", "c"]


def test_maps_of_histo_are_no_slides(folder):
    for name in ("slide.json", "scores.csv"):  # a finished map, and one that was interrupted
        map_folder = folder / f"map-{name}"
        write_slide(map_folder / "heatmap.tif", tissue_image(1100, 1100))
        (map_folder / name).write_text("{}")
    found = find_slides([str(folder)])
    assert [slide.name for slide in found.slides] == ["a", "b", "c"]
    assert found.others == []


def test_a_slide_beside_a_file_named_slide_json_is_found(folder):
    (folder / "slide.json").write_text("{}")
    assert names(folder) == ["a", "b", "c"]


def test_a_slide_that_is_in_several_inputs_is_found_once_and_named_as_in_the_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    a, sub = folder / "a.tif", folder / "sub"
    for others in ([a], [sub], [tmp_path / "link"], [sub / ".." / "a.tif"], [a, sub]):
        assert sorted(names(folder, *others)) == sorted(names(*others, folder)) == ["a", "b", "c"]
    write_slide(folder / "other" / "b.tif", tissue_image(1100, 1100))
    assert sorted(names(folder, sub / "b.tif", sub)) == ["a", "other/b", "sub/b", "sub/c"]


def test_slides_of_different_names_stay_even_if_one_is_a_link_to_the_other(folder):
    (folder / "case7.tif").symlink_to(folder / "a.tif")
    assert names(folder) == ["a", "case7", "b", "c"]


def test_a_folder_that_may_not_be_read_is_an_error(folder, monkeypatch):
    from histocli.errors import HistoError
    from histocli.slides import detection

    def refuse(path):
        raise PermissionError(13, "Permission denied", f"{path}/sub")

    monkeypatch.setattr(detection, "walk_folder", refuse)
    with pytest.raises(HistoError, match=r"cannot read .*sub: Permission denied"):
        find_slides([str(folder)])
