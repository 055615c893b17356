"""Tables of labels next to several folders or archives whose images have the same names."""

import pytest

from histocli.labels.found import ContradictionError
from histocli.sources.folder import FolderOptions, FolderSource
from tests.labels.test_labels import IMAGE, labels_of
from tests.sources.kaggle_layout import make_zip, write_folder

NAMES = ("01.tif", "02.tif", "03.tif")
LABELS = {"first": (0, 1, 0), "second": (1, 0, 1)}


def make_table(labels):
    return "id,label\n" + "".join(f"{name[:2]},{label}\n" for name, label in zip(NAMES, labels, strict=True))


def write_locations(folder, names, tables, *, is_zip=False):
    """Write a folder or an archive of images of the same names for each name, and tables next to them."""
    folder.mkdir()
    for name in names:
        images = dict.fromkeys(NAMES, IMAGE)
        if is_zip:
            (folder / f"{name}.zip").write_bytes(make_zip(images))
        else:
            write_folder(folder / name, images)
    for name, labels in tables.items():
        (folder / name).write_text(make_table(labels))


def read(*locations, **options):
    source = FolderSource(FolderOptions(tuple(map(str, locations)), **options))
    return tuple(labels_of(source).values()), source.report.notes


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize(
    ("names", "form"),
    [
        (("hospA", "hospB"), "{}_labels.csv"),
        (("test", "val"), "{}_labels.csv"),
        (("hosp A", "hosp B"), "labels {}.csv"),
        (("part", "part-2"), "{}-labels.csv"),  # the first name is a word of the second
        (("part", "part-2"), "Labels-{}.csv"),
    ],
)
def test_each_folder_or_archive_has_the_table_of_its_name(tmp_path, names, form, is_zip):
    files = [form.format(name.upper() if "Labels" in form else name) for name in names]
    if "Labels" in form:
        files = [file.replace("Labels", "labels") for file in files]
    write_locations(tmp_path / "x", names, dict(zip(files, LABELS.values(), strict=True)), is_zip=is_zip)
    for at, labels in enumerate(LABELS.values()):
        found, notes = read(tmp_path / "x" / (names[at] + ".zip" * is_zip))
        assert found == labels
        note = "tables next to the images that have the names of other folders or archives are not used: "
        assert f"{note}{files[1 - at]!r}; --labels TABLE uses one" in notes


def test_a_table_of_another_folder_is_not_used(tmp_path):
    write_locations(tmp_path / "x", ("hospA", "hospB"), {"hospA_labels.csv": LABELS["first"]})
    found, notes = read(tmp_path / "x" / "hospB")
    assert found == (None,) * 3
    assert any("are not used: 'hospA_labels.csv'; --labels TABLE uses one" in note for note in notes)
    table = tmp_path / "x" / "hospA_labels.csv"
    assert read(tmp_path / "x" / "hospB", labels=table)[0] == LABELS["first"]


def test_a_general_table_is_used_only_for_folders_without_a_table_of_their_name(tmp_path):
    tables = {"hospA_labels.csv": LABELS["first"], "labels.csv": LABELS["second"]}
    write_locations(tmp_path / "x", ("hospA", "hospB", "labels"), tables)
    found, notes = read(tmp_path / "x" / "hospA")
    assert found == LABELS["first"]
    note = "tables next to the images are not used, because hospA_labels.csv has the name of the images: 'labels.csv'"
    assert f"{note}; --labels TABLE uses one" in notes
    assert read(tmp_path / "x" / "hospB")[0] == LABELS["second"]


def test_several_folders_may_have_a_table_of_their_name_each(tmp_path):
    tables = {"train_labels.csv": LABELS["first"], "test_labels.csv": LABELS["second"]}
    write_locations(tmp_path / "x", ("train", "test"), tables)
    found, _ = read(tmp_path / "x" / "train", tmp_path / "x" / "test")
    assert found == LABELS["first"] + LABELS["second"]


def test_general_tables_that_contradict_each_other_are_an_error(tmp_path):
    tables = {"labels.csv": LABELS["first"], "labels_2.csv": LABELS["second"]}
    write_locations(tmp_path / "x", ("images",), tables)
    with pytest.raises(ContradictionError, match=r"labels_2\.csv: .*labels\.csv has a different label for '01'") as e:
        read(tmp_path / "x" / "images")
    assert "--labels TABLE" in e.value.hint
    (tmp_path / "x" / "labels_2.csv").write_text(make_table(LABELS["first"]))
    assert read(tmp_path / "x" / "images")[0] == LABELS["first"]
