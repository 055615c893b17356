"""Synthetic patches: equal seeds give equal bytes, labels follow PCam's rule, and colour does not predict them."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histocli.errors import UsageError
from histocli.images.processes import DecodingProcesses
from histocli.sources import synthetic
from histocli.sources.synthetic import SyntheticSource
from histocli.sources.synthetic.cells import NUCLEOLUS, place_cells, shape_cells
from histocli.sources.synthetic.drawing import make_slide
from histocli.sources.synthetic.plan import draw_layout, plan_drawing, plan_patches
from histocli.sources.synthetic.tissue import INNER, PAD, Blob, Layout, draw_scene, draw_tumour_mask, is_positive

CENTRAL = (slice(32, 64), slice(32, 64))


def load_all(patches):
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(lambda patch: patch.load(), patches)))


@pytest.fixture(scope="module")
def patches():
    return list(SyntheticSource(800, 5).read_patches())


@pytest.fixture(scope="module")
def pixels(patches):
    return load_all(patches)


def test_same_seed_gives_the_same_bytes_in_any_order_of_loading(patches, pixels):
    again = list(SyntheticSource(800, 5).read_patches())
    assert [patch._replace(load=None) for patch in again] == [patch._replace(load=None) for patch in patches]
    order = np.random.default_rng(0).permutation(len(again))[:100]
    for index in order:
        np.testing.assert_array_equal(again[index].load(), pixels[index])


def test_another_seed_gives_other_patches(patches, pixels):
    other = list(SyntheticSource(800, 6).read_patches())
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
            mask = draw_tumour_mask(draw_layout(slide, (3, number, index)))[INNER]
            assert mask.shape == (96, 96)
            labels[bool(mask[CENTRAL].any()), bool(mask.any())] += 1
    assert labels[True, True] > 350
    assert labels[False, True] > 70  # tumour in the outer ring alone: the hard negatives
    assert labels[False, False] > 50


def test_yielded_labels_follow_the_mask_of_what_is_drawn(patches):
    for patch, plan in zip(patches, plan_patches(800, 5), strict=True):
        assert patch.label == draw_tumour_mask(plan_drawing(5, plan).layout)[INNER][CENTRAL].any()


def test_the_tumour_mask_is_where_the_blobs_are():
    inside = draw_tumour_mask(Layout((Blob(48, 48, 30),), (1, 2, 3)))[INNER]
    assert inside[48, 48]
    assert not inside[0, 0]
    assert 0.5 < inside.sum() / (np.pi * 30**2) < 1.6
    assert not draw_tumour_mask(Layout((), (1, 2, 3)))[INNER].any()


def test_cancer_cells_lie_in_the_mask_and_nowhere_else():
    seen = 0
    for index in range(40):
        slide = make_slide(7, index, "tumor_001", True)
        layout = draw_layout(slide, (7, index, index))
        field = draw_tumour_mask(layout)
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
def test_there_are_enough_slides_for_a_split_by_slide(n):
    plans = plan_patches(n, 1)
    sizes = Counter(plan.slide.name for plan in plans)
    assert len(plans) == n
    assert len(sizes) >= (20 if n >= 2000 else 8)
    assert 15 < np.median(list(sizes.values())) < 100
    assert min(sum(slide.startswith(kind) for slide in sizes) for kind in ("tumor", "normal")) >= 3
    assert 0.3 < np.mean([is_positive(plan_drawing(1, plan).layout) for plan in plans]) < 0.5


def test_patches_without_tissue_and_duplicates_are_counted(pixels):
    source = SyntheticSource(800, 5)
    patches = list(source.read_patches())
    flat = pixels.reshape(len(pixels), -1)
    blank, black = flat.min(axis=1) > 245, flat.max(axis=1) < 10
    assert blank.sum() == black.sum() == 1
    assert source.report.counts["without tissue"] == blank.sum() + black.sum()
    assert not any(patches[index].label for index in np.flatnonzero(blank | black))
    copies = len(pixels) - len({image.tobytes() for image in flat})
    assert copies == source.report.counts["duplicates"] == 4
    assert source.report.counts["tumour"] == sum(patch.label for patch in patches)


def test_200_patches_have_one_blank_one_black_and_one_duplicate():
    pixels = load_all(SyntheticSource(200, 9).read_patches()).reshape(200, -1)
    assert (pixels.min(axis=1) > 245).sum() == 1
    assert (pixels.max(axis=1) < 10).sum() == 1
    assert len({image.tobytes() for image in pixels}) == 199


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_tiny_sets_have_the_requested_number_of_patches(n):
    assert load_all(SyntheticSource(n, 0).read_patches()).shape == (n, 96, 96, 3)


def test_mean_colours_do_not_predict_the_label(patches, pixels):
    labels = np.array([patch.label for patch in patches])
    slides = np.array([patch.slide for patch in patches])
    features = np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)
    ridge = make_pipeline(StandardScaler(), Ridge())
    scores = cross_val_predict(ridge, features, labels, groups=slides, cv=GroupKFold(5))
    assert 0.5 < roc_auc_score(labels, scores) < 0.8


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-5, 0), (10, -1)])
def test_the_error_for_impossible_arguments_has_their_values(n, seed):
    with pytest.raises(UsageError) as caught:
        SyntheticSource(n, seed)
    assert caught.value.hint


@pytest.fixture
def processes(monkeypatch):
    """Let two processes draw, however few the patches; the list of those that were started."""
    monkeypatch.setattr(synthetic, "MIN_PATCHES_FOR_PROCESSES", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    started = []
    start = DecodingProcesses._start

    def note(self):
        worker = start(self)
        started.append(worker.process)
        return worker

    monkeypatch.setattr(DecodingProcesses, "_start", note)
    return started


@pytest.fixture(scope="module")
def alone():
    """The pixels of 200 patches that this process drew."""
    return load_all(SyntheticSource(200, 3).read_patches())


def test_several_processes_draw_the_same_bytes_and_end_with_the_source(processes, alone):
    patches = SyntheticSource(200, 3).read_patches()
    first = next(patches)
    assert [process.poll() for process in processes] == [None, None]
    assert (load_all([first, *patches]) == alone).all()
    assert len(processes) == 2  # they drew all patches: none was killed and replaced after a fault
    assert None not in [process.poll() for process in processes]


def test_processes_end_when_the_source_is_not_used_any_more(processes):
    patches = SyntheticSource(200, 3).read_patches()
    next(patches)
    patches.close()
    assert len(processes) == 2
    assert None not in [process.poll() for process in processes]


def test_without_a_python_executable_this_process_draws(processes, alone, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert (load_all(SyntheticSource(200, 3).read_patches()) == alone).all()


def test_processes_that_draw_import_nothing_from_the_working_directory(processes, monkeypatch, tmp_path):
    for module in ("numpy", "cv2", "pickle", "runpy", "histocli"):
        (tmp_path / f"{module}.py").write_text(f"open('{tmp_path}/trap', 'w')")
    monkeypatch.chdir(tmp_path)
    assert load_all(SyntheticSource(70, 3).read_patches()).shape == (70, 96, 96, 3)
    assert len(processes) == 2
    assert not (tmp_path / "trap").exists()


SCRIPT = """
from histocli.images.processes import DecodingProcesses
from histocli.sources.synthetic import SyntheticSource
pids, start = [], DecodingProcesses._start

def note(self):
    worker = start(self)
    pids.append(worker.process.pid)
    return worker

DecodingProcesses._start = note
patches = SyntheticSource(600, 0).read_patches()
next(patches)
print(*pids, flush=True)
"""


def start(script, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *script], env=environment, **pipes, **options)


def test_patches_are_made_in_processes_by_a_script_without_a_main_guard(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT + "print(len([0, *patches]))")
    with start([tmp_path / "script.py"]) as process:
        stdout, stderr = process.communicate(timeout=100)
    pids, count = stdout.splitlines()
    assert (len(pids.split()), count) == (2, "600")
    assert stderr == ""


def wait_until_ended(pid):
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("it is still drawing")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")
def test_ctrl_c_reaches_the_process_that_packs_and_no_other(tmp_path):
    """A terminal sends Ctrl-C to all processes; those that draw would each print a traceback."""
    line = ["-m", "histocli", "-w", tmp_path, "download", "--source", "synthetic", "--n", "50000"]
    with start(line, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(pids := children.read_text().split()) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    for pid in pids:
        wait_until_ended(pid)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
