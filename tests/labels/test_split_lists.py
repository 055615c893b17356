"""Lists of images that are named after a split, such as `train.txt` and `test.txt`."""

import pytest

from histocli.class_names import SplitError
from histocli.errors import HistoError
from histocli.sources.folder import FolderOptions, FolderSource
from tests.labels.test_labels import IMAGES, TEXT, labels_of, open_folder, splits_of


def open_lists(folder, lists, images=IMAGES):
    """Open a folder of images and lists; its labels are in a table."""
    return open_folder(folder, images, {"labels.csv": TEXT} | lists)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("header", ["", "id\r\n"])
def test_lists_are_read_in_the_encodings_of_windows(tmp_path, encoding, header):
    texts = {"train.txt": f"{header}a\r\nb\r\n", "test.txt": f"{header}c\r\n"}
    source = open_lists(tmp_path / "x", {name: text.encode(encoding) for name, text in texts.items()})
    assert splits_of(source) == ["train", "train", "test"]
    assert not any("without an image" in note for note in source.report.notes)


@pytest.mark.parametrize("text", ["id,age\nc,5\n", ",id\n0,c\n", "id\nc.tif\n", "c.tif,1\n"])
def test_lists_may_be_tables(tmp_path, text):
    source = open_lists(tmp_path / "x", {"train.txt": "a\n", "test.csv": text})
    assert splits_of(source) == ["train", "", "test"]


@pytest.mark.parametrize(
    "lists",
    [
        {"train.txt": "a\nb\n", "test.txt": "images_c\nd\n"},
        {"train.csv": "id\na\nb\n", "test_ids.csv": "id\nq\n"},
        {"train.csv": "id,label\na,1\nb,0\n", "test.txt": "q\n"},
        {"splits/train.txt": "q1.png 0\nq2.png 1\n", "splits/val.txt": "my q 3.png 0\n"},
        {"train_slides.txt": "q1\n", "test_patients.csv": "patient\nq2\n"},
        {"train.txt": "a\n", "val.txt": "b\n", "test_slides.txt": "q\n"},  # the image c may be of this slide
    ],
)
def test_a_list_without_an_image_is_an_error_if_its_images_could_be_used_for_training(tmp_path, lists):
    with pytest.raises(
        SplitError, match=r"no line of .* is the name of an image. Its lines are like '(images_c|q|my|patient)"
    ):
        open_lists(tmp_path / "x", lists)


def test_a_list_without_an_image_is_an_error_if_folders_give_only_some_of_the_splits(tmp_path):
    lists = {"train_slides.txt": "q1\n", "test_slides.txt": "q2\n"}
    with pytest.raises(SplitError, match=r"no line of test_slides.txt is the name of an image"):
        open_lists(tmp_path / "x", lists, ("train/a.tif", "val/b.tif", "c.tif"))


@pytest.mark.parametrize(
    ("images", "lists"),
    [
        (IMAGES, {"train.txt": "a\nb\nc\n", "test.txt": "q\n"}),  # the images of the test are elsewhere
        (("train/a.tif", "test/b.tif", "test/c.tif"), {"train.txt": "q1\n", "test.txt": "q2\n"}),
        (IMAGES, {"train_log.txt": "started\n", "test_results.txt": "finished\n"}),
        (IMAGES, {"train.txt": "images for the training\n", "test.txt": "images for the test\n"}),
        (IMAGES, {"train.txt": "loss 0.4\nauc: 0.9\n", "test.txt": "loss 0.5\nauc: 0.8\n"}),
        (IMAGES, {"train.csv": "epoch,loss\n10,0.5\n", "val.csv": "epoch,loss\n10,0.6\n"}),
        (IMAGES, {"train.txt": "a\n", "test.txt": "b\n", "test_slides.txt": "q\n"}),
        (("train/a.tif", "test/b.tif", "test/c.tif"), {"train_cases.txt": "q1\n", "test_cases.txt": "q2\n"}),
        (IMAGES, {"train_patients.csv": "id,age\nq1,50\n", "test_patients.csv": "id,age\nq2,60\n"}),
    ],
)
def test_other_files_and_lists_of_images_that_are_elsewhere_are_no_error(tmp_path, images, lists):
    source = open_lists(tmp_path / "x", lists, images)
    assert labels_of(source).keys() == set("abc")
    assert not any("slides" in note or "cases" in note or "patients" in note for note in source.report.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("fold1_test.txt", "fold2_test.txt"),
        ("fold-1/val.txt", "kfold-2/test.txt"),
        ("cv1_val.csv", "cv2_val.csv"),
        ("cv5/fold1_test.txt", "cv5/fold2_test.txt"),
    ],
)
def test_lists_of_several_folds_are_an_error(tmp_path, names):
    with pytest.raises(SplitError, match=f"'{names[0]}', '{names[1]}' are of several folds") as caught:
        open_lists(tmp_path / "x", {names[0]: "id\na\n", names[1]: "id\nb\n", "train_fold1.txt": "c\n"})
    assert (
        caught.value.hint == "keep the files of one fold, or rename files or folders, so that their paths have no fold"
    )


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"train_fold1.txt": "a\n", "train_fold2.txt": "b\n", "test.txt": "c\n"}, ["train", "train", "test"]),
        ({"train_fold1.csv": "id,label\na,1\n", "fold2_test.csv": "id,label\nc,1\n"}, ["train", "", "test"]),
        ({"scaffold2/val.txt": "a\n", "scaffold3/test.txt": "b\n"}, ["valid", "test", ""]),
        ({"cv5/fold1_val.txt": "a\n", "cv5/test.txt": "b\n"}, ["valid", "test", ""]),
        ({"fold1/val.txt": "a\n", "fold01/test.txt": "b\n"}, ["valid", "test", ""]),
        (
            {  # the column of splits is complete, and comes first
                "all.csv": "id,split\na,train\nb,train\nc,test\n",
                "fold1_val.csv": "id,label\na,1\n",
                "fold2_val.csv": "id,label\nb,0\n",
            },
            ["train", "train", "test"],
        ),
    ],
)
def test_training_lists_of_several_folds_and_files_of_one_fold_are_used(tmp_path, files, splits):
    assert splits_of(open_lists(tmp_path / "x", files)) == splits


def test_several_lists_of_one_split_are_read_together(tmp_path):
    source = open_lists(tmp_path / "x", {"test_set_1.txt": "a\n", "test_set_2.txt": "b\n"})
    assert splits_of(source) == ["test", "test", ""]
    notes = open_lists(tmp_path / "y", {"train_list1.txt": "a\n", "train_list2.txt": "b\n"}).report.notes
    assert "only 'train_list1.txt', 'train_list2.txt' were found: a list of val or test is needed" in notes


@pytest.mark.parametrize(
    ("name", "text", "splits"),
    [
        ("test.txt", "b\nc\n", ["", "test", "test"]),
        ("val_images.csv", "id\nc\n", ["", "", "valid"]),
        ("eval.lst", "c\n", ["", "", "test"]),
        ("test.csv", "id,label\nc,1\n", ["", "", "test"]),  # a table of labels
        ("fold1_test.txt", "c\n", ["", "", "test"]),
        ("test_fold_2.txt", "c\n", ["", "", "test"]),
        ("testlist01.txt", "c\n", ["", "", "test"]),
        ("test_01.txt", "c\n", ["", "", ""]),  # perhaps the images of a slide
        ("test.txt", "a\nb\nc\n", ["", "", ""]),  # all images would be in this split
        ("test.csv", "b,0\nc,1\n", ["", "test", "test"]),
        ("test.csv", "epoch,loss\nc,0.5\n", ["", "", ""]),  # the number of an epoch may be the name of an image
        ("test_log.txt", "c\n", ["", "", ""]),
        ("train.txt", "a\n", ["", "", ""]),
        ("test.txt", "q\n", ["", "", ""]),
        ("test_slides.txt", "q\n", ["", "", ""]),
        ("train.txt", "", ["", "", ""]),
        ("test.csv", "id\n", ["", "", ""]),
        ("test.csv", ",\n,\n", ["", "", ""]),
    ],
)
def test_a_single_list_gives_the_split_of_some_images(tmp_path, name, text, splits):
    source = open_lists(tmp_path / "x", {name: text})
    assert splits_of(source) == splits
    notes = "\n".join(source.report.notes)
    assert ("only 'train.txt' was found: a list of val or test is needed" in notes) == (text == "a\n")
    assert (f"not used: no line of {name} is the name of an image" in notes) == (text == "q\n")
    assert (f"not used: {name} has no line with the name of an image" in notes) == (text in ("", "id\n", ",\n,\n"))


@pytest.mark.parametrize(
    ("name", "text", "splits"),
    [
        ("val.csv", ",loss,acc\n0,0.5,0.7\n1,0.4,0.8\n", {}),  # the numbers of epochs
        ("test.csv", ",0\n0,4.tif\n1,x 1.tif\n", {"4": "test", "x 1": "test"}),  # pandas numbers the rows
        ("test.csv", ",id\n0,4\n", {"4": "test"}),
        ("test.csv", "4,0\n0,1\n", {"4": "test", "0": "test"}),  # with labels
        ("test.txt", "1\n0\n1\n", {}),  # labels
        ("test.txt", "4\n0\n0\n", {"4": "test", "0": "test"}),
        ("test.txt", "4 1\n0 1\n", {"4": "test", "0": "test"}),  # with labels
        ("test.txt", "x 1.tif 0\n", {"x 1": "test"}),
        ("test.txt", "4.tif, 0.tif\n", {"4": "test", "0": "test"}),
    ],
)
def test_numbers_that_count_rows_or_are_labels_are_no_names(tmp_path, name, text, splits):
    labels = "id,label\n0,1\n1,0\n4,1\nx 1,0\n"
    source = open_folder(tmp_path / "x", ("0.tif", "1.tif", "4.tif", "x 1.tif"), {"labels.csv": labels, name: text})
    assert {patch.id: patch.split for patch in source.read_patches() if patch.split} == splits
    is_noted = any(note.startswith(f"not used: {name}") for note in source.report.notes)
    assert is_noted == (text == "1\n0\n1\n")


@pytest.mark.parametrize(
    ("tables", "splits"),
    [
        ({"val_labels.csv": TEXT}, ["", "", "", ""]),
        ({"labels.csv": "id,label\na,1\nb,0\n", "test.txt": "a\nb\n"}, ["", "", "", ""]),
        ({"train.csv": TEXT, "test.csv": "id\nq\n"}, ["", "", "", ""]),  # the images of the test are elsewhere
        ({"val_labels.csv": TEXT, "train.txt": "a\nb\n", "test.txt": "c\n"}, ["train", "train", "test", ""]),
    ],
)
def test_an_image_without_a_label_does_not_change_the_splits(tmp_path, tables, splits):
    source = open_folder(tmp_path / "x", (*IMAGES, "in/d.tif"), tables)
    assert splits_of(source) == splits


def test_a_single_table_gives_the_split_of_images_that_have_none(tmp_path):
    column = {"train.csv": "id,label,split\na,1,train\n", "test.csv": "id,label\nb,0\nc,1\n"}
    source = open_folder(tmp_path / "x", IMAGES, column)
    assert splits_of(source) == ["train", "test", "test"]
    lists = {"val_labels.csv": "id,label\nb,0\nc,1\n", "train.txt": "a\n", "test.txt": "c\n"}
    source = open_folder(tmp_path / "y", (*IMAGES, "in/d.tif"), lists | {"labels.csv": "id,label\na,1\nd,1\n"})
    assert splits_of(source) == ["train", "valid", "test", ""]
    assert (
        "another table or list has a different split for 1 image of val_labels.csv, and is used" in source.report.notes
    )
    table = {"all.csv": "id,label,split\na,1,train\nb,0,test\nc,1,test\n", "test_labels.csv": "id,label\nc,1\n"}
    assert not any("split test: 0" in note for note in open_folder(tmp_path / "z", IMAGES, table).report.notes)


def test_a_single_table_and_a_single_list_both_give_splits(tmp_path):
    source = open_lists(tmp_path / "x", {"val_labels.csv": "id,label\nb,0\n", "test.txt": "c\n"})
    assert splits_of(source) == ["", "valid", "test"]


def test_lines_without_an_image_are_counted(tmp_path):
    source = open_lists(tmp_path / "x", {"train.txt": "a\nb\n", "test.txt": "c\nzzz\nyyy\n"})
    assert "lines of test.txt without an image: 2 of 3, such as 'zzz'" in source.report.notes


LISTS = {"train.txt": "1\n2\n", "test.txt": "3\n4\n"}
COLUMN = "id,split\n1,train\n2,train\n3,test\n4,test\n"
OTHERS = "".join(f"q{i},train\n" for i in range(1000))  # more than the start of a table


@pytest.mark.parametrize(
    ("files", "folder", "names", "remedy"),
    [
        (LISTS, "x", "'test.txt', 'train.txt'", "move them into x/"),
        (
            {"train.csv": "id,label\n1,0\n2,1\n", "test.csv": "id,label\n3,0\n4,1\n"},
            "x",
            "'test.csv', 'train.csv'",
            "move",
        ),
        (
            {f"fold{i}_{name}": text for i in "12" for name, text in LISTS.items()},
            "x",
            "",
            "move those of one fold into",
        ),
        ({"train.csv": "1,0\n3,1\n", "test.csv": "2,0\n4,1\n"}, "x", "'test.csv', 'train.csv'", "move them into x/"),
        ({"parts.csv": COLUMN}, "x", "'parts.csv'", "move it into x/"),
        ({"parts.csv": "id,split\n1,train\n" + OTHERS + "4,test\n"}, "x", "'parts.csv'", "move it into x/"),
        ({"Folds.csv": COLUMN + "4,train\n"}, "x", "", None),  # it would be an error in the folder
        ({"Folds.csv": "id,split\n1,train\n" + OTHERS + "1,test\n"}, "x", "", None),
        ({"Folds.csv": COLUMN + OTHERS + "1,test\n"}, "x", "", None),
        ({"test.txt": LISTS["test.txt"]}, "x", "", None),
        (LISTS, "train", "", None),  # all of these images are for training
        ({"train.txt": "3\n", "test.txt": "1\n"}, "x", "", None),  # the numbers of images
        (LISTS | {"test.txt": "q\n" * 3000 + LISTS["test.txt"]}, "x", "", None),  # only the start of a list is read
        ({"parts.csv": COLUMN.replace("test", "train")}, "x", "", None),
        ({"predictions.csv": COLUMN}, "x", "", None),
        ({"parts.csv": "id,split,class,prob\n1,train,1,0.5\n2,test,1,0.6\n"}, "x", "", None),
    ],
)
def test_lists_and_tables_of_splits_next_to_the_images_are_named(tmp_path, files, folder, names, remedy):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    images = [f"in/{key}.tif" for key in "1234"]
    notes = open_folder(tmp_path / folder, images, {}).report.notes
    found = [note for note in notes if "next to the images" in note]
    assert len(found) == (remedy is not None)  # the tables are not suggested for their labels too
    if remedy is not None:
        what = "labels and splits" if "label" in "".join(files.values()) else "splits"
        assert found[0].startswith(f"the {what} may be in {names}")
        assert f"the folder of the images are used: {remedy}" in found[0]
        open_folder(tmp_path / "y", ["5.tif"], {})
        several = FolderSource(FolderOptions((str(tmp_path / folder), str(tmp_path / "y"))))
        assert any("and the images into one folder, and give that folder" in note for note in several.report.notes)


def test_tables_next_to_the_images_that_could_not_be_used_with_the_table_of_labels_are_not_named(tmp_path):
    labels = tmp_path / "train.csv"
    for path, text in {labels: "id,label\n1,0\n2,1\n", tmp_path / "test.csv": "id\n3\n4\n"}.items():
        path.write_text(text)
    (tmp_path / "parts.csv").write_text(COLUMN)
    notes = open_folder(tmp_path / "x", [f"{key}.tif" for key in "1234"], {}, labels=labels).report.notes
    assert not any("next to the images" in note for note in notes)


def test_a_line_that_is_the_name_of_two_images_is_an_error_unless_the_folder_of_the_split_has_one(tmp_path):
    lists = {"train.txt": "1\n", "test.txt": "1\n"}
    source = open_folder(tmp_path / "x", ("train/1.tif", "test/1.tif"), lists)
    assert sorted(splits_of(source)) == ["test", "train"]
    with pytest.raises(HistoError, match=r"the id '1' in the table of splits is that of two images"):
        open_folder(tmp_path / "y", ("s1/1.tif", "s2/1.tif"), lists)
