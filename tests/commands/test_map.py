"""`histo plot --kind map`: scored patches on the planes of their slides."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from histocli.inference.score_table import read_scores
from histocli.plots.maps import describe_map
from histocli.slides.patch_maps import PlacedPatches, make_patch_maps, place_evaluation, place_predictions
from histocli.slides.resolution import GivenResolutions
from histocli.workspace import Workspace
from tests.cli import Histo, read_rows, template, write_rows

CELL = 32 * 0.972 / 1000  # millimetres


MPP = 0.243


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A workspace whose patches have positions, their evaluation, and their scores in a table of `predict`."""
    folder = tmp_path_factory.mktemp("map")
    histo = Histo(shutil.copytree(template(), folder / "workspace"))
    manifest = histo.root / "manifests" / "synthetic.csv"
    rows = read_rows(manifest)
    for number, row in enumerate(rows):
        row |= {"x": 128 * (number % 20), "y": 128 * (number // 20), "mpp_x": MPP, "mpp_y": MPP}
        row |= {"slide": f"slide_{number % 2}"}
    write_rows(manifest, rows)
    histo("eval", "--ckpt", "first", "--data", "synthetic", "--device", "cpu")
    histo("predict", "synthetic", "--ckpt", "first", "--columns", "full", "--out", folder / "scores.csv")
    return histo, folder / "scores.csv"


def evaluation(histo):
    return histo.root / "metrics" / "first-synthetic-all.csv"


def check_cells(maps, rows):
    """Each patch must be in the cell at its position, with its score and its label."""
    by_slide = {patch_map.slide: patch_map for patch_map in maps}
    for row in rows:
        shown = by_slide[row["slide"]]
        assert shown.side == pytest.approx(CELL)
        x, y = (int(row[axis]) * MPP / 1000 + CELL / 2 for axis in ("x", "y"))
        cell = int((y - shown.top) / CELL), int((x - shown.left) / CELL)
        assert shown.probs[cell] == pytest.approx(float(row["prob"]), abs=1e-6)
        assert shown.labels[cell] == int(row["label"])
    assert sum(int(np.isfinite(patch_map.probs).sum()) for patch_map in maps) == len(rows)
    assert sum(patch_map.patches for patch_map in maps) == len(rows)


def test_the_cells_of_an_evaluation_have_the_scores_and_labels_of_its_patches(scored):
    histo, _ = scored
    manifest = read_rows(histo.root / "manifests" / "synthetic.csv")
    probs = {row["id"]: row["prob"] for row in read_rows(evaluation(histo))}
    placed = place_evaluation(Workspace(histo.root), read_scores(evaluation(histo)))
    assert placed.n_unplaced == 0
    check_cells(make_patch_maps(placed, GivenResolutions()), [row | {"prob": probs[row["id"]]} for row in manifest])


def test_the_ids_of_a_prediction_are_found_in_the_workspace(scored):
    histo, table = scored
    manifest = read_rows(histo.root / "manifests" / "synthetic.csv")
    probs = {row["id"]: row["probability"] for row in read_rows(table)}
    placed = place_predictions(Workspace(histo.root), table, ())
    check_cells(make_patch_maps(placed, GivenResolutions()), [row | {"prob": probs[row["id"]]} for row in manifest])


@pytest.mark.parametrize(("start", "step", "moved"), [(64, 128, 0), (70, 256, 0), (0, 160, 9)])
def test_patches_that_are_not_on_the_grid_of_a_map_are_counted(start, step, moved):
    """A square has 128 pixels: patches at each 160 pixels are in the middle of every fourth cell only."""
    x = np.arange(start, start + 12 * step, step)
    fields = {"slide": "s", "x": x, "y": 64, "mpp_x": MPP, "mpp_y": MPP, "prob": 0.5, "label": 1}
    (shown,) = make_patch_maps(PlacedPatches(pd.DataFrame(fields), 0), GivenResolutions())
    assert (shown.left, shown.top) == pytest.approx((start * MPP / 1000, 64 * MPP / 1000))
    assert int(np.isfinite(shown.probs).sum()) == 12
    assert shown.moved == moved
    text = f"; squares of 31 µm{f', {moved} of the patches moved to the nearest' if moved else ''}"
    assert describe_map(shown, None).endswith(text)


def test_there_is_a_picture_for_each_slide_with_colours_of_scores(scored):
    histo, _ = scored
    histo("plot", "--kind", "map", "--run", "first")
    paths = sorted(path.name for path in histo.root.glob("plots/*.png"))
    assert [name.rpartition("-map-")[2] for name in paths] == ["slide_0.png", "slide_1.png"]
    picture = cv2.imread(str(histo.root / "plots" / paths[1]))
    tumour = (np.abs(picture.astype(int) - (0x00, 0x5E, 0xD5)).max(2) < 3).sum()
    assert tumour > 500  # the cells of the labels, not only the key


def test_without_the_data_set_ids_tell_the_position_and_mpp_the_scale(scored, tmp_path):
    histo, table = scored
    rows = read_rows(histo.root / "manifests" / "synthetic.csv")
    ids = {row["id"]: f"{row['slide']}_x{row['x']}_y{row['y']}" for row in rows}
    moved = tmp_path / "moved.csv"
    write_rows(moved, [{"id": ids[row["id"]], "probability": row["probability"]} for row in read_rows(table)])
    empty = Histo(tmp_path / "empty")
    error, hint = empty.fails("plot", "--kind", "map", moved)
    assert error.startswith("the resolution of the slide slide_0 is not known")
    assert "--mpp 0.25" in hint
    other = tmp_path / "other" / "moved.csv"
    other.parent.mkdir()
    write_rows(other, read_rows(moved)[:-1])
    empty("plot", "--kind", "map", moved, other, "--mpp", MPP, "--format", "svg")
    assert len(list((empty.root / "plots").glob("moved-*-map-slide_1.svg"))) == 2
    workspace = Workspace(histo.root)
    by_id = make_patch_maps(place_predictions(Workspace(empty.root), moved, ()), GivenResolutions(MPP))
    for moved_map, other in zip(
        by_id, make_patch_maps(place_predictions(workspace, table, ()), GivenResolutions()), strict=True
    ):
        np.testing.assert_array_equal(moved_map.probs, other.probs)
        assert not np.isfinite(moved_map.labels).any()


def test_far_patches_share_cells_that_show_their_mean(tmp_path):
    """A slide of 60 mm has cells of several squares, so that they can be seen."""
    (tmp_path / "scores.csv").write_text("id,label\nbig_x0_y0,0.2\nbig_x32_y0,0.4\nbig_x61696_y32,0.9\n")
    placed = place_predictions(Workspace(tmp_path), tmp_path / "scores.csv", ())
    [shown] = make_patch_maps(placed, GivenResolutions(0.972))
    assert shown.side == pytest.approx(7 * CELL)
    assert shown.probs[0, 0] == pytest.approx(0.3)
    assert np.isfinite(shown.probs).sum() == 2
    assert shown.probs[0, -1] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,probability\na_x1_y2,0.5\na_x1_y2,0.6\n", "two patches of the slide a have the position x 1, y 2"),
        ("id,probability\na_x1_y2,1.5\n", "the probability of a_x1_y2 is '1.5', not from 0 to 1"),
        ("id,probability\na_x1_y2,\n", "the probability of a_x1_y2 is '', not from 0 to 1"),
        ("name,probability\na_x1_y2,0.5\n", "the columns id and probability are needed"),
        ("id,probability\na,0.5\nb,0.5\n", "none of its 2 patches has a known position"),
    ],
)
def test_a_table_that_cannot_be_drawn_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    error, hint = Histo(tmp_path / "w").fails("plot", "--kind", "map", tmp_path / "t.csv", "--mpp", 0.25)
    assert message in error
    assert hint


def test_patches_without_a_position_are_counted(tmp_path):
    (tmp_path / "t.csv").write_text("id,probability\nfolder/a_x1_y2,0.5\nb,0.5\n")
    result = Histo(tmp_path / "w")("plot", "--kind", "map", tmp_path / "t.csv", "--mpp", 0.25)
    assert "1 of 2 patches has no position, and is not drawn" in result.stderr


def test_a_wrong_mpp_is_refused(scored):
    histo, table = scored
    error, _ = histo.fails("plot", "--kind", "map", table, "--mpp", 0.5, code=2)
    assert error == "the slide slide_0 has 0.243 micrometres per pixel, and --mpp says 0.5"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["plot", "--mpp", "0.25"], "--mpp is only for --kind map"),
        (
            ["plot", "a.csv", "--kind", "map", "--kind", "explain"],
            "a.csv needs exactly one of --kind explain and --kind map",
        ),
        (["plot", "a.csv", "--kind", "map", "--run", "x"], "--run x names evaluations, and tables were given"),
    ],
)
def test_options_of_maps_are_checked(tmp_path, args, message):
    error, _ = Histo(tmp_path / "w").fails(*args, code=2)
    assert message in error


@pytest.mark.usefixtures("names_only")
def test_a_manifest_without_resolution_needs_mpp_for_maps_and_other_plots_are_drawn(scored, tmp_path):
    """Manifests of earlier versions have no resolution."""
    histo = Histo(shutil.copytree(scored[0].root, tmp_path / "old"))
    path = histo.root / "manifests" / "synthetic.csv"
    write_rows(path, [{k: v for k, v in row.items() if not k.startswith("mpp")} for row in read_rows(path)])
    error, _ = histo.fails("plot", "--kind", "map", "--run", "first")
    assert "the resolution of the slide slide_0 is not known" in error
    shutil.rmtree(histo.root / "data")  # without the patches, most kinds are skipped
    result = histo("plot", "--run", "first")
    assert "no maps: the resolution of the slide slide_0 is not known" in " ".join(result.stderr.split())
    histo("plot", "--kind", "map", "--run", "first", "--mpp", MPP)
