"""Tables in several folders, next to files with labels, and next to files that have nothing to do with labels."""

import gzip
import json
import os

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.files.file import MAX_FILE_BYTES
from histocli.labels.result import ContradictionError
from histocli.sources.folder import FolderOptions, FolderSource
from tests.labels.test_labels import IMAGE, IMAGES, TEXT, labels_of, open_folder
from tests.sources.kaggle_layout import write_folder

TRAIN_AND_TEST = [f"train/{i}.tif" for i in (1, 2, 3)] + [f"test/{i}.tif" for i in (1, 2, 3, 4)]
LABELS_OF_TRAIN = {"train/1": 0, "train/2": 1, "train/3": 0} | {f"test/{i}": None for i in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    "form", ["{}", "{}.tif", "train/{}.tif", "/data/train/{}.tif", "C:\\data\\train\\{}.tif", "'{}", "{}.TIF"]
)
@pytest.mark.parametrize("table", ["train/labels.csv", "train_labels.csv"])
def test_a_table_does_not_label_an_image_of_the_same_name_in_another_folder(tmp_path, form, table):
    """Image 4 of train was deleted, and the image 4 of test got its label."""
    rows = "".join(f"{form.format(i)},{(i + 1) % 2}\n" for i in (1, 2, 3, 4))
    source = open_folder(tmp_path / "x", TRAIN_AND_TEST, {table: "id,label\n" + rows})
    assert labels_of(source) == LABELS_OF_TRAIN
    assert f"3 of 4 rows match 3 of 7 images; rows without an image: {form.format(4)!r}" in "\n".join(
        source.report.notes
    )
    assert source.report.counts["labels without an image"] == 1


def test_the_images_of_the_same_names_may_come_after_the_row_of_the_deleted_image(tmp_path):
    table = "id,label\n4,1\n3,0\n2,1\n1,0\n"
    assert labels_of(open_folder(tmp_path / "x", TRAIN_AND_TEST, {"train/labels.csv": table})) == LABELS_OF_TRAIN


def test_lost_zeros_do_not_lead_to_an_image_of_another_folder(tmp_path):
    images = [name.replace("/", "/00") for name in TRAIN_AND_TEST]
    source = open_folder(tmp_path / "x", images, {"train/labels.csv": "id,label\n1,0\n2,1\n3,0\n4,1\n"})
    assert labels_of(source) == {key.replace("/", "/00"): label for key, label in LABELS_OF_TRAIN.items()}


def test_both_folders_may_have_a_table_and_a_deleted_image(tmp_path):
    tables = {"train/labels.csv": "id,label\n1,0\n2,1\n3,0\n4,1\n", "test/labels.csv": "id,label\n1,0\n4,0\n"}
    labels = labels_of(open_folder(tmp_path / "x", TRAIN_AND_TEST, tables))
    assert labels == LABELS_OF_TRAIN | {"test/1": 0, "test/4": 0}


def test_an_id_that_is_the_path_of_an_image_in_another_folder_means_this_image(tmp_path):
    table = "id,label\n1,0\ntrain/2,1\n3,0\ntest/4.tif,1\n"
    labels = labels_of(open_folder(tmp_path / "x", TRAIN_AND_TEST, {"train/labels.csv": table}))
    assert labels == LABELS_OF_TRAIN | {"test/4": 1}


@pytest.mark.parametrize(
    ("images", "table"),
    [
        (IMAGES, "labels/labels.csv"),
        (("in/a.tif", "in/deeper/b.tif", "c.tif"), "labels/labels.csv"),
        (("part1/a.tif", "part1/b.tif", "part2/c.tif"), "part1/labels.csv"),
        (("train/a.tif", "train/b.tif", "test/c.tif"), "train/labels.csv"),
    ],
)
def test_a_table_at_the_side_labels_the_images_of_other_folders(tmp_path, images, table):
    assert labels_of(open_folder(tmp_path / "x", images, {table: TEXT})) == {"a": 1, "b": 0, "c": 1}


@pytest.mark.parametrize(
    ("role", "values"), [("slide", ("s1", "s2", "s2")), ("hospital", ("h1", "h2", "h2")), ("split", ("train", "test"))]
)
@pytest.mark.parametrize("first", ["a", "z"])
def test_only_one_of_the_tables_needs_the_column_that_was_given(tmp_path, role, values, first):
    """`first` decides which table is read first; the column `usual` of the other table is not used."""
    usual = {"slide": "slide", "hospital": "center", "split": "subset"}[role]
    rows = "".join(f"{key},{n},{values[n % len(values)]}\n" for n, key in enumerate("abc"))
    tables = {
        f"{first}_labels.csv": f"id,label,{usual}\na,1,x\nb,0,x\nc,1,x\n",
        "m_more.csv": f"id,slide,mine\n{rows}" if role != "slide" else f"id,size,mine\n{rows}",
    }
    source = open_folder(tmp_path / "x", IMAGES, tables, **{f"{role}_column": "mine"})
    found = {patch.id: getattr(patch, role) for patch in source.read_patches()}
    assert found == {key: values[n % len(values)] for n, key in enumerate("abc")}
    assert f"columns of {first}_labels.csv that are not used: {usual!r}" in source.report.notes


def test_the_column_of_slides_may_be_in_the_table_of_slides_only(tmp_path):
    (tmp_path / "l.csv").write_text(TEXT)
    (tmp_path / "s.csv").write_text("id,barcode\na,s1\nb,s2\nc,s2\n")
    options = {"labels": tmp_path / "l.csv", "slides": tmp_path / "s.csv", "slide_column": "Barcode"}
    source = open_folder(tmp_path / "x", IMAGES, {}, **options)
    assert [(patch.label, patch.slide) for patch in source.read_patches()] == [(1, "s1"), (0, "s2"), (1, "s2")]


@pytest.mark.parametrize("role", ["slide", "hospital", "split"])
def test_a_column_that_no_table_has_is_an_error(tmp_path, role):
    (tmp_path / "l.csv").write_text(TEXT)
    (tmp_path / "s.csv").write_text("id,wsi\na,s1\nb,s2\nc,s2\n")
    options = {"labels": tmp_path / "l.csv", f"{role}_column": "barcode"}
    if role != "slide":  # else it must be in the table of slides
        options["slides"] = tmp_path / "s.csv"
    with pytest.raises(HistoError, match=r"there is no column 'barcode' in '.*l\.csv'|in '.*s\.csv', '.*l\.csv'") as e:
        open_folder(tmp_path / "x", IMAGES, {}, **options)
    assert e.value.hint.startswith(f"--{role}-column names a column of a table; the columns are id, ")


def test_a_table_that_has_only_splits_counts_as_a_table(tmp_path):
    source = open_folder(
        tmp_path / "x", ("0/a.tif", "1/b.tif"), {"m.csv": "id,mine\na,train\nb,val\n"}, split_column="mine"
    )
    assert {patch.id: patch.split for patch in source.read_patches()} == {"a": "train", "b": "valid"}


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_classes_give_the_meaning_of_labels_beside_the_images(tmp_path, kind):
    words = {"0": "STR", "1": "TUM", "2": "str"}
    texts = {f"{key}.{kind}": word if kind == "cls" else json.dumps({"label": word}) for key, word in words.items()}
    images = [f"{key}.tif" for key in words]
    with pytest.raises(HistoError, match=rf"0\.{kind}: the label 'STR' is not 0 or 1") as caught:
        open_folder(tmp_path / "x", images, texts)
    assert caught.value.hint == (
        "the labels are STR (1), TUM (1), str (1); choose the normal and the tumour ones: "
        "--classes negative=STR,str --classes positive=TUM"
    )
    source = open_folder(tmp_path / "x", images, texts, classes=("negative=STR,str", "positive=TUM"))
    assert labels_of(source) == {"0": 0, "1": 1, "2": 0}


def test_a_class_that_no_file_beside_the_images_has_is_an_error(tmp_path):
    with pytest.raises(HistoError, match="--classes names tumr, which is no folder and no label") as caught:
        open_folder(tmp_path / "x", ("a.tif",), {"a.cls": "STR"}, classes=("negative=STR", "positive=TUMR"))
    assert caught.value.hint == "the folders and labels are: str"


@pytest.mark.parametrize(("text", "label"), [("1.0", 1), ("0.0", 0), ("1", 1), ("true", 1), ('"normal "', 0)])
def test_numbers_in_json_files_may_have_a_decimal_point_as_in_tables(tmp_path, text, label):
    source = open_folder(tmp_path / "x", ("a.tif",), {"a.json": f'{{"label": {text}}}'})
    assert labels_of(source) == {"a": label}


def test_one_with_a_decimal_point_is_the_same_class_as_one(tmp_path):
    texts = {"a.json": '{"label": 1}', "b.json": '{"label": 1.0}', "c.json": '{"label": 0}'}
    source = open_folder(tmp_path / "x", ("a.tif", "b.tif", "c.tif"), texts, classes=("negative=1", "positive=0"))
    assert labels_of(source) == {"a": 0, "b": 0, "c": 1}


def test_an_empty_file_beside_the_image_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(HistoError, match=r"a\.cls: the label '' is not 0 or 1") as caught:
        open_folder(tmp_path / "x", ("a.tif",), {"a.cls": ""})
    assert caught.value.hint == "write the label into the file, or remove the file"


def test_a_table_that_contradicts_the_files_beside_the_images_is_refused_unless_it_is_given(tmp_path):
    files = {"labels.csv": TEXT, "in/a.cls": "1", "in/b.cls": "1", "in/c.json": '{"label": "tumor"}'}
    with pytest.raises(ContradictionError, match=r"labels for 1 of 3 images: in/b\.tif has label 0 in the table") as e:
        open_folder(tmp_path / "x", IMAGES, files)
    assert "--labels TABLE" in e.value.hint
    source = FolderSource(FolderOptions((str(tmp_path / "x"),), labels=tmp_path / "x" / "labels.csv"))
    assert labels_of(source) == {"a": 1, "b": 0, "c": 1}
    (tmp_path / "x" / "in" / "b.cls").write_text("normal")
    assert labels_of(FolderSource(FolderOptions((str(tmp_path / "x"),)))) == {"a": 1, "b": 0, "c": 1}


def write_large(path, first_line):
    """Write a table that is larger than allowed; most of it is a hole, which takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(first_line.encode() + b"\n")
        file.truncate(MAX_FILE_BYTES + 1)


DAMAGED = gzip.compress(b"id,size\n" + b"a,1\n" * 100)[:10] + b"\xff" * 90


@pytest.mark.parametrize("first_line", ["id,slide,x,y", "id,label,slide", "cell,size"])
def test_a_large_table_next_to_the_images_does_not_stop_the_command(tmp_path, first_line):
    write_large(tmp_path / "big" / "other.csv", first_line)
    source = open_folder(tmp_path / "big" / "imgs", ("0/a.tif", "1/b.tif"), {})
    assert labels_of(source) == {"a": 0, "b": 1}
    noted = any("other.csv next to the images may have the slides" in note for note in source.report.notes)
    assert noted == ("slide" in first_line)


@pytest.mark.parametrize("first_line", ["id,slide,f1,f2", "id,f1,f2", "id,label", "f1,f2"])
def test_a_large_table_inside_is_skipped_with_a_note(tmp_path, first_line):
    write_large(tmp_path / "x" / "features.csv", first_line)
    source = open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), {})
    assert labels_of(source) == {"a": 0, "b": 1}
    note = (
        "skipped: features.csv: larger than 256 MiB"
        if "id" in first_line
        else "tables that are not used: 'features.csv'"
    )
    assert note in source.report.notes


@pytest.mark.parametrize(
    ("name", "first_line", "folders"),
    [("labels.csv", "id,label", "01"), ("features.csv", "id,label", "ab"), ("features.csv", "id,split,f1", "01")],
)
def test_a_large_table_that_may_have_the_labels_or_the_splits_is_an_error(tmp_path, name, first_line, folders):
    write_large(tmp_path / "x" / name, first_line)
    with pytest.raises(HistoError, match=rf"{name}: larger than 256 MiB"):
        open_folder(tmp_path / "x", [f"{folder}/{folder}.tif" for folder in folders], {})


@pytest.mark.parametrize("where", ["x/other.csv.gz", "other.csv"])
def test_a_damaged_table_is_skipped_with_a_note_and_passed_over_next_to_the_images(tmp_path, where):
    (tmp_path / "x").mkdir()
    (tmp_path / where).write_bytes(DAMAGED)
    (tmp_path / "slides.csv").write_text("id,slide\na,1\n")
    source = open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), {})
    assert labels_of(source) == {"a": 0, "b": 1}
    noted = [note for note in source.report.notes if note.startswith("skipped: cannot unpack other.csv.gz")]
    assert bool(noted) == where.startswith("x/")
    assert any(note.startswith("slides.csv next to the images may have the slides") for note in source.report.notes)


def test_a_damaged_table_of_labels_is_an_error(tmp_path):
    with pytest.raises(HistoError, match=r"cannot unpack labels\.csv\.gz"):
        open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), {"labels.csv.gz": DAMAGED})


@pytest.mark.parametrize("name", ["other.csv.gz", "labels.csv.gz"])
@pytest.mark.parametrize("columns", ["id,label,split", "id,split"])
def test_a_damaged_table_with_splits_is_an_error(tmp_path, name, columns):
    """Without the splits, test images could be used for training."""
    numbers = np.random.default_rng(0).permutation(20_000)
    lines = "".join(f"{i},{i % 2},{'test' if i % 3 else 'train'}\n" for i in numbers)
    data = gzip.compress(f"{columns}\n{lines}".encode())
    with pytest.raises(HistoError, match=rf"cannot unpack {name}"):
        open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), {name: data[: len(data) // 2]})


def test_the_columns_of_a_gzip_file_of_several_members_are_found(tmp_path):
    data = b"".join(gzip.compress(part.encode()) for part in ("id,", "label\n", TEXT.partition("\n")[2]))
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {"table.csv.gz": data})) == {"a": 1, "b": 0, "c": 1}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_a_table_that_may_not_be_read_is_skipped_with_a_note(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "other.csv").touch(mode=0)
    source = open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), {})
    assert "skipped: other.csv: Permission denied" in source.report.notes


def test_a_parquet_file_without_images_is_named_and_not_taken_as_a_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"id": ["a"], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(HistoError, match=r"t\.parquet is a Parquet file without images$") as caught:
        open_folder(tmp_path / "x", IMAGES, {}, labels=tmp_path / "t.parquet")
    assert caught.value.hint == "save the table as CSV"


def test_a_damaged_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(HistoError, match=r"cannot read .*t\.parquet"):
        open_folder(tmp_path / "x", IMAGES, {}, labels=tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        (
            "id,label,\n1,0\n",
            "2: this line has 2 fields, but line 1 names 3",
            ", or remove the comma at the end of line 1",
        ),
        (
            "id;label;\n1;0\n",
            "2: this line has 2 fields, but line 1 names 3",
            ", or remove the semicolon at the end of line 1",
        ),
        (
            "\nid,label,\n1,0\n",
            "3: this line has 2 fields, but line 2 names 3",
            ", or remove the comma at the end of line 2",
        ),
        ("id,label\na\n", "2: this line has 1 field, but line 1 names 2", ""),
    ],
)
def test_a_line_with_too_few_fields_is_explained(tmp_path, table, message, hint):
    with pytest.raises(HistoError) as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert str(caught.value) == f"labels.csv, line {message} columns"
    assert caught.value.hint == f"add the missing field{hint}"


@pytest.mark.parametrize(("separator", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab")])
def test_a_line_with_too_many_fields_is_explained(tmp_path, separator, name):
    table = f"id{separator}label\na{separator}b{separator}1\n"
    with pytest.raises(HistoError) as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert str(caught.value) == "labels.csv, line 2: this line has 3 fields, but line 1 names 2 columns"
    assert caught.value.hint == f"a field that contains a {name} needs quotes around it"


def test_many_tables_of_folders_with_the_same_file_names_are_matched(tmp_path):
    """Each of the tables describes the images of its own folder, also if half of its images are missing."""
    folders = range(20)
    rng = np.random.default_rng(0)
    labels = {f"s{n}/{i}": int(rng.integers(2)) for n in folders for i in range(10)}
    kept = [key for key in labels if int(key[-1]) % 2 == int(key[1:].split("/")[0]) % 3 % 2]
    tables = {
        f"s{n}/labels.csv": "id,label\n" + "".join(f"{i},{labels[f's{n}/{i}']}\n" for i in range(10)) for n in folders
    }
    source = open_folder(tmp_path / "x", [f"{key}.tif" for key in kept], tables)
    assert labels_of(source) == {key: labels[key] for key in kept}


def test_tables_of_the_same_name_in_three_locations_may_contradict_each_other(tmp_path):
    for name, rows in (("a", "a1,0\na2,1\n"), ("b", "b1,0\nb2,1\n"), ("c", "c1,0\na1,1\n")):
        files = {f"{name}1.tif": IMAGE, f"{name}2.tif": IMAGE, "labels.csv": f"id,label\n{rows}".encode()}
        write_folder(tmp_path / name, files)
    with pytest.raises(ContradictionError, match=r"labels\.csv: another table has a different label for 'a1'"):
        FolderSource(FolderOptions(tuple(str(tmp_path / name) for name in "abc")))
