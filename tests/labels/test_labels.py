"""Tables of labels and slides as people and spreadsheets write them, matched with images."""

import gzip
import json
import re

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.sources.folder import FolderOptions, FolderSource
from tests.sources.kaggle_layout import make_zip, tiff, write_folder

IMAGE = tiff(np.zeros((96, 96, 3), np.uint8))
FOUND = {"a": 1, "b": 0, "c": 1}


def open_folder(folder, images, tables, **options):
    encoded = {name: data if isinstance(data, bytes) else data.encode() for name, data in tables.items()}
    write_folder(folder, dict.fromkeys(images, IMAGE) | encoded)
    return FolderSource(FolderOptions((str(folder),), **options))


def labels_of(source):
    return {patch.id: patch.label for patch in source.read_patches()}


TEXT = "id,label\na,1\nb,0\nc,1\n"
FOLDERS = ("", "in/", "./in/", "in\\", "data/set/in/", "/kaggle/input/train/", "C:\\x\\", "moved/")
IMAGES = ("in/a.tif", "in/b.tif", "in/c.tif")


@pytest.mark.parametrize(
    "table",
    [
        TEXT.replace("id,label", "filename,target"),
        TEXT.replace("id,label", "Image ID,Class"),
        TEXT.replace("id,label", "file,tumor"),
        ",id,label\n0,a,1\n1,b,0\n2,c,1\n",
        "id,label\na,tumor\nb,normal\nc,tumor\n",
        "id,label\na,True\nb,False\nc,True\n",
        "id,normal,tumor\na,0,1\nb,1,0\nc,0,1\n",
        TEXT.replace(",", "\t"),
        TEXT.replace(",", "|"),
        "sep=|\n" + TEXT.replace(",", "|"),
        "sep=;\n" + TEXT.replace(",", ";"),
        TEXT.replace("\n", "\r"),
        TEXT.encode("utf-16"),
        TEXT.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        *(f"id,label\n{at}a.tif,1\n{at}b.tif,0\n{at}c.tif,1\n" for at in FOLDERS),
        TEXT.replace("a,", "a.TIF,", 1).replace("b,", "b.png,"),
        TEXT.replace("id,label", "ImageID,ClassLabel"),
        "id;label\na;1,0\nb;0,0\nc;1,0\n",
        "id,label\na,1.000\nb,0.000\nc,1.000\n",
        "id;label\na;WAHR\nb;FALSCH\nc;WAHR\n",
        "id;label\na;VRAI\nb;FAUX\nc;VRAI\n",
        "id,label\na,+\nb,-\nc,+\n",
        "id,label\n'a,1\n'b,0\n'c,1\n",
        'id,label\n"=""a""",1\n"=""b""",0\n"=""c""",1\n',
        "id,label\nA,1\nB,0\nC,1\n",
        "id,label\nhttps://host/x/a.tif?v=2,1\nhttps://host/x/b.tif?v=2,0\nhttps://host/x/c.tif?v=2,1\n",
        "id,filename,label\n7,a.tif,1\n8,b.tif,0\n9,c.tif,1\n",
        "id,label,x,y\na,1,5,1\nb,0,6,1\nc,1,7,0\n",
        'id;label;"a,b,c,d"\na;1;x\nb;0;y\nc;1;z\n',
    ],
)
def test_every_form_gives_the_same_labels(tmp_path, table):
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert labels_of(source) == FOUND
    assert "3 of 3 rows match 3 of 3 images" in source.report.notes[0]
    assert source.report.counts == {}


@pytest.mark.parametrize("name", ["train.csv", "meta.tsv", "notes.txt", "table.csv"])
def test_a_table_of_any_name_inside_the_folder_is_read(tmp_path, name):
    text = TEXT.replace(",", {"tsv": "\t", "txt": " "}.get(name[-3:], ","))
    source = open_folder(tmp_path / "x", IMAGES, {name: text, "other.csv": "cell,size\n1,2\n"})
    assert labels_of(source) == FOUND
    assert f"labels from {name}" in source.report.notes[0]
    assert "1 file skipped: 1 .csv" in source.report.notes


def test_guesses_are_not_labels(tmp_path):
    tables = dict.fromkeys(("sample_submission.csv", "predictions.csv", "scores.csv"), TEXT)
    source = open_folder(tmp_path / "x", IMAGES, tables)
    assert labels_of(source) == dict.fromkeys("abc")
    assert "3 files skipped: 3 .csv" in source.report.notes


def test_names_of_columns_can_be_given(tmp_path):
    table = "patch no,verdict,block,where\na,1,s1,h1\nb,0,s2,h2\nc,1,s2,h2\n"
    folder = write_folder(tmp_path / "x", dict.fromkeys(IMAGES, IMAGE) | {"table.csv": table.encode()})
    with pytest.raises(HistoError, match=r"no column is known as the label; the columns are patch no, verdict, block"):
        FolderSource(FolderOptions((str(folder),), labels=folder / "table.csv", id_column="patch no"))
    names = {"id_column": "patch no", "label_column": "Verdict", "slide_column": "block", "hospital_column": "where"}
    source = FolderSource(FolderOptions((str(folder),), **names))
    assert labels_of(source) == FOUND
    assert [(patch.slide, patch.hospital) for patch in source.read_patches()] == [
        ("s1", "h1"),
        ("s2", "h2"),
        ("s2", "h2"),
    ]
    with pytest.raises(HistoError, match="there is no column 'nothing'"):
        FolderSource(FolderOptions((str(folder),), labels=folder / "table.csv", label_column="nothing"))
    folder = write_folder(tmp_path / "y", dict.fromkeys(IMAGES, IMAGE) | {"t.csv": b"# Slice,TP\na,1\nb,0\nc,1\n"})
    options = FolderOptions((str(folder),), labels=folder / "t.csv", id_column="# Slice", label_column="TP")
    assert labels_of(FolderSource(options)) == FOUND


def test_the_table_of_labels_may_have_slides_hospitals_and_splits(tmp_path):
    table = "image_id,label,slide_id,center,split\na,1,s1,2,train\nb,0,s1,2,test\nc,1,s2,3,val\n"
    source = open_folder(tmp_path / "x", IMAGES, {"metadata.csv": table})
    found = [(patch.slide, patch.hospital, patch.split) for patch in source.read_patches()]
    assert found == [("s1", "2", "train"), ("s1", "2", "test"), ("s2", "3", "valid")]
    assert "slides from metadata.csv, column slide_id" in source.report.notes


def test_the_table_of_wilds_has_no_ids(tmp_path):
    images = [f"patches/patient_020_node_4/patch_patient_020_node_4_x_{x}_y_7.png" for x in (3328, 3424)]
    table = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n0,020,4,3328,7,1,10,2,0\n1,20,4,3424,7,0,10,2,0\n"
    source = open_folder(tmp_path / "x", images, {"metadata.csv": table})
    assert list(labels_of(source).values()) == [1, 0]
    assert {patch.slide for patch in source.read_patches()} == {"10"}


def test_ids_and_images_that_do_not_match_are_counted_with_examples(tmp_path):
    table = "id,label\na,1\n" + "".join(f"gone{i},0\n" for i in range(5))
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert source.report.counts == {"labels without an image": 5, "without a label": 2}
    text = "\n".join(source.report.notes)
    assert "1 of 6 rows match 1 of 3 images; rows without an image: 'gone0', 'gone1', 'gone2' and 2 more" in text
    assert "2 images without a label: 'in/b.tif', 'in/c.tif'" in text


@pytest.mark.parametrize("name", ["labels.csv", "table.csv"])
def test_a_table_inside_that_matches_nothing_is_an_error_with_examples(tmp_path, name):
    with pytest.raises(HistoError, match=rf"{name} has no label of any image: its ids are like 'q1', 'q2'"):
        open_folder(tmp_path / "x", IMAGES, {name: "id,label\nq1,0\nq2,1\n"})


def test_a_slide_table_that_matches_nothing_is_an_error(tmp_path):
    (tmp_path / "s.csv").write_text("id,slide\nq,1\n")
    with pytest.raises(HistoError, match=r"s\.csv has no slide of any image"):
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": TEXT}, slides=tmp_path / "s.csv")


@pytest.mark.parametrize("table", ["id,size\nx,1\n", "name,class\nx,stroma\n", "\xff\xfe", "id,label\nx\n"])
def test_an_unrelated_table_beside_the_images_is_reported_and_ignored(tmp_path, table):
    (tmp_path / "their_labels.csv").write_text(table)
    source = open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), {})
    assert labels_of(source) == {"a": 0, "b": 1}
    assert any(
        "skipped a table next to the images" in note and "their_labels.csv" in note for note in source.report.notes
    )


def test_tables_inside_that_are_not_used_are_named(tmp_path):
    tables = {"stock.csv": "stain,weight\nHE,3\n", "submission.csv": "id,label\na,1\n"}
    source = open_folder(tmp_path / "x", ("1/a.tif", "0/b.tif"), tables)
    assert labels_of(source) == {"a": 1, "b": 0}
    assert "tables that are not used: 'stock.csv', 'submission.csv'" in source.report.notes
    notes = open_folder(tmp_path / "y", ("a.tif",), {"my.csv": "Bild;Befund\na;1\n"}).report.notes
    assert any(note.startswith("tables that are not used: 'my.csv'; --labels TABLE") for note in notes)


def test_a_table_that_contradicts_the_folders_is_refused_unless_it_is_given(tmp_path):
    tables = {"labels.csv": "id,label\na,1\nb,1\n"}
    with pytest.raises(HistoError, match=r"different labels for 1 of 2 images: 0/a\.tif has label 1 in"):
        open_folder(tmp_path / "x", ("0/a.tif", "1/b.tif"), tables)
    source = FolderSource(FolderOptions((str(tmp_path / "x"),), labels=tmp_path / "x" / "labels.csv"))
    assert labels_of(source) == {"a": 1, "b": 1}


def test_two_columns_of_labels_that_disagree_are_refused(tmp_path):
    with pytest.raises(HistoError, match="the columns label and tumor have different labels") as raised:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label,tumor\na,1,1\nb,0,1\nc,1,0\n"})
    assert "--label-column tumor" in raised.value.hint


@pytest.mark.parametrize("label", ["-1", "2", "stroma", ""])
def test_the_error_for_an_unknown_label_has_line_and_column(tmp_path, label):
    with pytest.raises(HistoError, match=rf"labels.csv, line 3, column label: '{label}' is not 0 or 1") as raised:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": f"id,label\na,1\nb,{label}\n"})
    assert raised.value.hint


def test_classes_give_the_meaning_of_labels(tmp_path):
    table = "id,label\na,3\nb,-1\nc,carcinoma\n"
    classes = ("negative=-1", "positive=3,Carcinoma")
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {"labels.csv": table}, classes=classes)) == FOUND


def test_ids_that_excel_rounded_are_an_error_that_says_so(tmp_path):
    with pytest.raises(HistoError, match=r"line 2, column id: '1.23E\+10' is a number that a spreadsheet rounded"):
        open_folder(tmp_path / "x", ("12300000001.tif", "a.tif"), {"labels.csv": "id,label\n1.23E+10,1\na,0\n"})


def test_ids_without_their_leading_zeros_are_matched_and_reported(tmp_path):
    source = open_folder(tmp_path / "x", ("007.tif", "12.tif"), {"labels.csv": "id,label\n7,1\n12,0\n"})
    assert labels_of(source) == {"007": 1, "12": 0}
    assert "1 id matched by number: '7' with 007.tif" in source.report.notes
    source = open_folder(tmp_path / "y", ("007.tif", "07.tif", "a.tif"), {"labels.csv": "id,label\n7,1\na,0\n"})
    assert labels_of(source) == {"007": None, "07": None, "a": 0}


def test_equal_names_in_two_folders_have_the_labels_of_the_table_in_their_folder(tmp_path):
    tables = {"train/labels.csv": "id,label\n1,0\n", "test/labels.csv": "id,label\n1,1\n"}
    source = open_folder(tmp_path / "x", ("train/1.tif", "test/1.tif"), tables)
    assert labels_of(source) == {"train/1": 0, "test/1": 1}


def test_two_ids_of_one_image_are_an_error(tmp_path):
    with pytest.raises(HistoError, match=r"the ids 'a' and 'a\.tif' are both of the image in/a\.tif"):
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label\na,1\na.tif,0\n"})


def test_composed_letters_match_the_decomposed_ones_of_macos(tmp_path):
    source = open_folder(tmp_path / "x", ("u\u0308.tif",), {"labels.csv": "id,label\n\u00fc,1\n"})
    assert list(labels_of(source).values()) == [1]


def test_tables_may_be_in_a_zip(tmp_path):
    (tmp_path / "l.csv.zip").write_bytes(make_zip({"l.csv": TEXT.encode()}))
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {}, labels=tmp_path / "l.csv.zip")) == FOUND
    data = make_zip({"train_labels.csv": TEXT.encode()})
    assert labels_of(open_folder(tmp_path / "y", IMAGES, {"train_labels.csv.zip": data})) == FOUND


def test_skipped_files_are_counted_by_suffix_and_images_are_recognised_by_their_bytes(tmp_path):
    others = {"a.jxl": b"\xff\x0a..", "b.jxl": b"\xff\x0a..", "c.svs": IMAGE, "readme": b"text", "p.png.part": IMAGE}
    others |= {"favicon.ico": b"\0\0\1\0"}  # the icon of a saved web page
    silicon_graphics = b"\x01\xda\0\1" + bytes(8)
    images = {"noext": IMAGE, "x.jfif": IMAGE, "y.j2k": IMAGE, "z.data": IMAGE}
    images |= {
        "v.psd": b"8BPS",
        "w.ico": b"\0\0\1\0",
        "s.sgi": silicon_graphics,
        "t.rgb": silicon_graphics,
        "u.bin": b"qoif" + bytes(8),
    }
    source = open_folder(tmp_path / "x", (), others | images | {"Thumbs.db": b"x"})
    assert sorted(labels_of(source)) == ["noext", "s", "t", "u", "v", "w", "x", "y", "z"]
    (note,) = [note for note in source.report.notes if "skipped" in note]
    assert note == "6 files skipped: 2 .jxl, 1 .ico, 1 .part, 1 .svs, 1 without a suffix"


@pytest.mark.parametrize(
    ("text", "label"), [("1", 1), ("normal", 0), ('{"label": 1}', 1), ('{"size": 3}', None), ('{"Label": 0}', 0)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_beside_the_image_may_have_its_label(tmp_path, text, label, encoding):
    suffix = "json" if text.startswith("{") else "cls"
    source = open_folder(tmp_path / "x", ("s1.tif",), {f"s1.{suffix}": text.encode(encoding)})
    assert labels_of(source) == {"s1": label}
    assert ("labels from 1 file next to the images (.cls or .json)" in source.report.notes) == (label is not None)


@pytest.mark.parametrize("text", ['{"Category": "lymph node"}', '{"Class": 2}', '{"Diagnosis": ["tumor"]}'])
def test_a_key_in_another_case_with_another_value_is_no_label(tmp_path, text):
    key = text.split('"')[1]
    files = {"tumor/a.json": text, "normal/b.json": f'{{"{key}": 1}}'}
    source = open_folder(tmp_path / "x", ("tumor/a.tif", "normal/b.tif"), files)
    assert labels_of(source) == {"a": 1, "b": 0}
    assert f"keys of .json files that are not used: '{key}'" in source.report.notes


def test_a_key_in_another_case_with_a_word_for_a_label_is_a_label(tmp_path):
    files = {"a.json": '{"Label": "tumor"}', "b.json": '{"Label": "unclear"}'}
    with pytest.raises(HistoError, match=r"b\.json: the label 'unclear' is not 0 or 1"):
        open_folder(tmp_path / "x", ("a.tif", "b.tif"), files)


@pytest.mark.parametrize("label", ["[1]", '{"tumor": 1}'])
def test_a_label_in_a_json_file_that_is_a_list_or_an_object_is_an_error(tmp_path, label):
    with pytest.raises(HistoError, match=r"s1\.json: the label .* is a list or an object") as caught:
        open_folder(tmp_path / "x", ("s1.tif",), {"s1.json": f'{{"label": {label}}}'})
    assert caught.value.hint == "the label must be a number or a word"


@pytest.mark.parametrize("missing", ["NA", "nan", "None", "n/a"])
@pytest.mark.parametrize("form", ["table", "slides", "json"])
def test_a_word_for_a_missing_value_is_no_slide_and_no_hospital(tmp_path, missing, form):
    values = {"a": ("s1", "h1"), "b": (missing, "h1"), "c": (missing, missing)}
    rows = "".join(f"{key},{int(key != 'b')},{slide},{hospital}\n" for key, (slide, hospital) in values.items())
    table = "id,label,slide,hospital\n" + rows
    files, options = {"labels.csv": table}, {}
    if form == "json":
        template = '{{"label": 1, "slide": "{}", "hospital": "{}"}}'
        files = {f"in/{key}.json": template.format(*pair) for key, pair in values.items()}
    elif form == "slides":
        options = {"slides": tmp_path / "x" / "labels.csv"}
    source = open_folder(tmp_path / "x", IMAGES, files, **options)
    assert [(patch.slide, patch.hospital) for patch in source.read_patches()] == [("s1", "h1"), ("", "h1"), ("", "")]
    needed = "histo balance --split slide needs the slides of all images"
    assert f"2 images without a slide (written as {missing}): 'in/b.tif', 'in/c.tif'; {needed}" in source.report.notes
    assert f"1 image without a hospital (written as {missing}): 'in/c.tif'" in source.report.notes
    assert source.report.counts == {"without a slide": 2}


def test_a_json_file_beside_the_image_may_have_its_slide_hospital_and_split(tmp_path):
    texts = (
        '{"label": 1, "patient_id": "p7", "center": 2, "split": "train", "stain": "HE"}',
        '{"label": "normal", "patient_id": "p8", "center": 3, "split": "test", "stain": "HE"}',
    )
    files = {f"s{i}.json": text for i, text in enumerate(texts)}
    source = open_folder(tmp_path / "x", ("s0.tif", "s1.tif"), files)
    found = [(patch.label, patch.slide, patch.hospital, patch.split) for patch in source.read_patches()]
    assert found == [(1, "p7", "2", "train"), (0, "p8", "3", "test")]
    assert "slides of 2 images from .json files next to the images" in source.report.notes
    assert "keys of .json files that are not used: 'stain'" in source.report.notes


def test_null_in_a_json_file_is_no_value(tmp_path):
    texts = (
        '{"cls": null, "label": 1, "slide": null, "hospital": null, "split": null}',
        '{"label": null, "slide": "s"}',
    )
    files = {f"s{i}.json": text for i, text in enumerate(texts)}
    source = open_folder(tmp_path / "x", ("s0.tif", "s1.tif"), files)
    found = [(patch.label, patch.slide, patch.hospital, patch.split) for patch in source.read_patches()]
    assert found == [(1, "", "", ""), (None, "s", "", "")]
    assert source.report.counts["without a label"] == 1


def test_a_split_in_a_json_file_that_is_not_a_split_is_an_error(tmp_path):
    with pytest.raises(HistoError, match="'fold3' is not a split"):
        open_folder(tmp_path / "x", ("s.tif",), {"s.json": '{"label": 1, "split": "fold3"}'})


def test_slides_are_read_from_all_tables_with_the_same_column(tmp_path):
    tables = {"train.csv": "id,label,patient\na,1,p1\n", "test.csv": "id,label,patient\nb,0,p2\n"}
    source = open_folder(tmp_path / "x", ("a.tif", "b.tif"), tables)
    assert [(patch.slide, patch.split) for patch in source.read_patches()] == [("p1", "train"), ("p2", "test")]
    tables = {"a.csv": "id,slide\na,s1\n", "b.csv": "id,slide\nb,s2\n"}
    source = open_folder(tmp_path / "y", ("1/a.tif", "0/b.tif"), tables)
    assert {patch.id: patch.slide for patch in source.read_patches()} == {"a": "s1", "b": "s2"}


def test_a_second_column_of_slides_is_named_and_not_used(tmp_path):
    tables = {"a.csv": "id,label,patient\na,1,p1\nb,0,p2\n", "b.csv": "id,slide\na,s1\nb,s1\n"}
    source = open_folder(tmp_path / "x", ("a.tif", "b.tif"), tables)
    assert [patch.slide for patch in source.read_patches()] == ["p1", "p2"]
    assert "columns of b.csv that are not used: 'slide'" in source.report.notes


def test_two_tables_with_different_slides_of_an_image_are_an_error(tmp_path):
    tables = {"a.csv": "id,label,slide\na,1,s1\n", "b.csv": "id,slide\na,s2\n"}
    with pytest.raises(HistoError, match=r"b\.csv: the slide of a\.tif is 's2' here, and 's1' in another table"):
        open_folder(tmp_path / "x", ("a.tif",), tables)


def test_options_with_names_that_do_not_exist_are_errors(tmp_path):
    with pytest.raises(HistoError, match="--classes names tumr, which is no folder and no label") as raised:
        open_folder(tmp_path / "x", ("left/a.tif", "right/b.tif"), {}, classes=("negative=left", "positive=tumr"))
    assert raised.value.hint == "the folders and labels are: left, right"
    with pytest.raises(HistoError, match="--slide-column is given, but no table was read"):
        open_folder(tmp_path / "x", (), {}, slide_column="block")


def test_a_workbook_is_named_and_a_table_in_gzip_is_read(tmp_path):
    (tmp_path / "l.xlsx").write_bytes(make_zip({"xl/workbook.xml": b""}))
    with pytest.raises(HistoError, match=r"l\.xlsx is an Excel workbook"):
        open_folder(tmp_path / "x", IMAGES, {}, labels=tmp_path / "l.xlsx")
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {}, labels=tmp_path / "l.csv.gz")) == FOUND


@pytest.mark.parametrize("words", [("train", "dev", "evals"), ("train", "val", "2"), ("Test", "other", "Train")])
def test_a_word_beside_splits_that_is_not_a_split_is_an_error(tmp_path, words):
    rows = "".join(f"{key},{i % 2},{word}\n" for i, (key, word) in enumerate(zip("abc", words, strict=True)))
    with pytest.raises(HistoError, match=r"column split: '(evals|2|other)' is not a split"):
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label,split\n" + rows})


def test_a_column_of_any_name_with_splits_and_other_words_is_an_error(tmp_path):
    table = "id,label,phase\na,1,train\nb,0,test\nc,1,exclude\n"
    with pytest.raises(HistoError, match=r"labels\.csv, line 4, column phase: 'exclude' is not a split"):
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": table.replace("phase", "invalid").replace("test", "x")})
    assert splits_of(source) == ["", "", ""]  # one split only


@pytest.mark.parametrize("words", [("0", "1", "2"), ("A", "A", "B"), ("fold1", "fold1", "fold1"), ("0", "", "")])
def test_a_column_of_splits_without_a_known_word_is_an_error(tmp_path, words):
    rows = "".join(f"{key},{i % 2},{word}\n" for i, (key, word) in enumerate(zip("abc", words, strict=True)))
    with pytest.raises(HistoError, match=f"labels.csv, line 2, column split: '{words[0]}' is not a split") as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label,split\n" + rows})
    assert "train, val (or valid, validation, dev) and test" in caught.value.hint


def test_an_unknown_split_is_an_error_even_if_other_tables_have_the_labels(tmp_path):
    tables = {"labels.csv": TEXT, "meta.csv": "id,label,split\na,1,0\nb,0,1\nc,1,1\n"}
    with pytest.raises(HistoError, match=r"meta.csv, line 2, column split: '0' is not a split"):
        open_folder(tmp_path / "x", IMAGES, tables)


def splits_of(source):
    return [patch.split for patch in source.read_patches()]


@pytest.mark.parametrize(
    "table",
    [
        "id,label,split\na,1,tr\nb,0,va\nc,1,te\n",
        "id,label,Set\na,1,TRN\nb,0,dev\nc,1,tst\n",
        "id,label,phase\na,1,train\nb,0,val\nc,1,test\n",
        "id,label,split,phase\na,1,train,1\nb,0,valid,1\nc,1,test,2\n",
    ],
)
def test_splits_by_short_words_and_in_columns_of_any_name_are_read(tmp_path, table):
    assert splits_of(open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})) == ["train", "valid", "test"]


def test_the_column_of_splits_can_be_given(tmp_path):
    table = "id,label,split,mine\na,1,A,train\nb,0,A,val\nc,1,B,test\n"
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": table}, split_column="MINE")
    assert splits_of(source) == ["train", "valid", "test"]
    with pytest.raises(HistoError, match="there is no column 'other'"):
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table}, split_column="other")


def test_an_empty_column_of_splits_is_ignored(tmp_path):
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label,split\na,1,\nb,0,\nc,1,\n"})
    assert splits_of(source) == ["", "", ""]


@pytest.mark.parametrize(
    "column",
    [
        *(
            "is_valid",
            "is_test",
            "Test",
            "is val",
            "holdout",
            "is_train",
            "isTest",
            "in_test",
            "inTest",
            "for training",
        ),
        *("use_for_test", "is_heldout", "is_held_out", "test_flag", "is_test_split", "test_set"),
    ],
)
def test_a_column_that_marks_a_split_is_an_error(tmp_path, column):
    table = f"id,label,{column}\na,1,False\nb,0,True\nc,1,True\n"
    with pytest.raises(HistoError, match=f"the column {column} seems to mark the images of a split") as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert "write a column split" in caught.value.hint


@pytest.mark.parametrize("names", ["train {} test", "labels_train {} labels_test", "Train-Labels {} TEST-labels"])
def test_tables_named_after_splits_give_the_splits(tmp_path, names):
    train, _, test = names.split()
    tables = {f"{train}.csv": "id,label\na,1\nb,0\n", f"{test}.csv": "id,label\nc,1\n"}
    source = open_folder(tmp_path / "x", IMAGES, tables)
    assert labels_of(source) == FOUND
    assert splits_of(source) == ["train", "train", "test"]
    assert f"split test: 1 image of {test}.csv" in source.report.notes


def test_a_single_table_named_after_a_split_gives_no_split(tmp_path):
    source = open_folder(tmp_path / "x", IMAGES, {"train_labels.csv": TEXT})
    assert splits_of(source) == ["", "", ""]


@pytest.mark.parametrize("line", ["in/{}.tif", "{}", "./in/{}.tif 1", "{}\t0"])
def test_lists_of_images_named_after_splits_give_the_splits(tmp_path, line):
    lists = {"train.txt": "a", "val.txt": "b", "test.txt": "c"}
    tables = {"lists/" + name: line.format(key) + "\n" for name, key in lists.items()}
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": TEXT} | tables)
    assert splits_of(source) == ["train", "valid", "test"]
    assert not any("left out" in note for note in source.report.notes)


def test_an_image_in_the_lists_of_two_splits_is_an_error(tmp_path):
    message = r"the lists put in/b.tif into two splits: (test and train|train and test)"
    with pytest.raises(HistoError, match=message) as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": TEXT, "train.txt": "a\nb\n", "test.txt": "b\nc\n"})
    assert caught.value.hint.endswith("of several folds, keep the files of one")


def test_a_table_of_splits_may_be_separate(tmp_path):
    tables = {"labels.csv": TEXT, "split.csv": "id,split\na,train\nb,val\nc,test\n"}
    assert splits_of(open_folder(tmp_path / "x", IMAGES, tables)) == ["train", "valid", "test"]


def test_the_splits_of_a_table_and_of_folders_must_agree(tmp_path):
    images = ("train/a.tif", "train/b.tif", "test/c.tif")
    table = "id,label,split\na,1,train\nb,0,{}\nc,1,{}\n"
    for folder, last in (("y", "test"), ("z", "")):  # an image that the table does not assign is where its folder says
        source = open_folder(tmp_path / folder, images, {"labels.csv": table.format("val", last)})
        assert sorted(splits_of(source)) == ["test", "train", "valid"]
    with pytest.raises(HistoError, match=r"different splits for test/c.tif: train in the table"):
        open_folder(tmp_path / "x", images, {"labels.csv": table.format("val", "train")})


def test_the_splits_of_wilds_are_the_official_ones(tmp_path):
    images = [f"patches/p/patch_patient_{p}_node_0_x_1_y_7.png" for p in ("001", "002", "020", "040")]
    rows = "001,0,1,7,1,0,0,0\n002,0,1,7,0,1,0,1\n020,0,1,7,1,2,1,0\n040,0,1,7,1,3,2,0\n"
    table = "patient,node,x_coord,y_coord,tumor,slide,center,split\n" + rows
    source = open_folder(tmp_path / "x", images, {"metadata.csv": table})
    assert splits_of(source) == ["train", "valid", "valid", "test"]


def test_an_image_with_1_in_the_columns_of_both_classes_is_an_error(tmp_path):
    table = "id,normal,tumor\na,1,1\nb,1,0\nc,0,1\n"
    with pytest.raises(HistoError, match="a patch has 1 in the columns tumor and normal") as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert "--label-column tumor" in caught.value.hint
    assert labels_of(open_folder(tmp_path / "x", IMAGES, {"labels.csv": table}, label_column="tumor"))["a"] == 1


def test_columns_that_are_not_used_are_named(tmp_path):
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label,grade\na,1,2\nb,0,1\nc,1,1\n"})
    assert "columns of labels.csv that are not used: 'grade'" in source.report.notes


def test_splits_of_a_table_are_reported_once_with_their_counts(tmp_path):
    source = open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label,split\na,1,train\nb,0,dev\nc,1,\n"})
    said = [note for note in source.report.notes if "split" in note]
    assert said == [
        "splits from labels.csv, column split: train (1), valid (1); 1 without a split can be used for training"
    ]


@pytest.mark.parametrize("missing", ["", "NaN", "NA", "None", "null", "?"])
def test_a_row_without_a_label_is_an_error_that_says_to_remove_it(tmp_path, missing):
    with pytest.raises(HistoError, match="line 3, column label") as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": f"id,label\na,1\nb,{missing}\nc,0\n"})
    assert caught.value.hint == "remove the row: an image without a row has no label"


@pytest.mark.parametrize(
    ("labels", "line"),
    [("121", "negative=1 --classes positive=2"), (["-1", "1", "1"], "negative=-1 --classes positive=1")],
)
def test_other_numbers_as_labels_are_an_error_with_a_hint_that_works(tmp_path, labels, line):
    table = "id,label\n" + "".join(f"{key},{label}\n" for key, label in zip("abc", labels, strict=True))
    with pytest.raises(HistoError, match="is not 0 or 1") as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert caught.value.hint.endswith(f"--classes {line}")
    classes = tuple(line.split(" --classes "))
    read = labels_of(open_folder(tmp_path / "y", IMAGES, {"labels.csv": table}, classes=classes))
    assert read == {key: int(label != labels[0]) for key, label in zip("abc", labels, strict=True)}


def test_a_table_without_rows_is_an_error(tmp_path):
    with pytest.raises(HistoError, match=r"labels\.csv has column names but no rows"):
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": "id,label\n"})


@pytest.mark.parametrize("name", ["labels.xlsx", "metadata.jsonl", "in/annotations.json"])
def test_a_table_in_a_format_that_is_not_read_is_named(tmp_path, name):
    source = open_folder(tmp_path / "x", IMAGES, {name: "{}"})
    assert any(note.startswith(f"{name!r} may have the labels, but is not read") for note in source.report.notes)


@pytest.mark.parametrize(
    ("options", "is_noted"), [({}, True), ({"slide_pattern": r"(\w)\.tif"}, False), ({"slides": "patients.csv"}, False)]
)
def test_a_table_of_slides_next_to_the_images_is_suggested(tmp_path, monkeypatch, options, is_noted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patients.csv").write_text("filename,patient\na.tif,1\nb.tif,2\n")
    if "slides" in options:
        options = {"slides": tmp_path / "patients.csv"}
    source = open_folder(tmp_path / "x", ("normal/a.tif", "tumor/b.tif"), {}, **options)
    offer = f"patients.csv next to the images may have the slides: --slides {tmp_path / 'patients.csv'}"
    assert (offer in source.report.notes) == is_noted


def test_a_table_with_one_row_for_each_patient_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "patients.csv").write_text("patient,hospital\n1,A\n2,B\n")
    with pytest.raises(HistoError, match="no column is known as the id; the columns are patient, hospital") as caught:
        open_folder(tmp_path / "x", ("normal/a.tif", "tumor/b.tif"), {}, slides=tmp_path / "patients.csv")
    assert caught.value.hint.endswith(
        "the table needs one row for each image: join a table of patients or slides to the table of images"
    )


@pytest.mark.parametrize(
    ("patients", "options", "is_noted"),
    [
        ("ppq", {}, True),
        ("pqr", {}, False),  # each patient has one slide
        ("p q", {}, False),  # a patient is not known
        ("ppp", {}, False),  # all patches would be in one split
        ("ppq", {"slide_column": "slide"}, False),
    ],
)
def test_patients_with_several_slides_are_named(tmp_path, patients, options, is_noted):
    for form, column in COLUMN_OF_FORM.items() if not options else [("table", "patient"), ("two tables", "case_id")]:
        fine = "slides" if form == "json" else "values of the column slide"
        unit, remedy = column, f"--slide-column {column}"
        if form in ("json", "--slides"):
            unit, remedy = "patient", "the patient as the slide"
        note = f"several {fine} have the same {unit}: {remedy} keeps all patches of one {unit} in the same split"
        assert (note in read_patients(tmp_path / form, "abc", patients, form, options)) == is_noted


# Where the slides and patients are, and the name of the column or key of patients.
COLUMN_OF_FORM = {"table": "patient", "two tables": "case_id", "json": "patient_id", "--slides": "case"}
COLUMN_OF_FORM["larger slides"] = "slide_id"


def read_patients(folder, slides, patients, form, options):
    """Return the notes on images of these slides and patients."""
    rows, column = list(zip("abc", slides, map(str.strip, patients), strict=True)), COLUMN_OF_FORM[form]
    of_slides = "".join(f"{key},1,{slide}\n" for key, slide, _ in rows)
    of_patients = f"id,label,{column}\n" + "".join(f"{key},1,{who}\n" for key, _, who in rows)
    files = {
        "labels.csv": f"id,label,slide,{column}\n" + "".join(f"{key},1,{slide},{who}\n" for key, slide, who in rows)
    }
    if form == "two tables":
        files = {"labels.csv": "id,label,slide\n" + of_slides, "more.csv": of_patients}
    elif form == "json":
        values = {key: {"label": 1, "slide": slide, column: who} for key, slide, who in rows}
        files = {f"in/{key}.json": json.dumps(value) for key, value in values.items()}
    elif form == "--slides":
        options = {"slides": folder.with_name("slides.csv")}
        options["slides"].write_text("id,age,slide\n" + of_slides)
        files = {"labels.csv": of_patients}
    return open_folder(folder, IMAGES, files, **options).report.notes


@pytest.mark.parametrize(
    ("slides", "patients", "options", "is_noted"),
    [
        ("121", "ppq", {}, True),
        ("123", "pqr", {}, False),
        ("112", "pp ", {}, False),
        ("121", "ppq", {"slide_column": "slide"}, False),
    ],
)
def test_a_slide_of_several_patients_is_named(tmp_path, slides, patients, options, is_noted):
    for form in ("table", "two tables", *([] if options else ["json", "--slides"])):
        unit, remedy = COLUMN_OF_FORM[form], f"give --slide-column {COLUMN_OF_FORM[form]}"
        if form in ("json", "--slides"):
            unit, remedy = "patient", "write the patient into the name of each slide"
        note = f"the slide '1' belongs to 2 {unit}s: if slides are numbered within each {unit}, {remedy}"
        assert (note in read_patients(tmp_path / form, slides, patients, form, options)) == is_noted


def test_two_columns_of_slides_are_named_as_in_the_table(tmp_path):
    first = "id,label,wsi,slide\na,1,1,s\nb,0,2,s\nc,1,3,t\n"
    tables = {"labels.csv": first, "more.csv": "id,label,wsi,slide_id\nd,1,1,u\ne,0,4,u\nf,1,5,v\n"}
    notes = open_folder(tmp_path / "x", [f"{key}.tif" for key in "abcdef"], tables).report.notes
    assert "the wsi '1' belongs to 2 slides: if wsis are numbered within each slide, give --slide-column slide" in notes
    tables = {"labels.csv": first.replace("t\n", "s\n"), "more.csv": "id,label,case\na,1,p\nb,0,p\nc,1,q\n"}
    notes = open_folder(tmp_path / "y", IMAGES, tables).report.notes  # the column slide has only one value
    assert any("several values of the column wsi have the same case: --slide-column case" in note for note in notes)


def test_a_table_next_to_the_images_is_suggested_if_nothing_else_has_labels(tmp_path):
    (tmp_path / "clinical.csv").write_text("File name;Diagnosis\na.tif;tumor\n")
    (tmp_path / "other.csv").write_text("cell,size\n1,2\n")
    source = open_folder(tmp_path / "x", IMAGES, {})
    offer = f"clinical.csv next to the images may have the labels: --labels {tmp_path / 'clinical.csv'}"
    assert offer in source.report.notes
    assert offer not in open_folder(tmp_path / "x", IMAGES, {"labels.csv": TEXT}).report.notes


def test_of_two_columns_of_ids_the_one_that_matches_names_exactly_is_used(tmp_path):
    """The numbers of the rows would match the images `0001` and `0002` too, if their zeros are ignored."""
    table = "id,filename,label\n0,0002.tif,1\n1,0001.tif,0\n"
    assert labels_of(open_folder(tmp_path / "x", ("0001.tif", "0002.tif"), {"labels.csv": table})) == {
        "0001": 0,
        "0002": 1,
    }


def test_two_columns_of_ids_of_different_images_are_an_error(tmp_path):
    table = "id,filename,label\n1,2.tif,1\n2,1.tif,0\n"
    with pytest.raises(
        HistoError, match=r"the column id gives line 3 for the image 2\.tif, and the column filename gives line 2"
    ) as e:
        open_folder(tmp_path / "x", ("1.tif", "2.tif"), {"labels.csv": table})
    assert e.value.hint == "choose the column: --id-column id or --id-column filename"
    folder = tmp_path / "x"
    assert labels_of(FolderSource(FolderOptions((str(folder),), id_column="filename"))) == {"1": 0, "2": 1}


def test_a_column_beside_x_that_is_called_y_is_no_label(tmp_path):
    source = open_folder(tmp_path / "x", IMAGES, {"places.csv": "id,x,y\na,0,1\nb,1,1\nc,0,0\n"})
    assert labels_of(source) == dict.fromkeys("abc")


@pytest.mark.parametrize(("column", "values"), [("normal", "010"), ("is_benign", "010"), ("no_tumor", "010")])
def test_a_column_that_marks_normal_patches_is_not_taken_as_the_label(tmp_path, column, values):
    rows = "".join(f"{key},{value}\n" for key, value in zip("abc", values, strict=True))
    tables = {"labels.csv": f"id,{column}\n{rows}"}
    with pytest.raises(HistoError, match=f"1 in the column {column} means a normal patch"):
        open_folder(tmp_path / "x", IMAGES, tables, label_column=column)
    options = {"label_column": column, "classes": ("negative=1", "positive=0")}
    assert labels_of(FolderSource(FolderOptions((str(tmp_path / "x"),), **options))) == FOUND


def test_tables_in_the_folder_that_contradict_each_other_are_an_error_whatever_their_names(tmp_path):
    tables = {"a.csv": TEXT, "b.csv": TEXT.replace("b,0", "b,1")}
    with pytest.raises(HistoError, match=r"b\.csv: a\.csv has a different label for 'b'") as caught:
        open_folder(tmp_path / "x", IMAGES, tables)
    assert "--labels TABLE" in caught.value.hint
    labels = tmp_path / "x" / "a.csv"
    assert labels_of(FolderSource(FolderOptions((str(tmp_path / "x"),), labels=labels))) == FOUND


def test_tables_named_after_splits_are_about_the_images_in_the_folders_of_these_names(tmp_path):
    tables = {"train.csv": "id,label\na,1\n", "test.csv": "id,label\na,0\n"}
    source = open_folder(tmp_path / "x", ("train/a.tif", "test/a.tif"), tables)
    assert {(patch.split, patch.label) for patch in source.read_patches()} == {("train", 1), ("test", 0)}


def test_a_table_of_labels_of_patients_is_named_and_not_used(tmp_path):
    source = open_folder(tmp_path / "x", IMAGES, {"patients.csv": "patient_id,label\np1,1\np2,0\n"})
    assert labels_of(source) == dict.fromkeys("abc")
    assert any(
        note.startswith("patients.csv has labels, but no column is known as the id") for note in source.report.notes
    )


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ("a.tif,tumor\nb.tif,normal\n", "no column is known as the id", "the first line must name the columns"),
        ("id label\na 1\nb 0\nc 1\n", "no column is known as the label", "separate the columns by commas"),
        (TEXT.encode("utf-16-le"), "is not UTF-8", "save it as UTF-8"),
        ("id,label\n01-Jan,1\n2. Jan,0\nMar-05,1\n", "has no label of any image", "changed the ids to dates"),
        ("id,label\n123456789012345000,1\n1234567890123450,0\n", "has no label of any image", "numbers of 15 digits"),
        ("id,label\nx1,1\n02-Jan,0\n", "has no label of any image", "must be the names or paths"),
        ("# made by us\nid,label\na,1\n", "'# made by us' is a comment", "remove this line"),
        ("# labels, made by us\nid,label\na,1\n", "'# labels, made by us' is a comment", "remove this line"),
        ("id,label\na,1\0\nb,0\n", "contains null bytes", "remove the null bytes"),
        ("id,label\na,0.91\nb,0\n", "'0.91' is not 0 or 1", "seems to hold probabilities"),
        ("id,label\na,1\nid,label\nb,0\n", "line 3, column label", "repeats the names of the columns"),
        ("id,label\na,F\nb,T\nc,T\n", "'F' is not 0 or 1", "the labels are F \\(1\\), T \\(2\\)"),
        ("id,label\na,\nb,\nc,1\n", "line 2, column label", "remove the 2 rows without a label"),
        ("id,label\na,-1\nb,-1\nc,1\nd,0\n", "'-1' is not 0 or 1", "remove the 2 rows without a label"),
        ("id,label\na,1\na,0\nb,1\nb,1\n", "'a' occurs twice; 2 rows repeat an id", "it is also on line 2"),
        ("id,label,hospital\na,1,K\xf6ln\n".encode("latin-1"), "is not UTF-8", "in Excel: Save As, CSV UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_how_to_mend_it(tmp_path, table, message, hint):
    with pytest.raises(HistoError, match=message) as caught:
        open_folder(tmp_path / "x", IMAGES, {"labels.csv": table})
    assert re.search(hint, caught.value.hint)
