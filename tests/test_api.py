"""The Python API: light to import, the same options as the commands, and the examples of docs/python.md."""

import doctest
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

import histocli as histo
from histocli.errors import HistoError, UsageError
from histocli.workspace import Workspace
from tests.cli import REPOSITORY, write_images


@pytest.fixture(name="ran")
def ran_fixture(histo):
    """A workspace with a finished run, `first`."""
    return histo


def test_importing_the_package_loads_nothing_heavy():
    code = "import histocli, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    heavy = {"torch", "numpy", "pandas", "cv2", "matplotlib", "sklearn", "typer", "rich", "platformdirs"}
    assert heavy.isdisjoint(done.stdout.split())


def test_the_examples_of_the_documentation_run(one_thread, tmp_path):
    text = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    page = doctest.DocTestParser().get_doctest(text, {"folder": tmp_path}, "docs/python.md", None, 0)
    assert len(page.examples) > 15
    output = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(page, out=output.append)
    assert result.failed == 0, "".join(output)


def test_the_same_patches_score_the_same_from_the_command_line_an_array_and_files(ran, tmp_path):
    folder = tmp_path / "images"
    paths = write_images(ran, folder)
    out = tmp_path / "preds.csv"
    ran("predict", folder, "--device", "cpu", "--out", out)
    expected = [float(line.split(",")[1]) for line in out.read_text().splitlines()[1:]]
    predictor = histo.load(workspace=ran.root, device="cpu")
    pixels = np.load(ran.root / "data" / "synthetic" / "patches.npy")[: len(paths)]
    table = predictor.predict(folder)
    assert table["label"].tolist() == pytest.approx(expected, abs=1e-6)
    assert predictor.predict(paths)["label"].tolist() == table["label"].tolist()
    assert predictor.predict_proba(pixels) == pytest.approx(table["label"].to_numpy(), abs=1e-6)
    assert predictor.predict(pixels)["id"].tolist() == [str(i) for i in range(len(paths))]
    assert (table["class"] == (table["label"] >= predictor.threshold)).all()
    assert "run first" in repr(predictor)


def test_the_full_table_is_that_of_the_command_line(ran, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "preds.csv"
    write_images(ran, folder, 5)
    ran("predict", folder, "--device", "cpu", "--columns", "full", "--out", out)
    predictor = histo.load(workspace=ran.root, device="cpu")
    table = predictor.predict(folder, columns="full")
    pd.testing.assert_frame_equal(table, pd.read_csv(out, dtype={"id": str}), atol=1e-6, check_dtype=False)
    pixels = np.load(ran.root / "data" / "synthetic" / "patches.npy")[:3]
    assert predictor.predict(pixels, columns="full").columns.tolist() == table.columns.tolist()


def test_unreadable_files_give_a_warning_and_are_skipped(ran, tmp_path):
    write_images(ran, tmp_path / "images", 2)
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"broken\.png"):
        table = histo.load("first", workspace=ran.root, device="cpu").predict(tmp_path / "images")
    assert len(table) == 2


def test_no_patches_give_an_empty_table(ran):
    predictor = histo.load("first", workspace=ran.root, device="cpu")
    assert predictor.predict_proba(np.empty((0, 96, 96, 3), np.uint8)).shape == (0,)
    assert predictor.predict(np.empty((0, 96, 96, 3), np.uint8)).columns.tolist() == ["id", "label", "class"]


@pytest.mark.parametrize("shape", [(96, 96, 3), (2, 3, 96, 96), (2, 32, 32, 3)])
def test_arrays_of_another_shape_or_type_are_refused(ran, shape):
    predictor = histo.load("first", workspace=ran.root, device="cpu")
    with pytest.raises(UsageError, match="cannot be scored"):
        predictor.predict_proba(np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match="float32"):
        predictor.predict_proba(np.zeros((2, 96, 96, 3), np.float32))


def test_unknown_options_and_values_are_refused(ran):
    with pytest.raises(TypeError, match="epoch"):
        histo.train(ran.root, epoch=1)
    with pytest.raises(UsageError, match="device='tpu' is not one of auto, cpu, cuda, mps"):
        histo.train(ran.root, device="tpu")
    with pytest.raises(HistoError, match="there is no data set 'nothing'"):
        histo.balance(Workspace(ran.root), data="nothing")


def test_a_run_is_resumed_with_its_own_options(ran):
    report = histo.train(ran.root, resume=True, name="first")
    assert (report.steps, report.best.epoch) == (0, 2)
    with pytest.raises(UsageError, match="--seed 5: the run has 0"):
        histo.train(ran.root, resume=True, name="first", seed=5)


def test_the_settings_of_the_process_are_restored(ran):
    """Training and predicting change threads and signal handlers, and restore them."""
    import signal

    import torch

    before = torch.get_num_threads(), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    histo.train(ran.root, epochs=1, batch_size=16, device="cpu")
    histo.load("first", workspace=ran.root, device="cpu").predict("synthetic")
    assert (torch.get_num_threads(), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_predict_works_outside_the_main_thread(ran):
    predictor, found = histo.load("first", workspace=ran.root, device="cpu"), []
    thread = threading.Thread(target=lambda: found.append(len(predictor.predict("synthetic"))))
    thread.start()
    thread.join()
    assert found == [320]
