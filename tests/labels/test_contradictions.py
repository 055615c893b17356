"""Tables and files whose labels contradict what other columns, keys or folders say, or are predictions."""

import json
from pathlib import Path

import pytest

from histocli.errors import HistoError
from histocli.files.file import make_file
from histocli.files.outputs import find_record_path
from histocli.labels.result import ContradictionError
from histocli.labels.table_files import read_labels
from histocli.sources.folder import FolderOptions, FolderSource
from tests.labels.test_labels import FOUND, IMAGES, TEXT, labels_of, open_folder

FOUR = ("a.tif", "b.tif", "c.tif", "d.tif")
IN_FOLDERS = ("normal/a.tif", "tumor/b.tif", "normal/c.tif", "tumor/d.tif")
INVERTED = {"a": 1, "b": 0, "c": 1, "d": 0}


def make_table(header, *columns):
    rows = zip("abcd", *columns, strict=True)
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


@pytest.mark.parametrize("column", ["label_name", "label_text", "tissue_type", "type", "subtype", "truth", "gt"])
def test_labels_that_count_the_classes_in_the_order_of_the_alphabet_are_an_error(tmp_path, column):
    words = ("normal", "cancer", "", "cancer")
    table = make_table(f"id,label,{column}", (1, 0, 1, 0), words)
    with pytest.raises(HistoError, match=f"columns label and {column} have different labels for 3 of 4") as caught:
        open_folder(tmp_path / "x", FOUR, {"labels.csv": table})
    assert caught.value.hint == f"choose one: --label-column label or --label-column {column}"
    folder = (str(tmp_path / "x"),)
    assert labels_of(FolderSource(FolderOptions(folder, label_column="label"))) == INVERTED
    swapped = FolderSource(FolderOptions(folder, classes=("negative=1", "positive=0")))
    assert labels_of(swapped) == {"a": 0, "b": 1, "c": 0, "d": 1}


SLIDE_TYPES = ("slide_type", ("tumor", "tumor", "normal", "normal"))


@pytest.mark.parametrize(
    ("where", "column", "values"),
    [
        ("x/labels.csv", "label_name", ("tumor", "normal", "tumor", "normal")),  # it agrees
        ("x/labels.csv", "necrosis", ("no", "yes", "no", "yes")),
        ("x/labels.csv", "necrosis", ("FALSCH", "WAHR", "FALSCH", "WAHR")),
        ("x/labels.csv", "grade", ("normal", "tumor", "unsure", "tumor")),
        ("x/labels.csv", "site_type", ("tumor", "tumor", "tumor", "tumor")),
        ("x/labels.csv", "slide_path", ("x/normal/s.tif", "x/tumor/t.tif", "x/normal/s.tif", "x/tumor/t.tif")),
        ("x/labels.csv", "her2", ("positive", "negative", "negative", "positive")),
        ("x/labels.csv", "comment", ("", "benign tissue", "benign", "metastasis")),
        ("x/labels.csv", "path", ("tumor/a.tif", "tumor/b.tif", "normal/c.tif", "normal/d.tif")),
        ("x/labels.csv", *SLIDE_TYPES),
        ("x/table.csv", *SLIDE_TYPES),
        ("my_labels.csv", *SLIDE_TYPES),
    ],
)
def test_columns_about_something_else_do_not_contradict_the_labels(tmp_path, where, column, values):
    (tmp_path / "x").mkdir()
    (tmp_path / where).write_text(make_table(f"id,label,slide,{column}", (1, 0, 1, 0), "ssst", values))
    source = open_folder(tmp_path / "x", FOUR, {})
    assert labels_of(source) == INVERTED
    assert [patch.slide for patch in source.read_patches()] == list("ssst")


def test_keys_of_json_files_about_something_else_do_not_contradict_the_labels(tmp_path):
    slides = zip("abcd", ("tumor", "tumor", "normal", "normal"), strict=True)
    files = {f"{key}.json": json.dumps({"label": INVERTED[key], "slide_type": slide}) for key, slide in slides}
    assert labels_of(open_folder(tmp_path / "x", FOUR, files)) == INVERTED


@pytest.mark.parametrize("where", ["x/table.csv", "my_labels.csv"])
def test_a_contradiction_is_an_error_also_if_class_folders_give_labels(tmp_path, where):
    """Without the table, the patches of a slide could be in the training and in the validation split."""
    (tmp_path / "x").mkdir()
    words = ("normal", "tumor", "normal", "tumor")
    (tmp_path / where).write_text(make_table("id,label,slide,label_name", (1, 0, 1, 0), "ssst", words))
    with pytest.raises(ContradictionError, match="columns label and label_name have different labels for 4 of 4"):
        open_folder(tmp_path / "x", IN_FOLDERS, {})
    (tmp_path / where).write_text("id,label,label_name\ny,1,normal\nz,0,tumor\n")  # about other images
    assert labels_of(open_folder(tmp_path / "x", IN_FOLDERS, {})) == dict(zip("abcd", (0, 1, 0, 1), strict=True))


def test_the_hint_for_a_command_without_the_option_names_no_option(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(make_table("id,label,kind", (1, 0, 1, 0), ("normal", "tumor", "normal", "tumor")))
    with pytest.raises(ContradictionError, match="columns label and kind have different labels") as caught:
        read_labels(make_file(path))
    assert caught.value.hint == "correct the table, or remove the wrong column"
    path.write_text(make_table("id,label,her2", (1, 0, 1, 0), ("positive", "positive", "negative", "negative")))
    assert read_labels(make_file(path)) == INVERTED


@pytest.mark.parametrize("form", ["data/{}/{}.tif", "D:\\data\\{}\\{}.tif", "/data/train/{}/{}.tif"])
def test_class_folders_in_the_ids_that_contradict_the_labels_are_an_error(tmp_path, form):
    rows = [f"{form.format('normal' if key in 'ac' else 'cancer', key)},{INVERTED[key]}\n" for key in "abcd"]
    table = "path,label\n" + "".join(rows)
    message = "the column label and the folders in the column path have different labels for 4 of 4 patches"
    with pytest.raises(HistoError, match=message) as caught:
        open_folder(tmp_path / "x", FOUR, {"labels.csv": table})
    assert "--label-column label" in caught.value.hint
    assert labels_of(FolderSource(FolderOptions((str(tmp_path / "x"),), label_column="label"))) == INVERTED


@pytest.mark.parametrize("key", ["label_name", "class"])
def test_keys_of_json_files_that_contradict_the_labels_are_an_error(tmp_path, key):
    texts = [{"label": INVERTED[name], key: "normal" if name in "ac" else "tumor"} for name in "abcd"]
    files = {f"{name}.json": json.dumps(text) for name, text in zip("abcd", texts, strict=True)}
    with pytest.raises(HistoError, match=f"keys label and {key} have different labels for 4 of 4") as caught:
        open_folder(tmp_path / "x", FOUR, files)
    assert caught.value.hint.endswith("if the key label is right: --classes negative=0 --classes positive=1")
    options = FolderOptions((str(tmp_path / "x"),), classes=("negative=0", "positive=1"))
    assert labels_of(FolderSource(options)) == INVERTED


def test_the_hint_for_files_of_one_class_can_be_given_once_a_name_is_filled_in(tmp_path):
    kinds = zip("abcd", ("tumor", "normal", "normal", "normal"), strict=True)
    files = {f"{key}.json": json.dumps({"label": 0, "class": kind}) for key, kind in kinds}
    with pytest.raises(HistoError, match="keys label and class have different labels for 1 of 4") as caught:
        open_folder(tmp_path / "x", FOUR, files)
    assert caught.value.hint.endswith("--classes negative=0 --classes positive=NAME")


def test_a_key_y_beside_x_is_a_coordinate(tmp_path):
    files = {f"{name}.json": f'{{"x": 0, "y": {y}}}' for name, y in zip("abcd", (0, 1, 96, 0), strict=True)}
    assert labels_of(open_folder(tmp_path / "x", FOUR, files)) == dict.fromkeys("abcd")
    with_label = {"a.json": '{"x": 0, "y": 1, "label": 0}', "b.json": '{"x": 0, "y": 0, "label": 1}'}
    assert labels_of(open_folder(tmp_path / "y", FOUR[:2], with_label)) == {"a": 0, "b": 1}


@pytest.mark.parametrize("columns", ["x_coord,y", "X,y", "col,row,y", "xpos,y"])
def test_a_column_y_beside_another_coordinate_is_no_label(tmp_path, columns):
    n = columns.count(",")
    table = f"id,{columns}\n" + "".join(f"{key},{'7,' * n}{y}\n" for key, y in zip("abc", (1, 0, 1), strict=True))
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {"places.csv": table})) == dict.fromkeys("abc")


@pytest.mark.parametrize("columns", ["x_coord,y_coord,y", "x1,x2,y", "size,y", "row,y", "xml_file,y"])
def test_a_column_y_beside_other_columns_is_the_label(tmp_path, columns):
    n = columns.count(",")
    table = f"id,{columns}\n" + "".join(f"{key},{'7,' * n}{y}\n" for key, y in zip("abc", (1, 0, 1), strict=True))
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {"places.csv": table})) == FOUND


def test_the_table_of_the_labels_option_is_compared_with_the_class_folders(tmp_path):
    labels = tmp_path / "l.csv"
    labels.write_text(make_table("id,label", (1, 1, 1, 0)))
    source = open_folder(tmp_path / "x", IN_FOLDERS, {}, labels=labels)
    assert labels_of(source) == {"a": 1, "b": 1, "c": 1, "d": 0}
    note = f"the table {labels} differs from the class folders for 3 of 4 images: normal/a.tif has label 1 in the table"
    assert any(text.startswith(note) for text in source.report.notes)
    labels.write_text(make_table("id,label", (0, 1, 0, 1)))
    assert not any(
        "differs" in text for text in open_folder(tmp_path / "x", IN_FOLDERS, {}, labels=labels).report.notes
    )


@pytest.mark.parametrize(("negative", "positive"), [("1", "0"), ("malignant", "benign"), ("+", "-")])
def test_a_table_that_differs_from_all_class_folders_is_an_error_with_a_hint_that_works(tmp_path, negative, positive):
    """The words are what the table calls the patches in the folders `normal` and `tumor`."""
    labels = tmp_path / "l.csv"
    labels.write_text(make_table("id,label", (negative, positive) * 2))
    with pytest.raises(HistoError, match="differs from the class folders for 4 of 4 images, which are all") as caught:
        open_folder(tmp_path / "x", IN_FOLDERS, {}, labels=labels)
    swap, as_it_is, remove = caught.value.hint.split("; or ")
    assert remove == "remove --labels to use the folders"
    for hint, label_of_a in ((swap, 0), (as_it_is, 1)):
        classes = tuple(part.strip().replace("'", "") for part in hint.split(": ")[1].split("--classes")[1:])
        source = open_folder(tmp_path / "x", IN_FOLDERS, {}, labels=labels, classes=classes)
        assert labels_of(source) == {key: (label_of_a + i) % 2 for i, key in enumerate("abcd")}


@pytest.mark.parametrize("header", ["id,label", "path,label"])
def test_the_table_of_the_labels_option_may_differ_for_some_paths_with_class_folders(tmp_path, header):
    labels = tmp_path / "l.csv"
    labels.write_text(f"{header}\nnormal/a.tif,0\ntumor/b.tif,0\nnormal/c.tif,0\ntumor/d.tif,1\n")
    source = open_folder(tmp_path / "x", IN_FOLDERS, {}, labels=labels)
    assert labels_of(source) == {"a": 0, "b": 0, "c": 0, "d": 1}
    assert any("differs from the class folders for 1 of 4 images" in note for note in source.report.notes)


def test_files_beside_the_images_that_contradict_the_class_folders_are_named(tmp_path):
    message = r"^the \.cls or \.json files next to the images and the folders have different labels for 1 of 1 images"
    with pytest.raises(HistoError, match=message) as caught:
        open_folder(tmp_path / "x", ("normal/a.tif", "tumor/b.tif"), {"normal/a.cls": "1"})
    assert caught.value.hint == "correct these files, or move them away to use the folders"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,path,probability,class\na,a,0.9,1\nb,b,0.1,0\nc,c,0.8,1\n", "it has a column probability"),
        ("id,class,prob,slide\na,1,1,\nb,0,1e-05,\nc,1,1,\n", "it has a column prob"),
        ("id,Class Name,Prediction\na,1,1\nb,0,.5\nc,1,1\n", "it has a column Prediction"),
    ],
)
@pytest.mark.parametrize("where", ["x/out.csv", "x/labels.csv", "my_labels.csv"])
def test_predictions_are_no_labels_unless_the_user_names_them(tmp_path, text, reason, where):
    (tmp_path / "x").mkdir()
    (tmp_path / where).write_text(text)
    source = open_folder(tmp_path / "x", IMAGES, {})
    assert labels_of(source) == dict.fromkeys("abc")
    name = where.removeprefix("x/") if where.startswith("x/") else tmp_path / where
    note = f"the labels of {name} are not used, because they seem to be predictions: {reason}; --labels TABLE uses them"
    assert note in source.report.notes
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {}, labels=tmp_path / where)) == FOUND
    label = next(name for name in text.partition("\n")[0].split(",") if name.lower().startswith("class"))
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {}, label_column=label)) == FOUND


@pytest.mark.parametrize("where", ["x/out.csv", "x/labels.csv", "my_labels.csv"])
def test_labels_that_are_probabilities_are_predictions(tmp_path, where):
    (tmp_path / "x").mkdir()
    (tmp_path / where).write_text("id,label\na,1.000000\nb,0.000000\nc,0.873211\n")
    source = open_folder(tmp_path / "x", IMAGES, {})
    assert labels_of(source) == dict.fromkeys("abc")
    assert any("seem to be predictions: its labels have 6 decimals; --labels" in note for note in source.report.notes)


@pytest.mark.parametrize(
    ("where", "form", "columns", "values"),
    [
        ("x/out.csv", "{}", "label,confidence", ("0.9", "0.5", "0.7")),
        ("x/out.csv", "{}", "label,score", ("0.1", "0.2", "0.3")),
        ("x/out.csv", "{}", "label,pred", ("0.9", "0.1", "0.8")),
        ("x/out.csv", "{}", "label,Predicted Class", ("0", "0", "1")),
        ("x/out.csv", "{}", "label,predominant_pattern", ("acinar", "solid", "solid")),
        ("x/out.csv", "{}", "class,score", ("0.1", "0.2", "0.3")),
        ("x/out.csv", "{}", "class,pred", ("1", "0", "1")),
        ("x/out.csv", "{}", "diagnosis,probability", ("0.9", "0.1", "0.8")),
        ("x/out.csv", "{}", "label,note", ("1", "2", "3")),
        ("x/out.csv", "{}.000000", "label,pred", ("0.9", "0.1", "0.8")),
        ("x/labels.csv", "{}", "label,pred", ("0.9", "0.1", "0.8")),
        ("my_labels.csv", "{}", "label,pred", ("0.9", "0.1", "0.8")),
    ],
)
def test_true_labels_beside_scores_are_used(tmp_path, where, form, columns, values):
    (tmp_path / "x").mkdir()
    label, _, other = columns.partition(",")
    labels = [form.format(value) for value in (1, 0, 1)]
    rows = [",".join(row) + "\n" for row in zip("abc", labels, "sst", "hhh", values, strict=True)]
    (tmp_path / where).write_text(f"id,{label},slide,center,{other}\n" + "".join(rows))
    source = open_folder(tmp_path / "x", IMAGES, {})
    assert labels_of(source) == FOUND
    assert [(patch.slide, patch.hospital) for patch in source.read_patches()] == [("s", "h"), ("s", "h"), ("t", "h")]


@pytest.mark.parametrize("name", ["out.csv", f"{'é' * 110}.csv"])  # the record of a long name has a shorter one
def test_a_table_that_histo_predict_wrote_has_no_labels(tmp_path, name):
    table = "id,label\na,1\nb,0\nc,1\n"
    source = open_folder(tmp_path / "x", IMAGES, {name: table, find_record_path(Path(name)).name: "{}"})
    assert labels_of(source) == dict.fromkeys("abc")
    assert any("predictions: histo predict wrote it" in note for note in source.report.notes)


@pytest.mark.parametrize("where", ["x/out.csv", "my_labels.csv"])
@pytest.mark.parametrize("has_slides", [False, True])
def test_the_slides_hospitals_and_splits_of_a_table_of_predictions_are_used(tmp_path, where, has_slides):
    (tmp_path / "x").mkdir()
    more = [",slide,center", *([",s,h"] * 3)] if has_slides else [""] * 4
    rows = ("id,class,prob,split", "a,1,0.9,train", "b,0,0.1,val", "c,1,0.8,test")
    (tmp_path / where).write_text("".join(f"{row}{add}\n" for row, add in zip(rows, more, strict=True)))
    source = open_folder(tmp_path / "x", ("tumor/a.tif", "tumor/b.tif", "normal/c.tif"), {})
    assert labels_of(source) == {"a": 1, "b": 1, "c": 0}
    by_id = {patch.id: (patch.slide, patch.hospital, patch.split) for patch in source.read_patches()}
    found = ("s", "h") if has_slides else ("", "")
    assert by_id == {"a": (*found, "train"), "b": (*found, "valid"), "c": (*found, "test")}
    assert not any("no known column" in note for note in source.report.notes)


def test_a_table_of_predictions_of_other_images_is_skipped(tmp_path):
    source = open_folder(tmp_path / "x", IN_FOLDERS, {"out.csv": "id,class,prob,slide\ny,1,0.9,s\nz,0,0.1,s\n"})
    assert labels_of(source) == {"a": 0, "b": 1, "c": 0, "d": 1}
    assert any(note.startswith("skipped: out.csv has no slide of any image") for note in source.report.notes)


def test_a_table_of_predictions_next_to_the_images_is_not_suggested(tmp_path):
    (tmp_path / "out.csv").write_text("id,class,probability\na,1,0.9\n")
    source = open_folder(tmp_path / "x", IMAGES, {})
    assert not any("out.csv" in note for note in source.report.notes)


def test_an_id_with_and_without_its_suffix_may_not_have_two_labels(tmp_path):
    path = tmp_path / "train_labels.csv"
    path.write_text("id,label\na.tif,1\nb,0\na,0\n")
    with pytest.raises(
        HistoError, match=r"line 4, column id: 'a' is the same id as 'a\.tif', with two labels"
    ) as caught:
        read_labels(make_file(path))
    assert caught.value.hint == "it is also on line 2: remove one of the two rows"
    path.write_text("id,label\nc.jpg,1\nc.png,0\n")
    with pytest.raises(HistoError, match=r"line 3, column id: 'c\.png' is the same id as 'c\.jpg', with two labels"):
        read_labels(make_file(path))


def test_a_table_that_begins_with_empty_lines_may_have_semicolons(tmp_path):
    table = "\n\n" + TEXT.replace(",", ";")
    for name in ("labels.csv", "table.csv"):
        assert labels_of(open_folder(tmp_path / name, IMAGES, {name: table})) == FOUND
