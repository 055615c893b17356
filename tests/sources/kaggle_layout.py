"""A small copy of Kaggle's archive."""

import hashlib
import io
import zipfile

import cv2
import numpy as np

TRAIN, TEST = 30, 7
PIXELS = np.random.default_rng(0).integers(0, 256, (TRAIN + TEST, 96, 96, 3), np.uint8)
IDS = [hashlib.sha1(pixels).hexdigest() for pixels in PIXELS]
LABELS = {key: i % 2 for i, key in enumerate(IDS[:TRAIN])}


def tiff(pixels):
    return cv2.imencode(".tif", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def labels_csv(labels=LABELS):
    return "id,label\n" + "".join(f"{key},{label}\n" for key, label in labels.items())


def layout_files():
    """The whole archive: name -> bytes."""
    files = {"train_labels.csv": labels_csv().encode()}
    files["sample_submission.csv"] = labels_csv(dict.fromkeys(IDS[TRAIN:], 0)).encode()
    for i, (key, pixels) in enumerate(zip(IDS, PIXELS, strict=True)):
        files[f"{'train' if i < TRAIN else 'test'}/{key}.tif"] = tiff(pixels)
    return files


def write_folder(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def make_zip(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def write_zip(path, files):
    path.write_bytes(make_zip(files))
    return path


def check_all(source):
    """Check that a source yields every patch of the small archive once, in order, with its label and split."""
    assert source.total == TRAIN + TEST
    patches = list(source.read_patches())
    assert [patch.id for patch in patches] == sorted(IDS[:TRAIN]) + sorted(IDS[TRAIN:])
    by_id = dict(zip(IDS, PIXELS, strict=True))
    for patch in patches:
        assert np.array_equal(patch.load(), by_id[patch.id])
        assert patch.label == LABELS.get(patch.id)
        assert patch.split == ("train" if patch.id in LABELS else "test")
    assert source.report.counts == {}
