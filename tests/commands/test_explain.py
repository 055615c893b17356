"""`histo plot --kind explain`, and the explanations beside the errors."""

import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

import histocli
from histocli.errors import UsageError
from histocli.plots.explanations import draw_maps
from tests.cli import write_images

EVAL = ["eval", "--ckpt", "first", "--device", "cpu"]
EXPLAIN = ["plot", "--kind", "explain"]


def colours(path):
    """Return how many pixels of a picture are orange, and how many are blue, as only explanations are."""
    red, green, blue = np.moveaxis(cv2.imread(str(path))[..., ::-1].astype(int), 2, 0)
    return ((red - green > 30) & (green - blue > 20)).sum(), ((blue - green > 20) & (green - red > 30)).sum()


def test_files_are_explained_by_the_network_that_comes_with_histo(empty, histo, tmp_path):
    paths = write_images(histo, tmp_path / "images", 3)
    result = empty(*EXPLAIN, *paths, "--format", "svg")
    (plot,) = (empty.root / "plots").iterdir()
    assert re.fullmatch(r"histonet-pcam-explain-patch-00-and-2-more-[0-9a-f]{8}\.svg", plot.name)
    assert "histonet-pcam comes with histo" in result.stderr
    written = plot.read_text()
    assert "3 patches" in written
    scores = empty("predict", *paths).stdout.splitlines()[1:]
    for score in scores:
        key, prob = score.split(",")
        assert f"<!-- {float(prob):.3f} -->" in written
        assert f"<!-- {key} -->" in written


def test_patches_are_explained_by_their_ids(histo):
    ids = pd.read_csv(histo.root / "manifests" / "synthetic.csv")["id"]
    histo(*EXPLAIN, "--ids", ids[5], "--ids", ids[300], "--run", "first")
    (path,) = (histo.root / "plots").iterdir()
    assert sum(colours(path)) > 1000
    first = path.read_bytes()
    histo(*EXPLAIN, "--ids", ids[5], "--ids", ids[300], "--ckpt", "first")
    assert path.read_bytes() == first
    shutil.copytree(histo.root / "data" / "synthetic", histo.root / "data" / "copy")
    shutil.copy(histo.root / "manifests" / "synthetic.csv", histo.root / "manifests" / "copy.csv")
    error, hint = histo.fails(*EXPLAIN, "--ids", ids[5])
    assert "several data sets have this patch: copy, synthetic" in " ".join(error.split())
    assert hint == "add --data copy"
    histo(*EXPLAIN, "--ids", ids[5], "--data", "copy")
    assert path.read_bytes() == first  # another sheet replaces no earlier one
    assert len(list((histo.root / "plots").iterdir())) == 2


def test_an_evaluation_is_explained_by_its_most_confident_patches_and_its_errors_too(histo):
    histo(*EVAL)
    histo("plot", "--kind", "explain", "--kind", "errors", "--format", "svg")
    sheet, errors = (
        (histo.root / "plots" / f"first-synthetic-val-{kind}.svg").read_text() for kind in ("explain", "errors")
    )
    for name in ("True positives", "True negatives", "False positives", "False negatives"):
        assert name in sheet
    for page in (sheet, errors):
        assert "lowers it in blue" in page


def test_without_the_checkpoint_the_errors_are_drawn_and_say_why_they_are_not_explained(histo):
    histo(*EVAL)
    for path in [*histo.root.glob("checkpoints/*.pt"), *histo.root.glob("runs/*/*.pt")]:
        path.unlink()
    histo("plot", "--kind", "errors", "--format", "svg")
    written = (histo.root / "plots" / "first-synthetic-val-errors.svg").read_text()
    assert "not explained: the checkpoint of first, epoch" in written
    error, hint = histo.fails(*EXPLAIN)
    assert "the checkpoint of first, epoch" in error
    assert "histo eval" in hint
    histo("plot")
    assert not (histo.root / "plots" / "first-synthetic-val-explain.png").exists()


@pytest.mark.parametrize(
    ("args", "code", "error", "hint"),
    [
        (["plot", "roc"], 2, "roc needs exactly one of --kind explain and --kind map", "histo plot --kind explain roc"),
        (["plot", "--kind", "roc", "--ids", "a"], 2, "--ids a is only for --kind explain", "--kind explain --ids a"),
        (
            [*EXPLAIN, "--ids", "nowhere"],
            1,
            "--ids nowhere: there is no such patch in the data sets synthetic",
            "the ids are in manifests/NAME.csv",
        ),
        (
            [*EXPLAIN, "--ids", "a", "--data", "balanced"],
            1,
            "balanced is a subset of the data set synthetic, which has its patches",
            "--data synthetic",
        ),
        ([*EXPLAIN, "--ids", "a,b"], 1, "--ids a,b: there is no such patch", "--ids A --ids B"),
        ([*EXPLAIN, "--ids", "a", "x.png"], 2, "--ids names patches of packed data sets", "give one of them"),
        ([*EXPLAIN, "--ckpt", "first"], 2, "--ckpt needs the patches to explain", "--ids ID"),
        (
            [*EXPLAIN, "x.png", "--ckpt", "first", "--run", "first"],
            2,
            "--ckpt and --run exclude each other",
            "leave --run out",
        ),
        (
            [*EXPLAIN, "x.png", "--ckpt", "net.onnx"],
            1,
            "--ckpt net.onnx: an exported network cannot be explained",
            "give the checkpoint or the run that it was exported from",
        ),
        ([*EXPLAIN, "x.png"], 1, "there is no file, folder or data set 'x.png'", "synthetic"),
        ([*EXPLAIN, "synthetic"], 2, "320 patches are too many for a sheet", "at most 64"),
        (
            [*EXPLAIN, "x.png", "--data", "synthetic"],
            2,
            "--data synthetic is for packed patches",
            "leave one of them out",
        ),
        (EXPLAIN, 1, "has not been evaluated", "histo eval"),
    ],
)
def test_what_cannot_be_explained_is_an_error(histo, args, code, error, hint):
    found, found_hint = histo.fails(*args, code=code)
    assert error in " ".join(found.split())
    assert hint in " ".join(found_hint.split())


def test_an_image_of_another_size_is_explained_as_it_is_scored_and_an_unreadable_one_is_an_error(histo, tmp_path):
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    result = histo(*EXPLAIN, large, "--ckpt", "first")
    assert "1 of 1 images" in " ".join(result.stderr.split())
    histo(*EXPLAIN, large, "--run", "first", "--run", "first")  # is one run
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    error, _ = histo.fails(*EXPLAIN, large, broken, "--ckpt", "first")
    assert "broken.png" in error


def test_orange_raises_and_blue_lowers_and_the_strongest_place_has_the_strongest_colour():
    pixels = np.full((1, 96, 96, 3), 200, np.uint8)
    maps = np.zeros((1, 96, 96), np.float32)
    maps[0, :, 40:48], maps[0, :, 80:], maps[0, :, :8] = 1.0, 2.0, -2.0
    (picture,) = draw_maps(pixels, maps).astype(int)
    grey, weak, orange, blue = (picture[50, x] for x in (60, 44, 90, 4))
    assert grey.max() - grey.min() == 0
    assert orange[0] > orange[1] > orange[2]
    assert blue[0] < blue[1] < blue[2]
    assert np.abs(orange - grey).sum() > np.abs(weak - grey).sum() > 0
    assert not np.isnan(draw_maps(pixels, 0 * maps)).any()


def test_python_gives_the_map_as_an_array(histo):
    predictor = histocli.load("first", workspace=histo.root)
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")[:2]
    maps = predictor.explain(patches)
    assert (maps.shape, maps.dtype) == ((2, 96, 96), np.float32)
    assert (maps.std((1, 2)) > 0).all()
    with pytest.raises(UsageError, match="cannot be scored"):
        predictor.explain(patches[0])
