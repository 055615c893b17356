"""The procedural source: the same bytes from the same seed, PCam's label rule, and no label in the mere colour."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histocli.errors import UsageError
from histocli.sources import synthetic
from histocli.sources.synthetic import SyntheticSource, draw_layout, make_slide
from histocli.sources.synthetic.cells import NUCLEOLUS, place_cells, shape_cells
from histocli.sources.synthetic.tissue import INNER, PAD, Blob, Layout, draw_scene, tumour_field

CENTRAL = (slice(32, 64), slice(32, 64))


def load_all(patches):
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(lambda patch: patch.load(), patches)))


@pytest.fixture(scope="module")
def patches():
    return list(SyntheticSource(800, 5).patches())


@pytest.fixture(scope="module")
def pixels(patches):
    return load_all(patches)


def test_same_seed_gives_the_same_bytes_in_any_order_of_loading(patches, pixels):
    again = list(SyntheticSource(800, 5).patches())
    assert [patch._replace(load=None) for patch in again] == [patch._replace(load=None) for patch in patches]
    order = np.random.default_rng(0).permutation(len(again))[:100]
    for index in order:
        np.testing.assert_array_equal(again[index].load(), pixels[index])


def test_another_seed_gives_other_patches(patches, pixels):
    other = list(SyntheticSource(800, 6).patches())
    assert [patch.label for patch in other] != [patch.label for patch in patches]
    for index in range(0, 100, 10):
        assert (other[index].load() != pixels[index]).any()


def test_patches_are_rgb_bytes_of_pcams_size_with_stable_ids(patches, pixels):
    assert pixels.shape == (800, 96, 96, 3)
    assert pixels.dtype == np.uint8
    assert [patch.id for patch in patches[:2]] == ["synthetic-000000", "synthetic-000001"]
    assert len({patch.id for patch in patches}) == SyntheticSource(800, 5).total == 800
    assert {patch.split for patch in patches} == {""}


def test_label_is_any_tumour_in_the_centre():
    labels = Counter()
    for number in range(12):
        slide = make_slide(3, number, f"tumor_{number:03d}", True)
        for index in range(60):
            mask = tumour_field(draw_layout(slide, (3, number, index)))[INNER]
            assert mask.shape == (96, 96)
            labels[bool(mask[CENTRAL].any()), bool(mask.any())] += 1
    assert labels[True, True] > 350
    assert labels[False, True] > 70  # tumour in the outer ring alone: the hard negatives
    assert labels[False, False] > 50


def test_yielded_labels_follow_the_mask_of_what_is_drawn(patches):
    for patch in patches:
        (drawing,) = patch.load.args
        assert patch.label == tumour_field(drawing.layout)[INNER][CENTRAL].any()


def test_mask_follows_its_blobs():
    inside = tumour_field(Layout((Blob(48, 48, 30),), (1, 2, 3)))[INNER]
    assert inside[48, 48]
    assert not inside[0, 0]
    assert 0.5 < inside.sum() / (np.pi * 30**2) < 1.6
    assert not tumour_field(Layout((), (1, 2, 3)))[INNER].any()


def test_cancer_cells_lie_in_the_mask_and_nowhere_else():
    seen = 0
    for index in range(40):
        slide = make_slide(7, index, "tumor_001", True)
        layout = draw_layout(slide, (7, index, index))
        field = tumour_field(layout)
        rng = np.random.default_rng(index)
        cells = place_cells(rng, draw_scene(rng, field, slide.growth), slide.growth)
        cancer = cells.points[shape_cells(rng, cells, slide.growth)[:, NUCLEOLUS] > 0]
        columns, rows = (cancer.T + PAD).astype(int)
        assert field[rows, columns].all()
        assert len(cancer) > 0 or field.sum() < 800
        seen += len(cancer)
    assert seen > 500


def test_slides_are_normal_or_tumour_and_belong_to_one_hospital(patches):
    labels, hospitals = defaultdict(set), defaultdict(set)
    for patch in patches:
        labels[patch.slide].add(patch.label)
        hospitals[patch.slide].add(patch.hospital)
    assert all(len(names) == 1 for names in hospitals.values())
    assert len(set.union(*hospitals.values())) >= 3
    for slide, seen in labels.items():
        kind, number = slide.split("_")
        assert number.isdigit()
        assert seen == ({0, 1} if kind == "tumor" else {0})


@pytest.mark.parametrize("n", [200, 2000, 4000])
def test_there_are_slides_enough_for_a_slide_disjoint_split(n):
    patches = list(SyntheticSource(n, 1).patches())
    sizes = Counter(patch.slide for patch in patches)
    assert len(patches) == n
    assert len(sizes) >= (20 if n >= 2000 else 8)
    assert 15 < np.median(list(sizes.values())) < 100
    assert min(sum(slide.startswith(kind) for slide in sizes) for kind in ("tumor", "normal")) >= 3
    assert 0.3 < np.mean([patch.label for patch in patches]) < 0.5


def test_outliers_and_duplicates_are_planted_and_reported(pixels):
    source = SyntheticSource(800, 5)
    patches = list(source.patches())
    flat = pixels.reshape(len(pixels), -1)
    blank, black = flat.min(axis=1) > 245, flat.max(axis=1) < 10
    assert blank.sum() == black.sum() == 1
    assert source.report.counts["outliers"] == blank.sum() + black.sum()
    assert not any(patches[index].label for index in np.flatnonzero(blank | black))
    copies = len(pixels) - len({image.tobytes() for image in flat})
    assert copies == source.report.counts["duplicates"] == 4
    assert source.report.counts["tumour"] == sum(patch.label for patch in patches)


def test_the_smallest_set_with_outliers_has_one_of_each():
    pixels = load_all(SyntheticSource(200, 9).patches()).reshape(200, -1)
    assert (pixels.min(axis=1) > 245).sum() == 1
    assert (pixels.max(axis=1) < 10).sum() == 1
    assert len({image.tobytes() for image in pixels}) == 199


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_tiny_sets_have_as_many_patches_as_asked_for(n):
    assert load_all(SyntheticSource(n, 0).patches()).shape == (n, 96, 96, 3)


def test_mean_colours_do_not_give_the_label_away(patches, pixels):
    labels = np.array([patch.label for patch in patches])
    slides = np.array([patch.slide for patch in patches])
    features = np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)
    ridge = make_pipeline(StandardScaler(), Ridge())
    scores = cross_val_predict(ridge, features, labels, groups=slides, cv=GroupKFold(5))
    assert 0.5 < roc_auc_score(labels, scores) < 0.8


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-5, 0), (10, -1)])
def test_impossible_arguments_are_named(n, seed):
    with pytest.raises(UsageError) as caught:
        SyntheticSource(n, seed)
    assert caught.value.hint


def artists():
    """The processes of this one that draw patches."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"synthetic.artists" in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")


@linux
def test_processes_of_their_own_draw_the_same_bytes_and_end_with_the_source(monkeypatch):
    alone = load_all(SyntheticSource(40, 3).patches())
    monkeypatch.setattr(synthetic, "MANY", 1)
    before = artists()
    drawn = list(SyntheticSource(40, 3).patches())
    assert (load_all(drawn) == alone).all()
    assert len(artists()) > len(before)
    drawn.clear()
    assert artists() == before


@linux
def test_what_a_killed_process_would_have_drawn_is_drawn_all_the_same(monkeypatch):
    alone = load_all(SyntheticSource(12, 3).patches())
    monkeypatch.setattr(synthetic, "MANY", 1)
    before = artists()
    patches = list(SyntheticSource(12, 3).patches())
    drawn = [patch.load() for patch in patches[:2]]
    for pid in set(artists()) - set(before):
        os.kill(pid, signal.SIGKILL)
    drawn += list(load_all(patches[2:]))
    assert (np.stack(drawn) == alone).all()


def test_where_no_process_can_be_started_this_one_draws(monkeypatch):
    alone = load_all(SyntheticSource(4, 3).patches())
    monkeypatch.setattr(synthetic, "MANY", 1)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert (load_all(SyntheticSource(4, 3).patches()) == alone).all()


def test_processes_that_draw_import_nothing_from_the_working_directory(monkeypatch, tmp_path):
    for module in ("numpy", "cv2", "pickle", "runpy", "histocli"):
        (tmp_path / f"{module}.py").write_text(f"open('{tmp_path}/trap', 'w')")
    monkeypatch.setattr(synthetic, "MANY", 1)
    monkeypatch.chdir(tmp_path)
    load_all(SyntheticSource(4, 3).patches())
    assert not (tmp_path / "trap").exists()


@linux
def test_processes_that_draw_end_with_one_that_is_killed(monkeypatch):
    line = "from histocli.sources.synthetic import *; p = [*SyntheticSource(600, 0).patches()]; p[0].load(); "
    line += "from tests.sources.test_synthetic import artists; print(*artists(), flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", line], cwd=Path(__file__).parents[2], **pipes) as process:
        [drawing] = map(int, process.stdout.readline().split())
        process.kill()
    for _ in range(200):
        with suppress(OSError):
            if Path(f"/proc/{drawing}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.05)
                continue
        break
    else:
        pytest.fail("it draws on")
