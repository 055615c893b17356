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


@pytest.mark.parametrize("form", ["{:04}.tif", "in/{:04}.tif", "/home/me/data/{:04}.tif", "D:\\x\\{:04}.png", "{:04}"])
@pytest.mark.parametrize("column", ["filepath", "img_path", "img_name", "Image File", "image_filename", "name"])
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
