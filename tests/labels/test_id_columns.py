"""Tables in which one column counts the rows, and another one has the names of the images."""

import pytest

from histocli.errors import HistoError
from histocli.sources.folder import FolderOptions, FolderSource
from tests.labels.test_labels import labels_of, open_folder

ORDER = (2, 0, 3, 1)  # the image in each row
LABELS = {0: 1, 1: 0, 2: 0, 3: 1}
PADDED = tuple(f"in/{i:04}.tif" for i in range(4))
EXPECTED = {f"{i:04}": label for i, label in LABELS.items()}


def make_table(column, form):
    rows = "".join(f"{row},{form.format(i)},{LABELS[i]}\n" for row, i in enumerate(ORDER))
    return f"id,{column},label\n{rows}"


@pytest.mark.parametrize(
    ("column", "form"),
    [
        *(("filepath", form) for form in ("in/{:04}.tif", "/home/me/data/{:04}.tif", "D:\\x\\{:04}.png", "{:04}")),
        *((name, "{:04}.tif") for name in ("filepath", "img_path", "img_name", "Image File", "image_filename", "name")),
    ],
)
def test_a_column_of_file_names_is_preferred_to_numbers_of_rows(tmp_path, column, form):
    source = open_folder(tmp_path / "x", PADDED, {"labels.csv": make_table(column, form)})
    assert labels_of(source) == EXPECTED
    assert "columns of labels.csv that are not used: 'id'" in source.report.notes
    assert not any("by number" in note for note in source.report.notes)


@pytest.mark.parametrize("form", ["{:04}.tif", "/home/me/data/{:04}.tif", "{:04}"])
@pytest.mark.parametrize("column", ["images", "file_location", "Image Index"])
def test_a_column_with_another_name_that_contradicts_numbers_of_rows_is_an_error(tmp_path, column, form):
    message = rf"the column id gives line \d for the image in/000\d\.tif, and the column {column} gives line \d"
    with pytest.raises(HistoError, match=message) as caught:
        open_folder(tmp_path / "x", PADDED, {"labels.csv": make_table(column, form)})
    assert caught.value.hint == f"choose the column: --id-column id or --id-column {column}"
    assert labels_of(FolderSource(FolderOptions((str(tmp_path / "x"),), id_column=column))) == EXPECTED


@pytest.mark.parametrize("form", ["{}.tif", "/home/me/data/{}.tif"])
@pytest.mark.parametrize("column", ["filepath", "images"])
def test_numbers_that_are_names_of_other_images_are_an_error(tmp_path, column, form):
    with pytest.raises(HistoError, match=f"the column id gives line .*, and the column {column} gives line"):
        open_folder(tmp_path / "x", [f"{i}.tif" for i in range(4)], {"labels.csv": make_table(column, form)})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("x", ("3", "2", "1", "0")),
        ("stain_batch", ("0003", "0003", "0001", "0001")),
        ("duplicate_of", ("0003.tif", "", "", "")),
        ("mask", ("0000_mask.tif", "0001_mask.tif", "0002_mask.tif", "0003_mask.tif")),
        ("source", ("/raw/0000.tif", "/raw/0001.tif", "/raw/0002.tif", "/raw/0003.tif")),
    ],
)
def test_other_columns_do_not_contradict_the_ids(tmp_path, column, values):
    rows = "".join(f"{i:04},{value},{LABELS[i]}\n" for i, value in enumerate(values))
    assert labels_of(open_folder(tmp_path / "x", PADDED, {"labels.csv": f"id,{column},label\n{rows}"})) == EXPECTED


def test_the_slides_of_a_table_are_found_by_file_names_too(tmp_path):
    rows = "".join(f"{row},{i:04}.tif,s{i}\n" for row, i in enumerate(ORDER))
    source = open_folder(tmp_path / "x", PADDED, {"meta.csv": f"id,img_path,slide\n{rows}"})
    assert [patch.slide for patch in source.read_patches()] == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize("column", ["patch", "tile_id"])
def test_of_several_columns_of_numbers_the_first_that_matches_every_row_is_used(tmp_path, column):
    rows = "".join(f"{i},{i + 3},{label}\n" for i, label in LABELS.items())
    source = open_folder(tmp_path / "x", PADDED, {"labels.csv": f"id,{column},label\n{rows}"})
    assert labels_of(source) == EXPECTED
    assert f"columns of labels.csv that are not used: {column!r}" in source.report.notes


def test_of_several_columns_of_numbers_the_one_that_matches_the_most_rows_is_used(tmp_path):
    rows = "".join(f"{i + 1},{i},{label}\n" for i, label in LABELS.items())
    assert labels_of(open_folder(tmp_path / "x", PADDED, {"labels.csv": f"id,patch,label\n{rows}"})) == EXPECTED


@pytest.mark.parametrize("id_column", ["id", "filename"])
@pytest.mark.parametrize("column", ["nearest", "reference", "duplicate_of", "paired_image"])
def test_columns_that_name_other_images_do_not_contradict_names(tmp_path, column, id_column):
    rows = "".join(f"{i:04}.tif,{3 - i:04}.tif,{label}\n" for i, label in LABELS.items())
    source = open_folder(tmp_path / "x", PADDED, {"labels.csv": f"{id_column},{column},label\n{rows}"})
    assert labels_of(source) == EXPECTED


def test_a_column_that_names_an_image_twice_does_not_contradict_numbers(tmp_path):
    rows = "".join(f"{i},{other:04}.tif,{LABELS[i]}\n" for i, other in enumerate((1, 0, 0, 2)))
    assert labels_of(open_folder(tmp_path / "x", PADDED, {"labels.csv": f"id,nearest,label\n{rows}"})) == EXPECTED


def test_other_columns_are_compared_in_large_tables_too(tmp_path):
    names = [f"{i:04}.tif" for i in range(2500)]
    rows = "".join(f"{i},/data/{name},0\n" for i, name in enumerate(reversed(names)))
    with pytest.raises(HistoError, match=r"the column id gives line .*, and the column images gives line"):
        open_folder(tmp_path / "x", names, {"labels.csv": f"id,images,label\n{rows}"})
