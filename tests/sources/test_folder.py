"""Patches from folders and archives: labels, ids, slides, sizes."""

import numpy as np
import pytest

from histocli.data.manifest import read_manifest
from histocli.data.store import open_store, pack
from histocli.enums import Resize
from histocli.errors import HistoError
from histocli.sources.folder import FolderOptions, FolderSource
from histocli.workspace import Workspace
from tests.listeners import RecordingListener
from tests.sources.kaggle_layout import tiff, write_folder, write_zip

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), np.uint8)
TIFFS = [tiff(pixels) for pixels in PIXELS]


def folder_source(locations, **options):
    return FolderSource(FolderOptions(locations=tuple(map(str, locations)), **options))


def labels_of(source):
    return {patch.id: patch.label for patch in source.read_patches()}


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_class_folders_may_be_nested_in_any_way(tmp_path, write):
    tree = {
        "0/a.tif": TIFFS[0],
        "1/b.tif": TIFFS[1],
        "x/Negative/y/c.tif": TIFFS[2],
        "x/POSITIVE/d.tif": TIFFS[3],
        "tumor/slide_1/e.tif": TIFFS[4],
        "x/f.tif": TIFFS[5],
        "top.tif": TIFFS[6],
        "1/readme.txt": b"no image",
    }
    source = folder_source([write(tmp_path / "patches.zip", tree)])
    assert source.total == 7
    expected = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 1, "f": None, "top": None}
    assert labels_of(source) == expected
    assert source.report.counts == {"without a label": 2}
    pixels = dict(zip("abcdef", PIXELS, strict=False)) | {"top": PIXELS[6]}
    for patch in source.read_patches():
        assert np.array_equal(patch.load(), pixels[patch.id])


TABLE = b"id,label\na,1\nb,0\nc,1\n"
IMAGES = {"in/a.tif": TIFFS[0], "in/b.tif": TIFFS[1], "in/c.tif": TIFFS[2]}
FOUND = {"a": 1, "b": 0, "c": 1}


def test_a_table_of_labels_in_the_archive_is_found(tmp_path):
    source = folder_source([write_zip(tmp_path / "x.zip", IMAGES | {"deep/my_labels_1.CSV": TABLE})])
    assert labels_of(source) == FOUND
    assert source.report.notes == ["labels from deep/my_labels_1.CSV, column label: 3 of 3 rows match 3 of 3 images"]
    assert source.report.counts == {}


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_table_next_to_the_folder_is_found(tmp_path, write):
    write_folder(tmp_path, {"train_labels.csv": TABLE, "other.csv": b"x"})
    source = folder_source([write(tmp_path / "x.zip", IMAGES)])
    assert labels_of(source) == FOUND
    path = tmp_path / "train_labels.csv"
    assert source.report.notes == [f"labels from {path}, column label: 3 of 3 rows match 3 of 3 images"]


def test_the_labels_option_is_preferred_to_tables_and_class_folders(tmp_path):
    write_folder(tmp_path, {"mine.csv": TABLE})
    tree = {name.replace("in/", "0/"): data for name, data in IMAGES.items()} | {"labels.csv": b"id,label\na,0\n"}
    source = folder_source([write_folder(tmp_path / "x", tree)], labels=tmp_path / "mine.csv")
    assert labels_of(source) == FOUND


def test_a_table_without_these_images_does_not_hide_the_class_folders(tmp_path):
    write_folder(tmp_path, {"train_labels.csv": b"id,label\nx1,0\n"})
    source = folder_source([write_folder(tmp_path / "mine", {"0/a.tif": TIFFS[0], "1/b.tif": TIFFS[1]})])
    assert labels_of(source) == {"a": 0, "b": 1}
    assert source.report.counts == {}
    ignored, folders = source.report.notes
    assert ignored.startswith("skipped a table next to the images: ")
    assert "train_labels.csv has no label of any image: its ids are like 'x1'" in ignored
    assert folders == "labels by the names of folders: 0 = 0 (1), 1 = 1 (1)"
    with pytest.raises(HistoError, match=r"train_labels\.csv has no label of any image"):
        folder_source([tmp_path / "mine"], labels=tmp_path / "train_labels.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HistoError, match="there are no images"):
        folder_source([tmp_path / "empty"], labels=tmp_path / "train_labels.csv")


def test_images_without_labels_and_labels_without_images_are_counted(tmp_path):
    table = b"id,label\na,1\nelsewhere/b.tif,0\nz,1\n"
    source = folder_source([write_folder(tmp_path / "x", IMAGES | {"labels.csv": table})])
    assert labels_of(source) == {"a": 1, "b": None, "c": None}
    assert source.report.counts == {"labels without an image": 2, "without a label": 2}


def test_several_locations_may_have_a_table_each(tmp_path):
    first = write_zip(
        tmp_path / "1.zip", {"t/a.tif": TIFFS[0], "t/b.tif": TIFFS[1], "labels.csv": b"id,label\na,1\nb,0\n"}
    )
    second = write_zip(tmp_path / "2.zip", {"t/c.tif": TIFFS[2], "labels.csv": b"id,label\nc,1\n"})
    third = write_folder(tmp_path / "beside" / "3", {"d.tif": TIFFS[3]})
    write_folder(tmp_path / "beside", {"labels.csv": b"id,label\nd,0\n"})
    source = folder_source([second, third, first])
    assert [patch.id for patch in source.read_patches()] == ["c", "d", "a", "b"]
    assert labels_of(source) == {"a": 1, "b": 0, "c": 1, "d": 0}
    assert source.report.origin == f"{second}, {third}, {first}"


def test_tables_that_contradict_each_other_are_an_error(tmp_path):
    first = write_folder(tmp_path / "1", {"a.tif": TIFFS[0], "labels.csv": b"id,label\na,1\n"})
    second = write_folder(tmp_path / "2", {"b.tif": TIFFS[1], "labels.csv": b"id,label\na,0\nb,1\n"})
    with pytest.raises(HistoError, match=r"labels\.csv: .*labels\.csv has a different label for 'a'"):
        folder_source([first, second])


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["x/a.tif", "y/b.png"], ["a", "b"]),
        (["x/a.tif", "y/a.tif"], ["x/a", "y/a"]),
        (["x/a.png", "x/a.tif"], ["x/a.png", "x/a.tif"]),
        (["a.1.tif", "a.2.tif"], ["a.1", "a.2"]),
    ],
)
def test_ids_are_paths_if_stems_are_not_unique(tmp_path, names, ids):
    folder = write_folder(tmp_path / "x", dict.fromkeys(names, TIFFS[0]))
    assert [patch.id for patch in folder_source([folder]).read_patches()] == ids


def test_a_label_that_fits_two_images_is_an_error(tmp_path):
    tree = {"x/a.tif": TIFFS[0], "y/a.tif": TIFFS[1]}
    folder = write_folder(tmp_path / "x", tree | {"labels.csv": b"id,label\na,1\n"})
    with pytest.raises(
        HistoError, match=r"'a' in the table of labels is that of two images, x/a\.tif and y/a\.tif"
    ) as raised:
        folder_source([folder])
    assert "paths" in raised.value.hint
    (folder / "labels.csv").write_text("id,label\nx/a.tif,1\ny/a,0\n")
    assert labels_of(folder_source([folder])) == {"x/a": 1, "y/a": 0}


def test_the_same_paths_in_two_locations_are_an_error(tmp_path):
    places = [write_folder(tmp_path / name, {"a.tif": TIFFS[0]}) for name in "xy"]
    with pytest.raises(HistoError, match="have the same relative paths"):
        folder_source(places)


def test_only_camelyon16_slides_have_a_hospital(tmp_path):
    table = b"id,wsi\na,camelyon16_train_normal_041\nb,camelyon16_train_tumor_071\nc,tumor_071\n"
    write_folder(tmp_path, {"slides.csv": table})
    source = folder_source([write_folder(tmp_path / "x", IMAGES)], slides=tmp_path / "slides.csv")
    assert [patch.hospital for patch in source.read_patches()] == ["RUMC", "UMCU", ""]


def test_slides_are_matched_like_labels(tmp_path):
    (tmp_path / "wsi.csv").write_text("id,wsi\na,s1\nin/b.tif,s2\nz,s9\n")
    source = folder_source([write_folder(tmp_path / "x", IMAGES)], slides=tmp_path / "wsi.csv")
    assert {patch.id: patch.slide for patch in source.read_patches()} == {"a": "s1", "b": "s2", "c": ""}
    assert source.report.counts["without a slide"] == 1
    assert source.report.counts["slides without an image"] == 1


@pytest.mark.parametrize(("resize", "verb"), [(Resize.CROP, "cut to the centre"), (Resize.SCALE, "scaled")])
def test_images_of_other_sizes_are_resized_and_counted(tmp_path, resize, verb):
    big = np.pad(PIXELS[0], ((48, 48), (48, 48), (0, 0)))
    folder = write_folder(tmp_path / "x", {"a.tif": tiff(big), "b.tif": TIFFS[1], "c.tif": tiff(big)})
    workspace = Workspace(tmp_path / "workspace")
    source = folder_source([folder], resize=resize)
    assert pack(source, workspace, "folder").patches == 3
    assert source.report.counts[verb] == 2
    assert f"the images that were {verb} had 192x192 pixels" in source.report.notes
    store = open_store(workspace.patches_path("folder"))
    assert np.array_equal(store[1], PIXELS[1])
    assert np.array_equal(store[0], PIXELS[0]) == (resize is Resize.CROP)


def test_unreadable_images_are_named_and_odd_names_survive_the_manifest(tmp_path):
    tree = {'1/a,"b"\nc.tif': TIFFS[0], "0/no.tif": b"text", "0/empty.png": b"", "0/ü d.tif": TIFFS[1]}
    workspace, listener = Workspace(tmp_path / "workspace"), RecordingListener()
    source = folder_source([write_folder(tmp_path / "x", tree)])
    packed = pack(source, workspace, "folder", listener=listener)
    assert (packed.patches, packed.unreadable) == (2, 2)
    assert [message.split(":")[0] for message in listener.errors] == ["0/empty.png", "0/no.tif"]
    frame = read_manifest(workspace.manifest_path("folder"))
    assert frame[["id", "label"]].values.tolist() == [["ü d", 0], ['a,"b"\nc', 1]]


@pytest.mark.parametrize("tree", [{}, {"readme.txt": b"x"}, {".hidden.png": b"x"}])
def test_a_location_without_images_is_an_error_that_names_it(tmp_path, tree):
    folder = tmp_path / "patches"
    folder.mkdir()
    with pytest.raises(HistoError, match=r"there are no images in .*patches"):
        folder_source([write_folder(folder, tree)])


def test_a_missing_location_or_table_is_an_error_that_names_it(tmp_path):
    folder = write_folder(tmp_path / "x", IMAGES)
    with pytest.raises(HistoError, match=r"there is no .*nowhere"):
        folder_source([folder, tmp_path / "nowhere"])
    for table in ("labels", "slides"):
        with pytest.raises(HistoError, match=r"there is no .*mine\.csv"):
            folder_source([folder], **{table: tmp_path / "mine.csv"})
    (tmp_path / "text.txt").write_text("no image")
    with pytest.raises(HistoError, match=r"text\.txt is a text file, which histo does not read"):
        folder_source([tmp_path / "text.txt"])


def test_real_patches_are_packed_with_their_labels(shared_data, tmp_path):
    source = folder_source([shared_data / "pcam_valid.zip"])
    labels = labels_of(source)
    assert (len(labels), sum(labels.values()), source.report.counts) == (2907, 1407, {})
    workspace = Workspace(tmp_path)
    packed = pack(source, workspace, "valid", n=50, seed=0)
    assert (packed.patches, packed.unreadable, packed.sha1_mismatches) == (50, 0, 0)
    frame = read_manifest(workspace.manifest_path("valid"), ("id", "label", "sha1"))
    assert all(labels[key] == label for key, label in zip(frame["id"], frame["label"], strict=True))
    assert (frame["id"] == frame["sha1"]).mean() > 0.9  # libjpegs may differ in a bit


def test_images_that_are_rescaled_by_mpp_are_reported(tmp_path):
    write_folder(tmp_path, {"a.tif": tiff(np.zeros((192, 192, 3), np.uint8))})
    notes = FolderSource(FolderOptions((str(tmp_path),), mpp="0.486")).report.notes
    assert "rescaled the images from 0.486 to 0.972 um per pixel" in notes
