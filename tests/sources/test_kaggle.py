"""The competition's archive: as a folder, as a zip, and a small real one."""

import csv
from pathlib import Path

import pytest

from histocli.data.store import open_store, pack
from histocli.errors import HistoError
from histocli.sources import PlannedFile, SourceContext
from histocli.sources.kaggle import KaggleSource
from histocli.sources.kaggle_client import COMPETITION
from histocli.workspace import Workspace
from tests.listeners import RecordingListener
from tests.sources.kaggle_layout import (
    IDS,
    PIXELS,
    TEST,
    TRAIN,
    check_all,
    labels_csv,
    layout_files,
    tiff,
    write_folder,
    write_zip,
)

SHARED = Path(__file__).parents[3] / "shared" / "data" / "kaggle_layout.zip"


@pytest.fixture(scope="session")
def layout():
    return layout_files()


@pytest.fixture
def context(tmp_path):
    return SourceContext(tmp_path / "downloads")


@pytest.mark.parametrize("prefix", ["", f"{COMPETITION}/"])
def test_a_folder_and_an_archive_give_the_same_patches(tmp_path, context, layout, prefix):
    files = {prefix + name: data for name, data in layout.items()}
    check_all(KaggleSource(write_folder(tmp_path / "unpacked", files), context))
    check_all(KaggleSource(write_zip(tmp_path / "archive.zip", files), context))


def test_packing_checks_the_ids(tmp_path, context, layout):
    stranger = "0" * 40
    files = layout | {"train_labels.csv": (labels_csv() + f"{stranger},1\n").encode()}
    files[f"train/{stranger}.tif"] = tiff(PIXELS[0][::-1])
    workspace = Workspace(tmp_path / "workspace")
    packed = pack(KaggleSource(write_zip(tmp_path / "archive.zip", files), context), workspace, "kaggle")
    assert (packed.patches, packed.sha1_mismatches, packed.unreadable) == (TRAIN + TEST + 1, 1, 0)
    assert len(open_store(workspace.patches_path("kaggle"))) == TRAIN + TEST + 1


def test_packing_names_an_unreadable_image(tmp_path, context, layout):
    files = layout | {f"train/{IDS[3]}.tif": b"II*\0 no image"}
    listener = RecordingListener()
    source = KaggleSource(write_folder(tmp_path / "unpacked", files), context)
    packed = pack(source, Workspace(tmp_path), "kaggle", listener=listener)
    assert packed.unreadable == 1
    assert f"train/{IDS[3]}.tif" in listener.errors[0]


def test_images_without_labels_and_labels_without_images_are_counted(tmp_path, context, layout):
    files = dict(layout)
    del files[f"train/{IDS[0]}.tif"], files[f"train/{IDS[1]}.tif"]
    files["train_labels.csv"] = labels_csv(dict.fromkeys(IDS[: TRAIN - 3], 1)).encode()
    source = KaggleSource(write_folder(tmp_path / "unpacked", files), context)
    assert source.report.counts == {"labels without an image": 2, "train images without a label": 3}
    labels = {patch.id: patch.label for patch in source.read_patches()}
    assert [labels[key] for key in IDS[TRAIN - 3 : TRAIN]] == [None] * 3


def test_other_files_are_ignored(tmp_path, context, layout):
    extra = {
        "train/readme.txt": b"",
        "train/.hidden.tif": b"",
        "train/more/a.tif": b"",
        "extra/b.tif": b"",
        "c.tif": b"",
    }
    check_all(KaggleSource(write_folder(tmp_path / "unpacked", layout | extra), context))


@pytest.mark.parametrize("packed", [False, True])
def test_slides_are_added_from_their_table(tmp_path, context, layout, packed):
    slides = [f"camelyon16_train_{'tumor' if i % 2 else 'normal'}_{i * 7:03}" for i in range(TRAIN)]
    table = "id,wsi\n" + "".join(f"{key},{slide}\n" for key, slide in zip(IDS, slides, strict=False))
    path = tmp_path / "patch_id_wsi_full.csv"
    path.write_text(table)
    if packed:
        path = write_zip(path.with_suffix(".zip"), {path.name: path.read_bytes()})
    source = KaggleSource(write_folder(tmp_path / "unpacked", layout), context, slides=path)
    found = {patch.id: (patch.slide, patch.hospital) for patch in source.read_patches()}
    assert [found[key][0] for key in IDS] == slides + [""] * TEST
    assert found[IDS[0]] == ("camelyon16_train_normal_000", "RUMC")
    assert found[IDS[29]] == ("camelyon16_train_tumor_203", "UMCU")
    assert f"slides from {path}: {TRAIN} of {TRAIN} rows match {TRAIN} of {TRAIN + TEST} images" in source.report.notes
    assert source.report.counts == {}


def test_patches_without_a_slide_are_counted(tmp_path, context, layout):
    path = tmp_path / "slides.csv"
    path.write_text(f"id,wsi\n{IDS[0]},a\n")
    source = KaggleSource(write_folder(tmp_path / "unpacked", layout), context, slides=path)
    assert source.report.counts == {"train images without a slide": TRAIN - 1}


def test_the_ids_of_slides_may_have_a_suffix_as_those_of_labels(tmp_path, context, layout):
    path = tmp_path / "slides.csv"
    path.write_text("id,wsi\n" + "".join(f"{key}.tif,slide-{i % 3}\n" for i, key in enumerate(IDS[:TRAIN])))
    source = KaggleSource(write_folder(tmp_path / "unpacked", layout), context, slides=path)
    slides = {patch.id: patch.slide for patch in source.read_patches()}
    assert [slides[key] for key in IDS[:TRAIN]] == [f"slide-{i % 3}" for i in range(TRAIN)]
    assert source.report.counts == {}


@pytest.mark.parametrize("rows", ["", "another-image,slide-1\n"])
def test_a_table_of_slides_without_an_id_of_an_image_is_an_error(tmp_path, context, layout, rows):
    path = tmp_path / "slides.csv"
    path.write_text(f"id,wsi\n{rows}")
    with pytest.raises(HistoError, match=r"no id of .*slides\.csv is the id of an image") as caught:
        KaggleSource(write_folder(tmp_path / "unpacked", layout), context, slides=path)
    assert min(IDS[:TRAIN]) in caught.value.hint


def test_a_zip_with_two_tables_is_not_a_slide_table(tmp_path, context):
    path = write_zip(tmp_path / "slides.zip", {"a.csv": b"id,wsi\n", "b.csv": b"id,wsi\n"})
    with pytest.raises(HistoError, match="2 CSV tables"):
        KaggleSource(None, context, slides=path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "line 1: no column is known as the id"),
        ("patient_age,label\na,1\n", "line 1: no column is known as the id"),
        (f"id,label\n{IDS[0]},1\n{IDS[1]},2\n", "train_labels.csv, line 3, column label: '2'"),
        (f"id,label\n{IDS[0]},\n", "line 2, column label"),
        (f"id,label\n{IDS[0]},nan\n", "line 2, column label: 'nan'"),
        (f"id,label\n{IDS[0]},1\n{IDS[1]},0\n{IDS[0]},1\n", "line 4, column id"),
        (f"id,label\n{IDS[0]}\n", "line 2"),
    ],
)
def test_a_malformed_label_table_is_an_error_with_its_line(tmp_path, context, layout, table, message):
    path = write_zip(tmp_path / "archive.zip", layout | {"train_labels.csv": table.encode()})
    with pytest.raises(HistoError, match=message):
        KaggleSource(path, context)


def test_another_layout_is_an_error_before_anything_is_read(tmp_path, context, layout):
    without = {name: data for name, data in layout.items() if name != "train_labels.csv"}
    with pytest.raises(HistoError, match=r"no train_labels\.csv") as caught:
        KaggleSource(write_folder(tmp_path / "a", without), context)
    assert "--source folder" in caught.value.hint
    with pytest.raises(HistoError, match="no images"):
        KaggleSource(write_folder(tmp_path / "b", {"train_labels.csv": labels_csv().encode()}), context)
    with pytest.raises(HistoError, match=r"2 files train_labels\.csv"):
        KaggleSource(write_folder(tmp_path / "c", {"x/train_labels.csv": b"", "y/train_labels.csv": b""}), context)
    with pytest.raises(HistoError, match="there is no"):
        KaggleSource(tmp_path / "absent", context)
    twice = layout | {f"train/{IDS[0]}.png": layout[f"train/{IDS[0]}.tif"]}
    with pytest.raises(HistoError, match="more than one image has the id"):
        KaggleSource(write_folder(tmp_path / "d", twice), context)


def test_a_broken_archive_is_an_error(tmp_path, context, layout):
    path = write_zip(tmp_path / "archive.zip", layout)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(HistoError, match=r"archive\.zip"):
        KaggleSource(path, context)


def test_archive_members_cannot_write_outside_the_folder(tmp_path, context, layout):
    inside = tmp_path / "inside"
    inside.mkdir()
    evil = {"../escaped.csv": b"x", "/tmp/escaped.tif": b"x", "train/../../escaped.tif": b"x", "..\\escaped.tif": b"x"}
    path = write_zip(inside / "archive.zip", layout | evil)
    before = sorted(tmp_path.rglob("*"))
    check_all(KaggleSource(path, context))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not SHARED.is_file(), reason="the small real archive is not in the folder next to the repository")
def test_the_layout_of_kaggles_archive_is_read(tmp_path, context):
    source = KaggleSource(SHARED, context)
    assert source.total == 828
    workspace = Workspace(tmp_path / "workspace")
    packed = pack(source, workspace, "kaggle")
    assert (packed.patches, packed.sha1_mismatches, packed.unreadable) == (828, 0, 0)
    assert source.report.counts == {}
    with workspace.manifest_path("kaggle").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    train = [row for row in rows if row["split"] == "train"]
    assert len(train) == 800
    assert sum(row["label"] == "1" for row in train) == 297
    assert {row["label"] for row in rows if row["split"] == "test"} == {""}


@pytest.mark.parametrize("given", ["train", "test", "train_labels.csv"])
def test_for_a_part_of_the_archive_the_hint_names_the_whole_folder(tmp_path, context, layout, given):
    folder = write_folder(tmp_path / "unpacked", layout)
    with pytest.raises(HistoError) as caught:
        KaggleSource(folder / given, context)
    assert caught.value.hint == f"give the folder that contains train_labels.csv, train/ and test/: --from {folder}"


def test_the_plan_says_what_is_on_disk(tmp_path, context, layout):
    path = write_zip(tmp_path / "archive.zip", layout)
    assert KaggleSource(path, context).plan() == [PlannedFile("archive.zip", path.stat().st_size, True)]
    folder = write_folder(tmp_path / "unpacked", layout)
    assert KaggleSource(folder, context).plan() == [PlannedFile("unpacked", None, True)]


def convert(layout, rename):
    return {rename(name): data for name, data in layout.items()}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("train/", "train/train/").replace("test/", "test/test/"),
        lambda name: f"a/b/{name}",
        lambda name: name.replace("train/", "train/class/"),
        lambda name: name.replace("/", "\\"),
    ],
)
def test_the_files_may_be_in_other_folders(tmp_path, context, layout, rename):
    check_all(KaggleSource(write_zip(tmp_path / "x.zip", convert(layout, rename)), context))


def test_ids_may_have_a_suffix_and_images_may_be_png_files(tmp_path, context, layout):
    images = {name.replace(".tif", ".png"): to_png(data) for name, data in layout.items() if name.endswith(".tif")}
    png = {"sample_submission.csv": layout["sample_submission.csv"]} | images
    png["train_labels.csv"] = "".join(
        f"{line.replace(',', '.tif,')}\n" if i else f"{line}\n" for i, line in enumerate(labels_csv().splitlines())
    ).encode()
    check_all(KaggleSource(write_folder(tmp_path / "png", png), context))


def to_png(data):
    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".png", image)[1].tobytes()


def test_the_test_images_are_compared_with_the_sample_submission(tmp_path, context, layout):
    files = dict(layout)
    del files[f"test/{IDS[TRAIN]}.tif"]
    files["test/extra.tif"] = layout[f"test/{IDS[TRAIN + 1]}.tif"]
    source = KaggleSource(write_folder(tmp_path / "x", files), context)
    assert source.report.counts == {
        "ids of sample_submission.csv without an image": 1,
        "test images that are not in sample_submission.csv": 1,
    }
