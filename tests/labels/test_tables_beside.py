"""Tables of labels next to several folders or archives whose images have the same names."""

import pytest

from histocli.labels.result import ContradictionError
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


@pytest.mark.parametrize(
    ("name", "table", "other"),
    [
        ("train_small", "train_labels.csv", "train"),
        ("images", "train_labels.csv", "train"),
        ("patches", "camelyon_labels.csv", "camelyon"),
        ("images", "labels_v1.csv", "v1"),
        ("train-images", "train_labels.csv", "train"),
    ],
)
def test_a_table_of_another_folder_is_used_if_that_folder_has_no_images_of_the_same_names(tmp_path, name, table, other):
    folder = tmp_path / "x"
    write_locations(folder, (name,), {table: LABELS["first"]})
    write_folder(folder / other, {"04.tif": IMAGE, "log.txt": b""})
    found, notes = read(folder / name)
    assert found == LABELS["first"]
    assert any(f"{table}, column label: 3 of 3 rows match 3 of 3 images" in note for note in notes)
    write_folder(folder / other, {"02.tif": IMAGE})
    found, notes = read(folder / name)
    assert found == (None,) * 3
    assert any(f"are not used: '{table}'; --labels TABLE uses one" in note for note in notes)


def test_a_table_of_another_folder_with_the_same_class_folders_is_not_used(tmp_path):
    for name in ("hospA", "hospB"):
        write_folder(tmp_path / name, {f"slide_1/{image}": IMAGE for image in NAMES})
    (tmp_path / "hospA_labels.csv").write_text(make_table(LABELS["first"]))
    assert read(tmp_path / "hospB")[0] == (None,) * 3


def test_a_table_of_the_training_images_is_not_used_for_the_test_images(tmp_path):
    write_locations(tmp_path / "x", ("train",), {"train_labels.csv": LABELS["first"]})
    write_folder(tmp_path / "x" / "test", {"91.tif": IMAGE})
    found, notes = read(tmp_path / "x" / "test")
    assert found == (None,)
    assert any("skipped a table next to the images" in note and "train_labels.csv" in note for note in notes)


@pytest.mark.parametrize("table", ["code,label\n0,normal\n1,tumor\n", "id,class,prob\n01,1,0.9\n02,1,0.7\n03,1,0.8\n"])
def test_a_general_table_is_used_if_that_of_the_folder_gives_no_labels(tmp_path, table):
    write_locations(tmp_path / "x", ("images",), {"labels.csv": LABELS["first"]})
    (tmp_path / "x" / "images_labels_legend.csv").write_text(table)
    assert read(tmp_path / "x" / "images")[0] == LABELS["first"]


def test_a_table_of_labels_with_the_name_of_a_result_is_named(tmp_path):
    tables = {"train_labels_scored.csv": LABELS["first"], "labels_predicted.csv": LABELS["second"]}
    write_locations(tmp_path / "x", ("train",), tables)
    found, notes = read(tmp_path / "x" / "train")
    assert found == (None,) * 3
    for name in tables:
        text = f"{name} is not used, because its name says that it has predictions; --labels {tmp_path / 'x' / name}"
        assert f"{text} uses it" in notes
    (tmp_path / "x" / "labels_predictors.csv").write_text(make_table(LABELS["first"]))
    assert read(tmp_path / "x" / "train")[0] == LABELS["first"]


def test_only_the_words_of_the_names_are_compared(tmp_path):
    tables = {"hosp_A_labels.csv": LABELS["first"], "hosp_B_labels.csv": LABELS["second"]}
    write_locations(tmp_path / "x", ("hosp (A)", "hosp (B)"), tables)
    assert read(tmp_path / "x" / "hosp (A)")[0] == LABELS["first"]
    assert read(tmp_path / "x" / "hosp (B)")[0] == LABELS["second"]


def test_a_general_table_is_used_only_for_folders_without_a_table_of_their_name(tmp_path):
    tables = {"hospA_labels.csv": LABELS["first"], "labels.csv": LABELS["second"]}
    write_locations(tmp_path / "x", ("hospA", "hospB", "labels"), tables)
    found, notes = read(tmp_path / "x" / "hospA")
    assert found == LABELS["first"]
    note = "tables next to the images are not used, because others give all labels: 'labels.csv'"
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
