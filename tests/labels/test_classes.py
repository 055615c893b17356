"""Labels and splits that the names of folders say."""

import numpy as np
import pytest

from histocli.class_names import find_label, find_split, format_classes_option, parse_classes
from histocli.errors import HistoError, UsageError
from histocli.sources.folder import FolderOptions, FolderSource
from tests.sources.kaggle_layout import tiff, write_folder, write_zip

IMAGE = tiff(np.zeros((96, 96, 3), np.uint8))


def pack(folder, *names, **options):
    """(label, split) of each image, by its path; and the notes."""
    write_folder(folder, dict.fromkeys(names, IMAGE))
    source = FolderSource(FolderOptions((str(folder),), **options))
    return {patch.load.name: (patch.label, patch.split) for patch in source.read_patches()}, source.report


NAMES = {
    0: """0 negative neg Normal NORM benign healthy no_tumor no-tumour no%tumor non-tumor nontumor non_cancerous
    a_no_tumor_tissue 0_normal no_metastasis IDC_negative tumor_negative tumor_free without_cancer class0 class_0 no
    false non-cancer tumor_absent no_tumor_present label0 label-0 class=0 y=0 tumor=0""",
    1: """1 positive pos Tumor tumour TUM cancer malignant metastasis b_has_tumor_tissue 1_tumor IDC_positive
    tumor_positive Class1 yes True carcinoma cancerous tumor_present label1 class-1 label=1 target=1 tumour=1""",
    None: """tumor_001 normal_003 -1 2 benign_tumor not_normal 0_tumor 1_normal slide_7 stroma InSitu colon_n x lymph
    lymph%node absent present y0 x=1 label=2""",
}


@pytest.mark.parametrize(
    ("name", "label"), [(name.replace("%", " "), label) for label, names in NAMES.items() for name in names.split()]
)
def test_the_name_of_a_class_gives_its_label(name, label):
    assert find_label(name) == label


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Training TRAIN train_dir train-set training_images train-00000-of-00002 train1 1_train", "train"),
        ("val valid Validation val_dir dev", "valid"),
        ("test Testing test_set holdout hold-out held_out test-2 02_test", "test"),
        ("eval Evaluation eval_set 3_eval", "eval"),
        ("latest contest tested trains evaluated 0 tumor", ""),
    ],
)
def test_the_name_of_a_folder_gives_its_split(names, split):
    assert {name: find_split(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize("form", ["{split}/{name}/{i}.tif", "{name}/{split}/{i}.tif", "data/{split}/x/{name}/{i}.tif"])
def test_split_folders_may_be_above_or_below_the_classes(tmp_path, form):
    pairs = [(s, n) for s in ("Train", "val", "TEST") for n in ("normal", "tumor")]
    found, report = pack(tmp_path / "x", *(form.format(split=s, name=n, i=i) for i, (s, n) in enumerate(pairs)))
    wanted = {"Train": "train", "val": "valid", "TEST": "test"}
    assert sorted(found.values()) == sorted((int(n == "tumor"), wanted[s]) for s, n in pairs)
    assert "splits by the names of folders: test (2), train (2), valid (2)" in report.notes


@pytest.mark.parametrize(
    ("names", "is_noted"),
    [(("entrenamiento", "prueba"), True), (("tr", "va", "te"), True), (("slide_1", "slide_2"), False)],
)
def test_folders_that_may_be_splits_are_named(tmp_path, names, is_noted):
    found, report = pack(
        tmp_path / "x", *(f"{s}/{c}/{i}.tif" for s in names for i, c in enumerate(("normal", "tumor")))
    )
    assert {split for _, split in found.values()} == {""}
    note = f"each of the folders {', '.join(sorted(names))} has both classes, and they are read as one set. If they"
    assert any(text.startswith(note) for text in report.notes) == is_noted


@pytest.mark.parametrize("where", ["file names", "table"])
def test_folders_are_not_named_as_splits_if_the_splits_are_known(tmp_path, where):
    end = "train test" if where == "file names" else "one other"
    paths = [
        f"{folder}/{side}/{side}_{word}.tif"
        for folder, word in zip("ab", end.split(), strict=True)
        for side in ("normal", "tumor")
    ]
    (tmp_path / "x").mkdir()
    if where == "table":
        rows = "".join(f"{path},{'train' if path[0] == 'a' else 'test'}\n" for path in paths)
        (tmp_path / "x" / "splits.csv").write_text("path,split\n" + rows)
    found, report = pack(tmp_path / "x", *paths)
    assert {path: split for path, (_, split) in found.items()} == {p: "train" if p[0] == "a" else "test" for p in paths}
    assert not any("read as one set" in note for note in report.notes)


def test_a_table_that_is_not_understood_in_a_folder_of_one_class_is_an_error(tmp_path):
    (tmp_path / "tumor").mkdir()
    (tmp_path / "tumor" / "labels.csv").write_text("id,finding\na,0\nb,1\n")
    with pytest.raises(HistoError, match=r"labels\.csv, line 1: no column is known as the label"):
        pack(tmp_path / "tumor", "a.tif", "b.tif")


def test_a_list_of_labels_without_a_header_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "labels.txt").write_text("a.tif 0\nb.tif 1\n")
    _, report = pack(tmp_path / "x", "images/a.tif", "images/b.tif")
    assert any("'labels.txt' may have the labels, but is not read: save it as CSV" in note for note in report.notes)


def test_several_locations_may_be_splits(tmp_path):
    for name in ("train", "test"):
        write_folder(tmp_path / name, {"normal/1.tif": IMAGE, "tumor/2.tif": IMAGE})
    source = FolderSource(FolderOptions((str(tmp_path / "train"), str(tmp_path / "test"))))
    assert [(patch.split, patch.label) for patch in source.read_patches()] == [
        ("train", 0),
        ("train", 1),
        ("test", 0),
        ("test", 1),
    ]
    alone = FolderSource(FolderOptions((str(tmp_path / "test"),)))
    assert [patch.split for patch in alone.read_patches()] == ["", ""]


def test_contradicting_split_folders_are_refused(tmp_path):
    with pytest.raises(HistoError, match="train/test/ have the names of different splits: train and test"):
        pack(tmp_path / "x", "train/test/a.tif")


def test_numbered_patients_below_the_classes_are_no_classes(tmp_path):
    names = [f"{name}/{patient}/{patient}.tif" for name in ("normal", "tumor") for patient in range(4)]
    found, _ = pack(tmp_path / "x", *names)
    assert {name: label for name, (label, _) in found.items()} == {name: int("tumor" in name) for name in names}


def test_two_levels_that_disagree_are_refused_and_classes_choose_one(tmp_path):
    names = [f"{name}/{patient}/a{i}.tif" for i, name in enumerate(("normal", "tumor")) for patient in (0, 1)]
    with pytest.raises(HistoError, match=r"normal/1/ have different labels: normal \(label 0\) and 1") as raised:
        pack(tmp_path / "x", *names)
    line = "--classes negative=normal --classes positive=tumor"
    assert line in raised.value.hint
    found, _ = pack(tmp_path / "x", *names, classes=tuple(line.split()[1::2]))
    assert [label for label, _ in found.values()] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("NORM", "MUC", "TUM"), "--classes negative=NORM --classes positive=TUM"),
        (
            ("Normal", "Benign", "InSitu", "Invasive"),
            "--classes negative=Benign,Normal --classes positive=InSitu,Invasive",
        ),
        (tuple("012345678"), "--classes negative=0 --classes positive=1,2,3,4,5,6,7,8"),
        (("tumor", "lesion"), "--classes negative=lesion --classes positive=tumor"),
        (("kein_tumor", "tumor"), "--classes negative=kein_tumor --classes positive=tumor"),
    ],
)
def test_more_than_two_classes_are_refused_with_the_list_and_the_line(tmp_path, names, line):
    files = [f"set/{name}/{name}.tif" for name in names]
    with pytest.raises(HistoError, match=rf"the folders have {len(names)} classes") as raised:
        pack(tmp_path / "x", *files)
    assert all(f"{name} (1)" in str(raised.value) for name in names)
    assert line in raised.value.hint
    found, report = pack(tmp_path / "x", *files, classes=tuple(line.split()[1::2]))
    sides = parse_classes(line.split()[1::2])
    assert {name: label for name, (label, _) in found.items()} == {
        f"set/{name}/{name}.tif": sides.get(name.lower()) for name in names
    }
    assert report.counts == ({"without a label": 1} if "MUC" in names else {})


def test_folders_that_are_not_understood_are_named(tmp_path):
    found, report = pack(tmp_path / "x", "colon_n/1.tif", "colon_aca/2.tif")
    assert {label for label, _ in found.values()} == {None}
    (note,) = report.notes
    assert "folders whose names histo does not know as labels: colon_aca (1), colon_n (1)" in note
    assert "--classes negative=colon_n --classes positive=colon_aca" in note
    assert report.counts == {"without a label": 2}


def test_class_folders_may_be_in_a_folder_named_after_a_class(tmp_path):
    found, _ = pack(tmp_path / "cancer", "normal/1.tif", "tumor/2.tif")
    assert [label for label, _ in found.values()] == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("normal=a",), "--classes normal=a is not understood"),
        (("negative",), "is not understood"),
        (("negative=a,b", "positive=B"), "names B as negative and as positive"),
        (("negative=a",), "names no positive class"),
    ],
)
def test_the_classes_option_with_names_that_do_not_exist_is_refused(options, message):
    with pytest.raises(UsageError, match=message) as raised:
        parse_classes(options)
    assert message.startswith("names no") or "--classes negative=NAME" in raised.value.hint


def test_the_classes_option_gives_unknown_names_a_label():
    assert format_classes_option(["a", "b", "c"]) == "--classes negative=NAME --classes positive=NAME"
    assert format_classes_option(["c", "a b"]) == (
        "--classes negative='a b' --classes positive=c, or --classes negative=c --classes positive='a b'"
    )
    assert format_classes_option(["con_tumor", "sin_tumor"]) == (
        "--classes negative=con_tumor --classes positive=sin_tumor, or "
        "--classes negative=sin_tumor --classes positive=con_tumor"
    )
    assert format_classes_option(["no tumor", "lesion"]) == "--classes negative='no tumor' --classes positive=lesion"


@pytest.mark.parametrize(
    ("names", "negative", "positive"),
    [
        ("class1 class2", "class1", "class2"),
        ("Label_2 Label_1 Label_3", "Label_1", "Label_2,Label_3"),
        ("y=1 y=2", "y=1", "y=2"),
        ("yes maybe", "NAME", "yes"),
        ("true unklar", "NAME", "true"),
        ("no uncertain", "no", "NAME"),
        ("1 unknown", "NAME", "1"),
        ("tumor unknown", "NAME", "tumor"),
        ("LN_met LN_normal", "LN_normal", "LN_met"),
        ("tumor kein_tumor lesion", "NAME", "tumor"),
        ("1 2 unknown", "1", "2"),
    ],
)
def test_the_suggested_classes_option_is_not_the_wrong_way_round(names, negative, positive):
    written = parse_classes(format_classes_option(names.split()).split()[1::2])
    assert written == parse_classes([f"negative={negative}", f"positive={positive}"])


def test_a_folder_that_says_not_normal_does_not_contradict_tumor_above_it(tmp_path):
    found, _ = pack(tmp_path / "x", "tumor/not_normal/a.tif", "normal/b.tif")
    assert {name: label for name, (label, _) in found.items()} == {"tumor/not_normal/a.tif": 1, "normal/b.tif": 0}


# slides in names


@pytest.mark.parametrize(
    ("names", "offer", "slide"),
    [
        (["8863_idx5_x51_y1251_class0", "8864_idx5_x51_y1251_class1"], "IDC", "8863"),
        (["SOB_B_A-14-22549AB-40-001", "SOB_M_DC-14-2523-400-002"], "BreakHis", "14-22549AB"),
        (
            ["patch_patient_020_node_4_x_3328_y_21792", "patch_patient_021_node_4_x_3328_y_21792"],
            "WILDS",
            "patient_020_node_4",
        ),
        (["tumor_001_x5_y6", "normal_017_x5_y6"], "Camelyon16", "tumor_001"),
        (["TCGA-BH-A0B3-01_12", "TCGA-BH-A0B4-01_12"], "TCGA", "TCGA-BH-A0B3"),
    ],
)
def test_known_slide_names_suggest_a_pattern_that_works(tmp_path, names, offer, slide):
    files = [f"{label}/{name}.tif" for label, name in enumerate(names)]
    _, report = pack(tmp_path / "x", *files)
    note = next(note for note in report.notes if note.startswith(f"the names look like {offer}: --slide-pattern"))
    pattern = note.split("'")[1]
    source = FolderSource(FolderOptions((str(tmp_path / "x"),), slide_pattern=pattern))
    assert next(source.read_patches()).slide == slide


def test_a_slide_pattern_finds_the_slides_and_counts_images_without_one(tmp_path):
    names = ["0/p1_a.tif", "1/p2_b.tif", "1/other.tif"]
    pack(tmp_path / "x", *names)
    source = FolderSource(FolderOptions((str(tmp_path / "x"),), slide_pattern=r"(p\d)_"))
    assert {patch.id: patch.slide for patch in source.read_patches()} == {"p1_a": "p1", "p2_b": "p2", "other": ""}
    assert source.report.counts == {"without a slide": 1}
    note = (
        "slides by --slide-pattern: 2 in 2 of 3 images, for example 'p1' with 1; images without a slide: '1/other.tif'"
    )
    assert any(text.startswith(note) for text in source.report.notes)
    with pytest.raises(HistoError, match="matches no image"):
        FolderSource(FolderOptions((str(tmp_path / "x"),), slide_pattern="nothing"))
    with pytest.raises(UsageError, match="not a regular expression"):
        FolderSource(FolderOptions((str(tmp_path / "x"),), slide_pattern="("))


@pytest.mark.parametrize(
    ("pattern", "slides", "warning"),
    [
        (r"patient_(\d+)", ["004", "004", "009"], ""),
        (r"(patch)_", ["patch"] * 3, "with only one slide, no split by slide is possible"),
        (r"_x_(\d+)", ["1", "2", "3"], "every image is a slide of its own"),
    ],
)
def test_a_slide_pattern_replaces_the_slides_of_a_table_and_says_so(tmp_path, pattern, slides, warning):
    rows = [f"{patient},{x},{x},7,1,{'NA' if patient == 9 else patient},0,0" for patient, x in ((4, 1), (4, 2), (9, 3))]
    table = "\n".join(["patient,node,x_coord,y_coord,tumor,slide,center,split", *rows])
    names = [f"patch_patient_00{patient}_node_{x}_x_{x}_y_7.tif" for patient, x in ((4, 1), (4, 2), (9, 3))]
    folder = write_folder(tmp_path / "x", dict.fromkeys(names, IMAGE) | {"metadata.csv": table.encode()})
    source = FolderSource(FolderOptions((str(folder),), slide_pattern=pattern))
    assert [patch.slide for patch in source.read_patches()] == slides
    note = next(note for note in source.report.notes if note.startswith("slides by --slide-pattern, instead of those"))
    assert f"{len(set(slides))} in 3 of 3 images" in note
    assert warning in note
    assert not any("without a slide" in note for note in source.report.notes)


BREAKHIS = (
    "breast/benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.tif",
    "breast/benign/SOB/phyllodes_tumor/SOB_B_PT_14-21998AB/400X/SOB_B_PT-14-21998AB-400-001.tif",
    "breast/malignant/SOB/ductal_carcinoma/SOB_M_DC_14-13412/40X/SOB_M_DC-14-13412-40-001.tif",
    "breast/malignant/SOB/lobular_carcinoma/SOB_M_LC_14-13412/400X/SOB_M_LC-14-13412-400-001.tif",
)


def test_the_printed_pattern_finds_the_slides_of_breakhis(tmp_path):
    _, report = pack(tmp_path / "x", *BREAKHIS)
    assert any("folders that look like magnifications: 400X (2), 40X (2)" in note for note in report.notes)
    pattern = next(note for note in report.notes if note.startswith("the names look like BreakHis")).split("'")[1]
    source = FolderSource(FolderOptions((str(tmp_path / "x"),), slide_pattern=pattern))
    found = {(patch.label, patch.slide) for patch in source.read_patches()}
    assert found == {(0, "14-22549AB"), (0, "14-21998AB"), (1, "14-13412")}


def test_folds_in_a_table_are_an_error_and_one_fold_gives_the_splits(tmp_path):
    rows = [f"{fold},{'test' if i == fold else 'train'},{name}" for fold in (1, 2) for i, name in enumerate(BREAKHIS)]
    write_folder(tmp_path / "x", {"Folds.csv": "\n".join(["fold,grp,filename", *rows]).encode()})
    with pytest.raises(HistoError, match=r"Folds.csv, line 7, .* occurs twice, with two splits") as caught:
        pack(tmp_path / "x", *BREAKHIS)
    assert "on line 3: keep the rows of one fold" in caught.value.hint
    (tmp_path / "x" / "Folds.csv").write_text("\n".join(["fold,grp,filename", *rows[:4]]))
    source = FolderSource(FolderOptions((str(tmp_path / "x"),)))
    assert [patch.split for patch in source.read_patches()] == ["train", "test", "train", "train"]


def test_names_of_slides_that_contain_those_of_splits_are_no_splits(tmp_path):
    rows = "".join(f"{key},1,{slide}\n" for key, slide in zip("abc", ("train_1", "test_1", "normal_3"), strict=True))
    write_folder(tmp_path / "x", {"labels.csv": ("id,label,slide\n" + rows).encode()})
    found, report = pack(tmp_path / "x", "a.tif", "b.tif", "c.tif")
    assert [split for _, split in found.values()] == ["", "", ""]
    assert "slides from labels.csv, column slide" in report.notes


@pytest.mark.parametrize("column", ["split", "cohort"])
@pytest.mark.parametrize("missing", ["NA", "nan", "None", ""])
def test_a_missing_value_beside_splits_is_no_split(tmp_path, column, missing):
    rows = "".join(f"{key},1,{split}\n" for key, split in zip("abc", ("train", "test", missing), strict=True))
    write_folder(tmp_path / "x", {"labels.csv": (f"id,label,{column}\n" + rows).encode()})
    found, report = pack(tmp_path / "x", "a.tif", "b.tif", "c.tif")
    assert [split for _, split in found.values()] == ["train", "test", ""]
    note = f"splits from labels.csv, column {column}: test (1), train (1); 1 without a split can be used for training"
    assert note in report.notes


def test_a_table_of_images_without_a_known_column_is_named(tmp_path):
    table = "\n".join(["filename,age", *(f"{name},5" for name in BREAKHIS)])
    write_folder(tmp_path / "x", {"Ages.csv": table.encode()})
    _, report = pack(tmp_path / "x", *BREAKHIS)
    assert any("Ages.csv has images, but no known column" in note and "'age'" in note for note in report.notes)


def test_labels_at_the_end_of_every_file_name_are_read(tmp_path):
    found, report = pack(tmp_path / "x", "8863_idx5_x1_y1_class0.tif", "8863_idx5_x1_y2_class1.tif")
    assert [label for label, _ in found.values()] == [0, 1]
    assert any("the names of the files, which end in _class0 or _class1" in note for note in report.notes)
    found, report = pack(tmp_path / "x", "another.tif")
    assert {label for label, _ in found.values()} == {None}
    note = (
        "2 of 3 names end in _class0 or _class1, or _label0 or _label1; labels in names are used only if all have one: "
        "another.tif has none"
    )
    assert note in report.notes


@pytest.mark.parametrize("other", ["evals", "extra", "3"])
def test_a_folder_beside_train_that_is_not_a_split_is_an_error(tmp_path, other):
    names = [
        f"{split}/{side}/{i}.tif" for i, split in enumerate(("train", "dev", other)) for side in ("normal", "tumor")
    ]
    with pytest.raises(HistoError, match=f"the folder {other} is beside dev and train, but its name is not a split"):
        pack(tmp_path / "above", *names)
    below = [
        f"{side}/{split}/{i}.tif" for i, split in enumerate(("train", "dev", other)) for side in ("normal", "tumor")
    ]
    with pytest.raises(HistoError, match=f"the folder {other} is beside dev and train"):
        pack(tmp_path / "below", *below)


@pytest.mark.parametrize(
    ("others", "meaning"),
    [((), "test"), (("val",), "test"), (("test",), "valid")],
)
@pytest.mark.parametrize("form", ["{split}/{side}/{split}{side}.tif", "{side}/{split}-{side}.tif", "table", "lists"])
def test_eval_is_the_test_split_or_beside_test_the_validation_split(tmp_path, others, meaning, form):
    splits = ("train", "eval", *others)
    paths = {
        (form if "{" in form else "{side}/{split}_of_{side}s.tif").format(split=split, side=side): split
        for split in splits
        for side in ("normal", "tumor")
    }
    (tmp_path / "x").mkdir()
    if form == "table":
        rows = "".join(f"{path},{int('tumor' in path)},{split}\n" for path, split in paths.items())
        (tmp_path / "x" / "labels.csv").write_text("path,label,split\n" + rows)
    if form == "lists":
        for split in splits:
            (tmp_path / "x" / f"{split}.txt").write_text("\n".join(p for p, s in paths.items() if s == split))
        (tmp_path / "x" / "test.csv").write_text("metric\n0.5\n")
    found, _ = pack(tmp_path / "x", *paths)
    wanted = {"eval": meaning, "val": "valid"}
    assert {path: split for path, (_, split) in found.items()} == {
        path: wanted.get(split, split) for path, split in paths.items()
    }


@pytest.mark.parametrize("form", ["folders", "table"])
def test_eval_beside_val_and_test_is_an_error(tmp_path, form):
    splits = ("train", "val", "test", "eval")
    names = [f"{split}/tumor/{split}.tif" if form == "folders" else f"tumor/{split}_x.tif" for split in splits]
    (tmp_path / "x").mkdir()
    if form == "table":
        rows = "".join(f"{name},1,{split}\n" for name, split in zip(names, splits, strict=True))
        (tmp_path / "x" / "labels.csv").write_text("path,label,split\n" + rows)
    with pytest.raises(HistoError, match="the splits val, test and eval cannot all be used"):
        pack(tmp_path / "x", *names)


def test_a_test_folder_beside_class_folders_and_patients_is_read(tmp_path):
    found, _ = pack(tmp_path / "x", "test/tumor/a.tif", "normal/b.tif", "tumor/c.tif")
    assert found == {"test/tumor/a.tif": (1, "test"), "normal/b.tif": (0, ""), "tumor/c.tif": (1, "")}


def test_folders_that_name_a_split_and_a_class_give_both(tmp_path):
    found, _ = pack(
        tmp_path / "x", "train_normal/a.tif", "train_tumor/b.tif", "no_tumor-test/c.tif", "tumor_test/d.tif"
    )
    assert sorted(found.values()) == [(0, "test"), (0, "train"), (1, "test"), (1, "train")]
    found, _ = pack(tmp_path / "y", "test_negative/a.tif", "test_positive/b.tif")  # of the results of a test
    assert list(found.values()) == [(0, ""), (1, "")]


def test_splits_at_the_ends_of_all_file_names_are_read(tmp_path):
    found, report = pack(
        tmp_path / "x", "normal/train_1.tif", "normal/2-test.tif", "tumor/VAL 3.tif", "tumor/4_train.tif"
    )
    assert sorted(found.values()) == [(0, "test"), (0, "train"), (1, "train"), (1, "valid")]
    assert "splits by the names of the files: test (1), train (2), valid (1)" in report.notes
    found, _ = pack(tmp_path / "y", "normal/normal_001.tif", "tumor/test_001.tif")  # as the slides of Camelyon16
    assert {split for _, split in found.values()} == {""}


@pytest.mark.parametrize(
    ("names", "mask"),
    [
        (("images/normal/a.tif", "images/tumor/b.tif", "masks/normal/a.tif", "masks/tumor/b.tif"), "masks/normal/a"),
        (("normal/a.tif", "normal/a_mask.tif", "tumor/b.tif"), "normal/a_mask"),
        (("normal/a.tif", "tumor/b.tif", "tumor/b-GT.tif"), "tumor/b-GT"),
        (("img/normal/a.tif", "img/tumor/b.tif", "label/normal/a.tif", "label/tumor/b.tif"), "label/normal/a"),
        (("x/normal/a.tif", "x/tumor/b.tif", "annotations/tumor/b.tif"), "annotations/tumor/b"),
    ],
)
def test_masks_among_the_images_are_an_error(tmp_path, names, mask):
    with pytest.raises(HistoError, match=f"images are masks by their names, such as {mask}.tif") as caught:
        pack(tmp_path / "x", *names)
    assert "give only the folders of the images" in caught.value.hint


def test_a_folder_labels_without_the_names_of_other_images_holds_patches(tmp_path):
    found, _ = pack(tmp_path / "x", "labels/normal/a.tif", "labels/tumor/b.tif")
    assert [label for label, _ in found.values()] == [0, 1]


@pytest.mark.parametrize("name", ["thumbnails/a.tif", "normal/a_thumb.tif"])
def test_thumbnails_among_the_images_are_an_error(tmp_path, name):
    with pytest.raises(HistoError, match=f"1 of 3 images are thumbnails by their names, such as {name}"):
        pack(tmp_path / "x", "normal/a.tif", "tumor/b.tif", name)


@pytest.mark.parametrize(
    ("copies", "count"),
    [
        (("normal/a_rot90.tif", "tumor/b_flip.tif"), 2),
        (("normal/aug_0_a.tif", "normal/aug_1_a.tif"), 2),
        (("normal/a (1).tif", "tumor/b - Copy.tif"), 2),
        (("augmented/normal/a.tif",), 1),
        (("rot90/normal/a.tif",), 1),
        (("rotterdam/normal/c.tif", "rotterdam/normal/c (1).tif"), 1),
        (("normal/a.png",), 1),
        (("normal/c (1).tif", "normal/c (2).tif", "normal/rotunda_1.tif", "normal/a_1.tif", "tumor/a.tif"), 0),
    ],
)
def test_copies_of_images_are_counted_by_their_names(tmp_path, copies, count):
    _, report = pack(tmp_path / "x", "normal/a.tif", "tumor/b.tif", *copies)
    notes = [note for note in report.notes if "are copies of others" in note]
    assert [note.split(" of ")[0] for note in notes] == ([str(count)] if count else [])


def test_labels_in_names_that_contradict_the_folders_are_an_error(tmp_path):
    with pytest.raises(
        HistoError, match=r"1 of 2 images have another label in their names: 0/x_class1\.tif has label 0"
    ):
        pack(tmp_path / "x", "0/x_class1.tif", "1/y_class1.tif")


@pytest.mark.parametrize("names", [("1_label_0.tif", "2_label_1.tif"), ("a-class0.tif", "b-Label1.tif")])
def test_other_forms_of_labels_at_the_end_of_names_are_read(tmp_path, names):
    found, _ = pack(tmp_path / "x", *names)
    assert [label for label, _ in found.values()] == [0, 1]


@pytest.mark.parametrize("names", [("tumor_1.tif", "normal_2.tif"), ("a_0.tif", "b_1.tif")])
def test_words_in_names_are_no_labels_but_a_line_says_what_to_do(tmp_path, names):
    found, report = pack(tmp_path / "x", *names)
    assert {label for label, _ in found.values()} == {None}
    assert any("the labels may be in the names of the files" in note for note in report.notes)


def test_a_folder_whose_name_contradicts_the_class_above_it_is_an_error(tmp_path):
    with pytest.raises(HistoError, match=r"the folder normal_adjacent is below tumor \(label 1\)"):
        pack(tmp_path / "x", "tumor/normal_adjacent/a.tif", "tumor/core/b.tif", "normal/c.tif")
    classes = ("negative=normal", "positive=tumor")
    source = FolderSource(FolderOptions((str(tmp_path / "x"),), classes=classes))
    assert [patch.label for patch in source.read_patches()] == [0, 1, 1]
    for i, name in enumerate(("tumor/normal_without_cancer", "tumor/normal_no_tumor", "normal/non_invasive_carcinoma")):
        with pytest.raises(HistoError, match="but its name means another label"):
            pack(tmp_path / f"z{i}", f"{name}/a.tif", "tumor/b.tif", "normal/c.tif")
    found, _ = pack(tmp_path / "y", "normal/tumor_001/a.tif", "tumor/tumor_001/b.tif")  # patches of one slide
    assert [label for label, _ in found.values()] == [0, 1]


def test_archives_named_after_splits_give_the_splits(tmp_path):
    for name in ("train", "test"):
        write_zip(tmp_path / f"{name}.zip", {"normal/a.tif": IMAGE, "tumor/b.tif": IMAGE})
    source = FolderSource(FolderOptions((str(tmp_path / "train.zip"), str(tmp_path / "test.zip"))))
    found = [(patch.label, patch.split) for patch in source.read_patches()]
    assert found == [(0, "train"), (1, "train"), (0, "test"), (1, "test")]


def test_archives_named_after_classes_give_the_labels(tmp_path):
    for name in ("normal", "tumor"):
        write_zip(tmp_path / f"{name}.zip", {f"{name[0]}.tif": IMAGE})
    source = FolderSource(FolderOptions((str(tmp_path / "normal.zip"), str(tmp_path / "tumor.zip"))))
    assert [(patch.id, patch.label) for patch in source.read_patches()] == [("n", 0), ("t", 1)]
