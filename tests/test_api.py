"""The Python API: light to import, the same options as the commands, and the examples of docs/python.md."""

import doctest
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import histocli as histo
from histocli.config import PACKAGED_ARCH, RunConfig, TrainConfig, TuneConfig
from histocli.enums import Device, Weights
from histocli.errors import HistoError, UsageError
from histocli.training.options import complete_config
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
    predictor = histo.load(workspace=ran.root, device="cpu", precision="fp32")
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
    predictor = histo.load(workspace=ran.root, device="cpu", precision="fp32")
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


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda patch: patch, r"patches\[None\]"),
        (lambda patch: np.moveaxis(patch[None], 3, 1), r"moveaxis\(patches, 1, 3\)"),
        (lambda patch: np.concatenate([patch, patch[..., :1]], -1)[None], r"patches\[..., :3\]"),
        (lambda patch: patch[None, :, :, 0], "grey"),
        (lambda patch: patch[None, ..., :1], "grey"),
        (lambda patch: (patch[None] / 255).astype(np.float32), r"\(patches \* 255\).round\(\)"),
        (lambda patch: patch[None].astype(float), r"; white is 255: patches.round\(\)"),
        (lambda patch: np.zeros((2, 224, 224, 3), np.uint8), "numpy.save"),
        (lambda patch: [patch, patch], r"numpy.stack"),
        (lambda patch: (image for image in [patch]), r"numpy.stack"),
        (lambda patch: [Image.fromarray(patch)], r"numpy.stack"),
        (lambda patch: torch.from_numpy(patch[None]), r"tensor.numpy\(\)"),
        (lambda patch: None, "NumPy array"),
        (lambda patch: 3, "NumPy array"),
    ],
)
def test_patches_in_another_form_are_refused_with_how_to_convert_them(ran, make, hint):
    patch = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    predictor = histo.load("first", workspace=ran.root, device="cpu")
    for method in (predictor.predict_proba, predictor.predict, predictor.explain):
        with pytest.raises(UsageError, match="cannot be scored") as caught:
            method(make(patch))
        assert re.search(hint, caught.value.hint)


def test_the_conversion_of_fractions_that_the_hint_shows_gives_the_same_scores(ran):
    patches = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    predictor, fractions = histo.load("first", workspace=ran.root, device="cpu"), (patches / 255).astype(np.float32)
    again = (fractions * 255).round().astype("uint8")
    assert predictor.predict_proba(again).tolist() == predictor.predict_proba(patches).tolist()


def test_an_array_that_cannot_be_written_is_scored_without_a_warning(ran, recwarn):
    patches = np.load(ran.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")[:2]
    assert histo.load("first", workspace=ran.root, device="cpu").predict_proba(patches).shape == (2,)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device='gpu' is not one of auto, cpu, cuda, mps"),
        ({"precision": "fp8"}, "precision='fp8' is not one of"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"batch_size": "8"}, "batch_size='8' is not a whole number"),
        ({"tta": "yes"}, "tta='yes' is not True or False"),
        ({"prevalence": "x"}, "prevalence='x' is not a number"),
    ],
)
def test_wrong_values_of_load_name_the_option(ran, options, message):
    with pytest.raises(UsageError, match=message):
        histo.load("first", workspace=ran.root, **options)
    with pytest.raises(UsageError, match="neither text nor a path"):
        histo.load(["first"], workspace=ran.root)


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (histo.download, {"source": "nope"}, "source='nope' is not one of kaggle, pcam, folder"),
        (histo.download, {"source": "synthetic", "n": "5"}, "n='5' is not a whole number"),
        (histo.download, {"source": "synthetic", "n": 9, "name": ""}, "'' cannot name a data set"),
        (histo.download, {"source": "synthetic", "n": 9, "name": "balanced"}, "--name balanced is the name of a"),
        (histo.download, {"source": "folder", "locations": ".", "n": -2}, "--n -2: at least 1 is needed"),
        (histo.download, {"source": "folder", "locations": ".", "n": 0}, "--n 0: at least 1 is needed"),
        (histo.download, {"source": "folder", "locations": ".", "seed": -1}, "--seed -1: a whole number from 0"),
        (histo.balance, {"data": "synthetic", "n": 2.5}, "n=2.5 is not a whole number"),
        (histo.balance, {"data": "synthetic", "n": True}, "n=True is not a whole number"),
        (histo.balance, {"data": "synthetic", "val_fraction": "a"}, "val_fraction='a' is not a number"),
        (histo.balance, {"data": "synthetic", "n": 20, "seed": -1}, "--seed -1: a whole number from 0"),
        (histo.balance, {"data": "synthetic", "n": 20, "seed": 1 << 32}, "--seed 4294967296: a whole number from 0"),
        (histo.train, {"epochs": 1.5}, "epochs=1.5 is not a whole number"),
        (histo.train, {"epochs": None}, "epochs=None is not a whole number"),
        (histo.train, {"arch": None}, "arch=None is neither text nor a path"),
        (histo.train, {"device": None}, "device=None is not one of auto"),
        (histo.train, {"freeze": None}, "freeze=None is not True or False"),
        (histo.train, {"seed": -1}, "--seed -1"),
        (histo.train, {"folds": 0}, "--folds 0: at least 2"),
        (histo.train, {"resume": "first"}, "resume='first' is not True or False"),
        (histo.evaluate, {"ckpt": []}, "no checkpoint is given"),
        (histo.evaluate, {"batch_size": 0}, "batch_size=0: at least 1"),
        (histo.evaluate, {"threshold": 1.5}, "--threshold 1.5 is not a threshold"),
        (histo.tune, {"trials": "x"}, "trials='x' is not a whole number"),
    ],
)
def test_wrong_values_name_the_option(ran, call, options, message):
    runs = sorted((ran.root / "runs").iterdir())
    with pytest.raises(UsageError, match=re.escape(message)):
        call(ran.root, **options)
    assert sorted((ran.root / "runs").iterdir()) == runs


def test_numbers_of_numpy_and_paths_are_taken(ran):
    options = {"n": np.int64(20), "val_fraction": np.float32(0.5), "name": "small"}
    report = histo.balance(Workspace(ran.root), data="synthetic", **options)
    assert report.n == 20
    with pytest.raises(HistoError, match=r"there is no checkpoint ./first.pt"):  # a path, although a run has this name
        histo.evaluate(ran.root, ckpt=Path("first.pt"))


def test_an_unknown_option_names_the_command_and_a_similar_option(ran):
    with pytest.raises(TypeError, match="histo train has no option learning_rate; did you mean lr"):
        histo.train(ran.root, learning_rate=0.1)
    with pytest.raises(TypeError, match="histo download has no option location; did you mean locations"):
        histo.download(ran.root, "folder", location="x")
    with pytest.raises(TypeError, match="config is a dict; give a BalanceConfig"):
        histo.balance(ran.root, {"n": 20})


def test_the_weights_that_come_with_histo_choose_the_architecture():
    config = RunConfig(weights=Weights.HISTONET_PCAM)
    assert complete_config(config, {"weights"}).arch == PACKAGED_ARCH
    for given in (set(), {"arch"}):  # from a variable, or on the command line
        with pytest.raises(UsageError, match=f"--weights histonet-pcam fits only --arch {PACKAGED_ARCH}"):
            complete_config(replace(config, arch="resnet18"), given)
    with pytest.raises(UsageError, match="histonet has no pretrained weights") as caught:
        complete_config(config, {"arch"})
    assert f"--arch {PACKAGED_ARCH} --weights histonet-pcam" in caught.value.hint


def test_a_run_from_options_as_an_object_can_start_from_the_weights_that_come_with_histo(ran):
    options = TrainConfig(weights=Weights.HISTONET_PCAM, epochs=1, batch_size=16, device=Device.CPU, name="tuned")
    histo.train(ran.root, options)
    assert json.loads((ran.root / "runs" / "tuned" / "config.json").read_text())["options"]["arch"] == PACKAGED_ARCH


def test_a_run_is_resumed_with_its_own_options(ran):
    report = histo.train(ran.root, resume=True, name="first")
    assert (report.steps, report.best.epoch) == (0, 2)
    with pytest.raises(UsageError, match="--seed 5: the run was started with 0"):
        histo.train(ran.root, resume=True, name="first", seed=5)


def test_a_finished_run_is_extended_with_options_as_an_object(ran):
    report = histo.train(ran.root, TrainConfig(name="first", resume=True, epochs=3))
    assert (report.epochs, report.steps > 0) == (3, True)
    with pytest.raises(UsageError, match="--seed 5: the run was started with 0"):
        histo.train(ran.root, TrainConfig(name="first", resume=True, seed=5))


def test_a_study_refuses_other_options_in_an_object(ran):
    pytest.importorskip("optuna")
    config = TuneConfig(trials=1, folds=2, epochs="1", batch_size=(16,), arch=("histonet-64",), device=Device.CPU)
    histo.tune(ran.root, config)
    with pytest.raises(UsageError, match=r"--lr 0\.01: the study 'tune' was started with 0\.0003:0\.03"):
        histo.tune(ran.root, replace(config, lr="0.01"))
    assert len(histo.tune(ran.root, TuneConfig(trials=1)).trials) == 1  # options with their defaults are those it has


def test_files_of_the_user_that_were_packed_before_give_a_warning(ran, tmp_path):
    paths = write_images(ran, tmp_path / "mine", 4)
    labels = tmp_path / "mine" / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"{path.stem},0\n" for path in paths))
    options = {"source": "folder", "locations": tmp_path / "mine", "name": "mine"}
    assert histo.download(ran.root, **options).labels == [0]
    labels.write_text(labels.read_text().replace(",0", ",1"))
    with pytest.warns(
        UserWarning, match="mine is packed already.*if the files have changed, give force=True"
    ) as caught:
        assert histo.download(ran.root, **options).labels == [0]
    assert caught[0].filename == __file__
    assert histo.download(ran.root, **options, force=True).labels == [1]


def test_evaluating_a_folder_warns_of_the_first_image_that_was_cut(ran, tmp_path):
    for i in range(4):
        (tmp_path / "mine" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.effect_noise((100, 100), 60 + i).convert("RGB").save(tmp_path / "mine" / str(i % 2) / f"{i}.png")
    with pytest.warns(UserWarning, match=r"\.png, 100 x 100 pixels: cut to the centre") as caught:
        evaluation = histo.evaluate(ran.root, data=str(tmp_path / "mine"), device="cpu")
    assert len(caught) == 1
    assert evaluation.report.changed == {"cut to the centre": 4}


def test_a_data_set_never_replaces_a_subset(ran):
    histo.balance(ran.root, data="synthetic", n=20, name="small")
    before = {path: path.read_bytes() for path in (ran.root / "manifests").iterdir() if path.is_file()}
    for name in ("balanced", "small"):
        for force in (False, True):
            with pytest.raises(UsageError, match=f"--name {name} is the name of a subset that histo balance writes"):
                histo.download(ran.root, source="synthetic", n=20, name=name, force=force)
    assert {path: path.read_bytes() for path in (ran.root / "manifests").iterdir() if path.is_file()} == before


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
