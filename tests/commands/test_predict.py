"""`histo predict` from the command line: a well-formed CSV for any input, and clear errors."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.special import logit

from histocli.commands.predict_job import Job
from histocli.enums import IdKind, Resize
from histocli.errors import HistoError
from histocli.files.file import File
from histocli.inference.inputs import open_inputs
from histocli.inference.parts import Parts
from histocli.locks import hold
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from histocli.signals import Stopped
from histocli.sources.folder import make_id
from histocli.workspace import Workspace
from tests.cli import PREDICT, TRAIN, read_rows, table, write_images
from tests.faults.processes import Process


def run_predict(histo, *line, **options):
    return table(histo(*PREDICT, *line, **options).stdout)


def run_scores(histo, *line, **options):
    return [float(row["label"]) for row in run_predict(histo, *line, **options)]


def test_a_folder_gives_a_row_for_each_image_in_the_order_of_names(histo, images):
    result = histo(*PREDICT, images)
    rows = table(result.stdout)
    assert list(rows[0]) == ["id", "label"]
    assert [row["id"] for row in rows] == [f"patch-{i:02}" for i in range(12)]
    assert all(0 <= float(row["label"]) <= 1 for row in rows)
    assert "done: 12 patches scored to stdout" in result.stderr
    assert "warning" not in result.stderr
    assert histo(*PREDICT, images).stdout == result.stdout


def test_the_plots_and_tables_of_a_workspace_inside_the_folder_are_not_read(histo, tmp_path):
    write_images(histo, tmp_path / "tumor", 3)
    write_images(histo, tmp_path / "normal", 3)
    write_images(histo, histo.root / "plots", 2)
    assert len(histo("predict", tmp_path, "--device", "cpu").stdout.splitlines()) == 1 + 6
    result = histo("download", "--source", "folder", "--from", tmp_path, "--name", "mine")
    assert "balanced.csv" not in result.stderr
    assert len((histo.root / "manifests" / "mine.csv").read_text().splitlines()) == 1 + 6


def test_a_closed_pipe_ends_predict_without_an_error(histo, images):
    reader, writer = os.pipe()
    line = [*PREDICT, "--batch-size", 1, images, "synthetic"]
    process = Process(histo.root, *line, stdout=f"/proc/{os.getpid()}/fd/{writer}")
    assert process.until_read(reader).startswith(b"id,label\n")
    os.close(writer)
    os.close(reader)
    assert process.wait() == 141
    assert "Traceback" not in process.stderr
    assert "error" not in process.stderr.lower()


def test_every_kind_of_input_gives_the_same_scores(histo, images, tmp_path):
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy")[:12]
    np.save(tmp_path / "array.npy", patches)
    with h5py.File(tmp_path / "array.h5", "w") as file:
        file["x"] = patches
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, f"deep/{path.name}")
    np.savez_compressed(tmp_path / "array.npz", x=patches)
    (tmp_path / "array.h5.gz").write_bytes(gzip.compress((tmp_path / "array.h5").read_bytes()))
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(images, "images")
    expected = run_scores(histo, images)
    files = sorted(images.iterdir())
    names = ("array.npy", "array.h5", "array.npz", "array.h5.gz", "images.zip", "images.tar.gz")
    for line in (*([tmp_path / name] for name in names), files):
        rows = run_predict(histo, *line)
        assert [float(row["label"]) for row in rows] == pytest.approx(expected, abs=1e-5), line
    assert [row["id"] for row in run_predict(histo, tmp_path / "array.npy")] == [str(i) for i in range(12)]
    listed = run_predict(histo, "-", stdin="".join(f"{path}\n" for path in reversed(files)))
    assert [row["id"] for row in listed] == [str(path) for path in reversed(files)]
    assert [float(row["label"]) for row in listed] == pytest.approx(expected[::-1], abs=1e-5)


def test_a_data_set_may_be_given_by_name(histo):
    rows = run_predict(histo, "synthetic")
    assert [row["id"] for row in rows] == [row["id"] for row in read_rows(histo.root / "manifests" / "synthetic.csv")]


def test_batches_do_not_change_the_scores(histo, images):
    scores = [run_scores(histo, images, "--precision", "fp32", "--batch-size", size) for size in (1, 5, 256)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert scores[2] == pytest.approx(scores[0], abs=1e-5)


def test_with_tta_rotated_patches_get_the_same_score(histo, images, tmp_path):
    (tmp_path / "turned").mkdir()
    for path in images.iterdir():
        cv2.imwrite(str(tmp_path / "turned" / path.name), np.rot90(cv2.imread(str(path))))
    first, second = (run_scores(histo, folder, "--tta") for folder in (images, tmp_path / "turned"))
    assert first == pytest.approx(second, abs=1e-5)


def test_an_unreadable_file_is_named_and_all_others_are_scored(histo, images):
    (images / "patch-05.png").write_bytes(b"no picture")
    (images / "patch-07.png").write_bytes(b"")
    result = histo(*PREDICT, images, code=4)
    assert [row["id"] for row in table(result.stdout)] == [f"patch-{i:02}" for i in range(12) if i not in (5, 7)]
    assert "warning: patch-05.png" in result.stderr
    assert "warning: patch-07.png" in result.stderr
    assert "error: 2 of 12 files could not be read; all others are scored" in result.stderr


def test_the_threshold_adds_the_class(histo, images):
    rows = run_predict(histo, images)
    middle = sorted(float(row["label"]) for row in rows)[6]
    classed = run_predict(histo, images, "--threshold", middle + 5e-7)
    assert list(classed[0]) == ["id", "label", "class"]
    assert [row["label"] for row in classed] == [row["label"] for row in rows]
    assert [row["class"] for row in classed] == [str(int(float(row["label"]) > middle)) for row in rows]


def test_parquet_without_pyarrow_says_what_to_install(histo, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "preds.parquet"
    error, hint = histo.fails(*PREDICT, images, "--format", "parquet", "--out", out)
    assert error == "--format parquet needs the package pyarrow"
    assert hint == "pip install 'histocli[parquet]'"
    assert not out.exists()


def test_the_output_file_is_complete_or_unchanged(histo, images, tmp_path):
    out = tmp_path / "deep" / "preds.csv"
    result = histo(*PREDICT, images, "--out", out)
    assert result.stdout == ""
    assert out.read_text() == histo(*PREDICT, images).stdout
    assert str(out) in result.stderr
    before = out.read_text()
    (images / "patch-11.png").write_bytes(b"no picture")
    histo(*PREDICT, images, "--out", out, "--errors", "fail", "--batch-size", 4, code=1)
    assert out.read_text() == before
    histo(*PREDICT, images, "--out", out, "--errors", "fail", code=1)  # other options: the finished parts are removed
    assert out.read_text() == before
    assert {path.name for path in out.parent.iterdir()} == {"preds.csv", ".preds.csv.made-with.json"}
    error, _ = histo.fails(*PREDICT, images, "--out", out.parent, code=2)
    assert f"--out {out.parent} is a folder" in error


def test_a_run_that_failed_continues_from_its_finished_parts(histo, images, tmp_path):
    line = [*PREDICT, images, "--errors", "fail", "--batch-size", 2, "--out"]
    histo(*line, tmp_path / "whole.csv")
    last, out = (images / "patch-11.png").read_bytes(), tmp_path / "preds.csv"
    (images / "patch-11.png").write_bytes(b"no picture")
    assert "error: patch-11.png" in histo(*line, out, code=1).stderr
    assert not out.exists()
    [parts] = tmp_path.glob(".preds.csv.*.parts")
    (images / "patch-11.png").write_bytes(last)
    before = (images / "patch-02.png").stat()
    (images / "patch-02.png").write_bytes(bytes(before.st_size))  # a finished part is not read again
    os.utime(images / "patch-02.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    shutil.copyfile(images / "patch-08.png", images / "patch-06.png")  # but a part with a changed image is
    result = histo(*line, out)
    assert "8 of 12 patches were scored before" in result.stderr
    assert "done: 12 patches scored" in result.stderr
    expected = {row["id"]: row["label"] for row in table((tmp_path / "whole.csv").read_text())}
    expected["patch-06"] = expected["patch-08"]
    assert {row["id"]: row["label"] for row in table(out.read_text())} == expected
    assert not parts.exists()


@pytest.mark.parametrize("change", ["checkpoint", "options", "inputs"])
def test_parts_of_another_checkpoint_options_or_inputs_are_not_used(histo, images, tmp_path, change):
    line, out = [*PREDICT, images, "--batch-size", 2, "--errors", "fail"], tmp_path / "preds.csv"
    (images / "patch-11.png").write_bytes(b"no picture")
    histo(*line, "--out", out, code=1)
    assert list(tmp_path.glob(".preds.csv.*.parts"))
    (images / "patch-11.png").unlink()
    if change != "inputs":
        write_images(histo, images)
    if change == "checkpoint":
        path = histo.root / "checkpoints" / "best.pt"
        save_checkpoint(replace(load_checkpoint(path), temperature=3.0), path)
    line += ["--raw"] if change == "options" else []
    result = histo(*line, "--out", out)
    assert "scored before" not in result.stderr
    assert out.read_text() == histo(*line).stdout
    assert list(tmp_path.glob(".preds.csv.*.parts")) == []


def test_parts_of_a_changed_archive_in_a_folder_are_not_used(histo, images, tmp_path):
    packed, out = tmp_path / "packed", tmp_path / "preds.csv"
    (images / "patch-11.png").write_bytes(b"no picture")
    shutil.make_archive(packed / "a", "zip", images)
    line = [*PREDICT, packed, "--batch-size", 2, "--errors", "fail", "--out", out]
    histo(*line, code=1)
    write_images(histo, images)
    shutil.copyfile(images / "patch-08.png", images / "patch-06.png")
    shutil.make_archive(packed / "a", "zip", images)
    assert "scored before" not in histo(*line).stderr
    labels = {row["id"]: row["label"] for row in table(out.read_text())}
    assert labels["patch-06"] == labels["patch-08"]


def test_unreadable_files_of_finished_parts_are_named_again(histo, images, tmp_path, monkeypatch):
    line, out = [*PREDICT, images, "--batch-size", 2], tmp_path / "preds.csv"
    (images / "patch-01.png").write_bytes(b"no picture")
    write = Parts.write_part

    def fail_at_the_fifth(self, number, counts):
        if number == 4:
            raise HistoError("the disk is full")
        return write(self, number, counts)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "write_part", fail_at_the_fifth)
        assert histo(*line, "--out", out, code=1).stderr.count("warning: patch-01.png") == 1
    result = histo(*line, "--out", out, code=4)
    assert "8 of 12 patches were scored before" in result.stderr
    assert result.stderr.count("warning: patch-01.png") == 1
    assert "error: 1 of 12 files" in result.stderr
    assert out.read_text() == histo(*line, code=4).stdout


def test_a_damaged_part_is_written_again(histo, images, tmp_path):
    line, out = [*PREDICT, images, "--batch-size", 2, "--errors", "fail", "--out"], tmp_path / "preds.csv"
    last = (images / "patch-11.png").read_bytes()
    (images / "patch-11.png").write_bytes(b"no picture")
    histo(*line, out, code=1)
    [folder] = tmp_path.glob(".preds.csv.*.parts")
    (folder / "0001").write_bytes(b"\0" * (folder / "0001").stat().st_size)  # as after a loss of power
    (folder / "0002").write_bytes(b"")
    (folder / "0003.json").write_bytes(b"")
    (images / "patch-11.png").write_bytes(last)
    facts = (folder / "0004.json").read_text()
    (folder / "0004.json").write_text(facts.replace('"scored": 2', '"scored": "two"'))
    error, hint = histo.fails(*line, out)
    assert "0004.json: the field scored is" in error
    assert hint == f"remove {folder}, and run the command again"
    (folder / "0004.json").write_text(facts)
    assert "4 of 12 patches were scored before" in histo(*line, out).stderr
    assert out.read_text() == histo(*line[:-1]).stdout


@pytest.mark.parametrize("more", [[], ["--skip-done"]])
def test_after_a_signal_the_same_command_continues_and_says_so(histo, images, tmp_path, monkeypatch, more):
    line, scored = [*PREDICT, images, "--batch-size", 2, "--out", tmp_path / "preds.csv", *more], []

    def stop_after_two_chunks(job, chunk, writer, write=Job.write):
        scored.append(chunk)
        if len(scored) == 3:
            raise Stopped(2)
        return write(job, chunk, writer)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "write", stop_after_two_chunks)
        error, hint = histo.fails(*line, code=130)
    assert error == "stopped by a signal; the state is saved"
    assert hint.startswith("run the same command again")
    if more:  # the finished parts are in the file, so that new images are no reason to score them again
        (images / "patch-10.png").rename(images / "a.png")
        assert f"done: 8 patches scored to {tmp_path / 'preds.csv'}; it had 4 before" in histo(*line).stderr
        assert len(table((tmp_path / "preds.csv").read_text())) == 12
    else:
        assert "4 of 12 patches were scored before" in histo(*line).stderr


def test_a_single_patch_that_was_scored_before_is_named_in_the_singular(histo, tmp_path, monkeypatch):
    write_images(histo, tmp_path / "one", 1)
    line = [*PREDICT, tmp_path / "one", "--out", tmp_path / "preds.csv"]

    def fail(*args):
        raise HistoError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("histocli.commands.predict._join_parts", fail)
        histo(*line, code=1)
    assert "1 of 1 patch was scored before" in histo(*line).stderr


def test_a_list_of_paths_from_stdin_continues_too(histo, images, tmp_path):
    line, out = [*PREDICT, "-", "--batch-size", 2, "--errors", "fail"], tmp_path / "preds.csv"
    names = "".join(f"{path}\n" for path in sorted(images.iterdir()))
    last = (images / "patch-11.png").read_bytes()
    (images / "patch-11.png").write_bytes(b"no picture")
    histo(*line, "--out", out, stdin=names, code=1)
    (images / "patch-11.png").write_bytes(last)
    assert "10 of 12 patches were scored before" in histo(*line, "--out", out, stdin=names).stderr
    assert out.read_text() == histo(*line, stdin=names).stdout


def test_one_process_at_a_time_writes_a_file(histo, images, tmp_path):
    with hold(tmp_path / ".preds.csv.lock", "preds.csv"):
        error, hint = histo.fails(*PREDICT, images, "--out", tmp_path / "preds.csv")
    assert "another histo process is using" in error
    assert "wait" in hint
    histo(*PREDICT, images, "--out", tmp_path / "preds.csv")
    assert sorted(path.name for path in tmp_path.glob("*.csv*")) == [".preds.csv.made-with.json", "preds.csv"]


def test_unusual_names_give_a_well_formed_csv(histo, tmp_path):
    odd = ["a,b", 'say "hi"', "two\nlines", "naïve ✓", "-dash", "[red]x", " space "]
    for path, name in zip(write_images(histo, tmp_path / "flat", len(odd)), odd, strict=True):
        path.rename(path.with_name(f"{name}.png"))
    assert sorted(row["id"] for row in run_predict(histo, tmp_path / "flat")) == sorted(odd)
    (tmp_path / "flat" / "[b]broken[bold].png").write_bytes(b"")
    assert "[b]broken[bold].png" in histo(*PREDICT, tmp_path / "flat", code=4).stderr


def test_results_are_utf8_for_any_locale_and_names(histo, tmp_path):
    first, second = write_images(histo, tmp_path / "flat", 2)
    first.rename(first.with_name("naïve.png"))
    try:
        second.rename(os.fsdecode(bytes(second.parent) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    names = b"".join(bytes(path) + b"\n" for path in sorted(first.parent.iterdir()))
    for line in ([first.parent], ["-"]):
        with histo.start(*PREDICT, *line, stdin=subprocess.PIPE, text=False, env={"PYTHONIOENCODING": "latin-1"}) as it:
            stdout, stderr = it.communicate(names, timeout=60)
        assert it.returncode == 0, stderr
        ids = [row["id"] for row in table(stdout.decode("utf-8"))]
        assert any("naïve" in key for key in ids)
        assert any("caf" in key for key in ids)


@pytest.mark.parametrize("form", ['"{}"', "'{}'", " {}", "{}\t"])
def test_quotes_and_spaces_around_a_path_from_stdin_are_named(histo, images, form, monkeypatch):
    path = images / "patch-00.png"
    result = histo(*PREDICT, "-", stdin=f"{path}\n{form.format(path)}\n", code=4)
    what = "quotes" if form.strip() != "{}" else "spaces or tabs"
    assert f"there is no such file: write the path without {what} around it" in " ".join(result.stderr.split())
    monkeypatch.chdir(images)
    (images / form.format("x.png")).write_bytes(path.read_bytes())  # but such a name is possible
    assert len(table(histo(*PREDICT, "-", stdin=f"{form.format('x.png')}\n").stdout)) == 1


def test_a_list_from_stdin_may_begin_with_a_mark_of_utf_8_but_not_contain_null_bytes(histo, images):
    path = images / "patch-00.png"
    marked, usual = (histo(*PREDICT, "-", stdin=f"{mark}{path}\n").stdout for mark in ("\ufeff", ""))
    assert marked == usual
    for text in (f"{path}\0{path}\0", f"{path}\n".encode("utf-16-le").decode()):
        result = histo(*PREDICT, "-", stdin=text, code=1)
        assert "contains null bytes" in result.stderr
        assert "find -print instead of -print0" in result.stderr


def test_an_empty_list_from_stdin_is_named(histo):
    result = histo(*PREDICT, "-", stdin="\n")
    assert result.stdout == "id,label\n"
    assert "warning: there are no paths on stdin" in result.stderr


def test_paths_from_stdin_that_are_not_there_are_named(histo, images):
    result = histo(*PREDICT, "-", stdin=f"{images / 'patch-00.png'}\n/no/such.png\n\n{images}\n", code=4)
    assert len(table(result.stdout)) == 1
    assert "warning: /no/such.png: No such file or directory" in result.stderr
    assert f"warning: {images}: " in result.stderr


def test_larger_images_are_cropped_or_scaled(histo, images, tmp_path):
    (tmp_path / "large").mkdir()
    for path in images.iterdir():
        framed = cv2.copyMakeBorder(cv2.imread(str(path)), 10, 10, 10, 10, cv2.BORDER_CONSTANT)
        cv2.imwrite(str(tmp_path / "large" / path.name), framed)
    cut = run_scores(histo, tmp_path / "large")
    scaled = run_scores(histo, tmp_path / "large", "--resize", "scale")
    assert cut == pytest.approx(run_scores(histo, images), abs=1e-5)
    assert cut != pytest.approx(scaled, abs=1e-5)


@pytest.mark.parametrize(
    ("line", "why", "expected"),
    [
        (["nothing"], "there is no file, folder or data set 'nothing'", "data sets: synthetic"),
        (["EMPTY"], "there are no images", "give a folder or an archive that contains images"),
        (["FLOATS.npy"], "float64", "save the images as uint8, 0 to 255"),
        (
            ["synthetic", "--ckpt", "nothing.pt"],
            "there is no checkpoint",
            "--ckpt first uses the best epoch of the run first (runs: first)",
        ),
        (["synthetic", "--ckpt", "./FLOATS.npy"], "cannot be read safely as a checkpoint", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_options_are_errors_before_anything_is_written(histo, tmp_path, monkeypatch, line, why, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    np.save(tmp_path / "FLOATS.npy", np.zeros((2, 96, 96, 3)))
    error, hint = histo.fails(*PREDICT, *line)
    assert why in error
    assert hint == expected


def test_a_workspace_without_a_run_uses_the_network_that_comes_with_histo(empty, histo, images):
    result = empty(*PREDICT, images)
    assert "histonet-pcam comes with histo" in result.stderr
    assert "Research use only" in result.stderr
    assert empty(*PREDICT, images, "--ckpt", "histonet-pcam").stdout == result.stdout
    assert len(table(result.stdout)) == 12
    assert "histonet-pcam comes with histo" not in histo(*PREDICT, images).stderr


def test_an_unknown_checkpoint_is_an_error_with_a_hint(empty, images):
    error, hint = empty.fails("predict", images, "--ckpt", "mine")
    assert "there is no checkpoint 'mine'" in error
    assert "histo train" in hint


def test_the_stored_threshold_and_rules_use_the_checkpoint(histo, images):
    path = histo.root / "checkpoints" / "best.pt"
    rows = run_predict(histo, images)
    middle = sorted(float(row["label"]) for row in rows)[6]
    save_checkpoint(replace(load_checkpoint(path), threshold=middle - 5e-7), path)
    expected = [str(int(float(row["label"]) >= middle)) for row in rows]
    for more in ([], ["--raw"]):  # the same patches are called, whatever the scale of the scores
        assert [row["class"] for row in run_predict(histo, images, "--threshold", "stored", *more)] == expected
    assert len(run_predict(histo, images, "--threshold", "specificity=0.9")) == 12
    error, hint = histo.fails(*PREDICT, images, "--threshold", "high", code=2)
    assert error == "--threshold high is not a threshold"
    assert "youden" in hint


def test_the_temperature_is_applied_unless_raw(histo, images):
    path = histo.root / "checkpoints" / "best.pt"
    save_checkpoint(replace(load_checkpoint(path), temperature=3.0), path)
    calibrated, raw = (run_scores(histo, images, *more) for more in ([], ["--raw"]))
    assert 3 * logit(calibrated) == pytest.approx(logit(raw), abs=1e-3)


def test_an_ensemble_may_have_networks_with_different_input_sizes(histo, images):
    histo(*TRAIN, "--arch", "histonet-64", "--epochs", 1, "--name", "small")
    first, small, both = (
        run_scores(histo, images, *options)
        for options in (["--ckpt", "first"], ["--ckpt", "small"], ["--ckpt", "first", "--ckpt", "small"])
    )
    assert first != small
    assert both == pytest.approx((np.array(first) + small) / 2, abs=2e-6)


@pytest.fixture
def odd_images(histo, tmp_path):
    """Return patches: one from train, one that is not, and both of them blank, blurred and in other colours."""
    ids = [row["id"] for row in read_rows(histo.root / "manifests" / "synthetic.csv")]
    used = read_rows(histo.root / "runs" / "first" / "manifest.csv")
    trained = [row["id"] for row in used if row["split"] == "train"]
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy")
    known = patches[ids.index(trained[0])]
    fresh = patches[next(i for i, key in enumerate(ids) if key not in trained)]
    folder = tmp_path / "odd"
    folder.mkdir()
    images = {
        "blank": np.full_like(known, 243),
        "blurred": cv2.GaussianBlur(fresh, (0, 0), 4),
        "fresh": fresh,
        "green": np.ascontiguousarray(fresh[..., [1, 0, 2]]),
        "known": known,
    }
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder, trained[0]


def test_qc_marks_unreliable_scores(histo, odd_images):
    folder, trained = odd_images
    result = histo(*PREDICT, folder, "--qc")
    rows = {row["id"]: row for row in table(result.stdout)}
    columns = ["id", "label", "spread", "colour", "focus", "contrast", "duplicate", "flags"]
    assert list(next(iter(rows.values()))) == columns
    assert {key: row["duplicate"] for key, row in rows.items() if row["duplicate"]} == {"known": trained}
    assert "duplicate" in rows["known"]["flags"].split(";")
    assert "blank" in rows["blank"]["flags"].split(";")
    assert float(rows["blank"]["contrast"]) == 0
    assert "unfocused" in rows["blurred"]["flags"].split(";")
    assert float(rows["blurred"]["focus"]) < -3
    assert "stain" in rows["green"]["flags"].split(";")
    assert float(rows["green"]["colour"]) > float(rows["fresh"]["colour"])
    assert "blank" not in rows["fresh"]["flags"]
    assert "1 duplicate" in result.stderr


def test_the_spread_is_that_of_the_eight_orientations(histo, images, tmp_path):
    plain = run_predict(histo, images)
    flagged = run_predict(histo, images, "--qc")
    assert [row["label"] for row in flagged] == [row["label"] for row in plain]
    (tmp_path / "turned").mkdir()
    image = cv2.imread(str(images / "patch-03.png"))
    for number in range(8):
        turned = np.rot90(image, number % 4)
        cv2.imwrite(str(tmp_path / "turned" / f"{number}.png"), turned[:, ::-1] if number >= 4 else turned)
    scores = run_scores(histo, tmp_path / "turned")
    assert float(flagged[3]["spread"]) == pytest.approx(np.ptp(scores), abs=1e-5)


def test_flags_need_the_appearance_of_the_training_patches_and_warn_without_the_patches(histo, images):
    (histo.root / "runs" / "first" / "manifest.csv").unlink()
    (histo.root / "manifests" / "balanced.csv").unlink()
    result = histo(*PREDICT, images, "--qc")
    assert {row["duplicate"] for row in table(result.stdout)} == {""}
    assert "the training patches are not in this workspace" in result.stderr
    path = histo.root / "checkpoints" / "best.pt"
    save_checkpoint(replace(load_checkpoint(path), appearance=None), path)
    error, hint = histo.fails(*PREDICT, images, "--qc")
    assert "does not describe the appearance of its training data" in error
    assert "--qc" in hint


def test_jsonl_has_one_object_per_line_with_the_values_of_the_csv(histo, images):
    rows = [json.loads(line) for line in histo(*PREDICT, images, "--qc", "--format", "jsonl").stdout.splitlines()]
    for row, other in zip(rows, run_predict(histo, images, "--qc"), strict=True):
        assert {k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} == other


def test_the_test_split_of_kaggle_gives_the_ids_of_the_sample_submission(histo, shared_data, tmp_path, monkeypatch):
    archive = shared_data / "kaggle_layout.zip"
    histo("download", "--from", archive)
    result = histo(*PREDICT, "kaggle")
    assert "all splits of kaggle are scored: test (28), train (800); --split scores one of them" in result.stderr
    found = histo(*PREDICT, "kaggle", "--split", "test").stdout
    with zipfile.ZipFile(archive) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith("sample_submission.csv")]
        wanted = opened.read(name).decode()
    assert found.splitlines()[0] == wanted.splitlines()[0] == "id,label"
    assert sorted(row["id"] for row in table(found)) == sorted(row["id"] for row in table(wanted))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kaggle").mkdir()  # an unzipped archive often has this name
    histo(*PREDICT, "kaggle", "--split", "test", "--out", "x.csv")
    assert (tmp_path / "x.csv").read_text() == found
    error, hint = histo.fails(*PREDICT, "kaggle", "--split", "valid")
    assert error == "kaggle has no patches in its split 'valid'"
    assert hint == "its splits: test, train"


def test_a_split_of_a_folder_is_refused(histo, images):
    assert "--split test is for packed data sets" in histo.fails(*PREDICT, images, "--split", "test", code=2)[0]


def test_skipped_files_are_counted(histo, images):
    (images / "slide.jxl").write_bytes(b"\xff\x0a")
    (images / "notes.txt").write_text("x")
    for name in ("a.png.filepart", "b.png.Ab12Cd34"):  # of programs that are still copying
        shutil.copy(images / "patch-00.png", images / name)
    with zipfile.ZipFile(images / "more.zip", "w") as archive:
        archive.write(images / "patch-00.png", "other.png")
    result = histo(*PREDICT, images)
    assert "5 files skipped: 1 .ab12cd34, 1 .filepart, 1 .jxl, 1 .txt, 1 .zip" in result.stderr
    told = " ".join(result.stderr.split())
    assert "warning" not in told
    assert f"1 archive is not opened, because there are images in the same folder: {images}/more.zip" in told
    assert len(table(result.stdout)) == 12
    both = histo(*PREDICT, images, images / "more.zip")
    assert "not opened" not in both.stderr
    assert len(table(both.stdout)) == 13


def test_a_decompression_bomb_in_a_gzip_is_stopped(histo, tmp_path):
    (tmp_path / "x.h5.gz").write_bytes(gzip.compress(bytes(80 << 20)))
    error, hint = histo.fails(*PREDICT, tmp_path / "x.h5.gz")
    assert "unpacks to more than 20 times its size" in error
    assert hint.endswith("or unpack it yourself")


# sizes, magnification, and whole slides


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


@pytest.fixture
def tiles(histo, tmp_path):
    """Images that are not 96x96: two larger ones, a smaller one, and one that is both."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    for name, (height, width) in {"a": (224, 224), "b": (460, 512), "c": (50, 50), "d": (50, 200)}.items():
        save(tmp_path / "tiles" / f"{name}.png", noise[:height, :width])
    write_images(histo, tmp_path / "tiles", 2)
    return tmp_path / "tiles"


def test_images_of_other_sizes_are_counted_and_named(histo, tiles):
    told = histo(*PREDICT, tiles).stderr
    assert "warning: a.png, 224 x 224 pixels: cut to the centre (the first; others are counted)" in told
    assert "warning: c.png, 50 x 50 pixels: padded" in told
    assert (
        "warning: 4 of 6 images were not 96x96: 2 cut to the centre (224x224 to 512x460), 1 padded (50x50), "
        "1 cut and padded (200x50)" in told
    )
    assert "assumed that the images have 0.972 um per pixel" in told
    grey, transparent = (Image.effect_noise((96, 96), 60).convert(mode) for mode in ("L", "RGBA"))
    transparent.putpixel((5, 5), (0, 0, 0, 0))
    grey.save(tiles / "e.png")
    transparent.save(tiles / "f.png")
    told = histo(*PREDICT, tiles, "--resize", "scale", "--out", tiles.parent / "preds.csv").stderr
    assert "warning: 4 of 8 images were not 96x96: 4 scaled (50x50 to 512x460)" in told
    assert "warning: e.png: grey, converted to RGB (the first; others are counted); networks are usually" in told
    assert "warning: 1 of 8 images: grey, converted to RGB" in told
    assert "warning: 1 of 8 images: transparent pixels were read as opaque" in told


def test_a_whole_slide_is_refused(histo, tmp_path):
    save(tmp_path / "slides" / "slide.png", np.zeros((300, 2500, 3), np.uint8))
    write_images(histo, tmp_path / "slides", 2)
    result = histo(*PREDICT, tmp_path / "slides", code=4)
    assert len(table(result.stdout)) == 2
    assert "slide.png: a whole slide of 2,500 x 300 pixels" in result.stderr
    assert "cut it into patches of 96 x 96 pixels at 0.972 um per pixel" in result.stderr


def test_mpp_rescales_to_the_resolution_of_the_patches(histo, images, tmp_path):
    for path in images.iterdir():
        patch = cv2.imread(str(path))
        doubled = cv2.copyMakeBorder(np.repeat(np.repeat(patch, 2, 0), 2, 1), 40, 40, 40, 40, cv2.BORDER_REFLECT)
        cv2.imwrite(str(tmp_path / path.name), doubled)
    result = histo(*PREDICT, tmp_path / "*.png", "--mpp", 0.486)
    told = result.stderr
    assert [float(row["label"]) for row in table(result.stdout)] == pytest.approx(run_scores(histo, images), abs=1e-5)
    assert "12 of 12 images were not 96x96 at 0.972 um per pixel: 12 cut to the centre (272x272 before)" in told
    assert "assumed" not in told
    assert "--mpp NUMBER rescales it" not in told  # it is given already
    for value in ("40x", "0.25um", "0", "-1", "nan", "1000"):
        assert "such as 0.25 for 40x" in histo.fails(*PREDICT, images, "--mpp", value, code=2)[1]
    assert "exclude" in histo.fails(*PREDICT, images, "--mpp", "0.5", "--resize", "scale", code=2)[0]
    error, hint = histo.fails(*PREDICT, "synthetic", "--mpp", "0.5", code=2)
    assert error == "--mpp is for images, and synthetic is a packed data set"
    assert "histo download --source folder --mpp" in hint


def test_a_message_names_a_tiff_with_another_resolution(histo, tmp_path):
    patch = np.load(histo.root / "data" / "synthetic" / "patches.npy")[0]
    for name, dots in {"fine": 10_000 / 0.243, "same": 10_000 / 0.972}.items():
        Image.fromarray(patch).save(tmp_path / f"{name}.tif", resolution=dots, resolution_unit="cm")
    told = "warning: 1 of 2 images: the file says 0.243 um per pixel, not 0.972"
    assert told in histo(*PREDICT, tmp_path).stderr
    assert "fine.tif: the file says 0.243 um per pixel, not 0.972 (the first" in histo(*PREDICT, tmp_path).stderr
    assert "the file says" not in histo(*PREDICT, tmp_path / "fine.tif", "--mpp", "0.243").stderr
    assert "the file says 0.972 um per pixel, not 0.243" in histo(*PREDICT, tmp_path, "--mpp", "0.243").stderr


def test_sixteen_bit_images_are_read_by_the_range_of_the_folder(histo, images, tmp_path):
    for path in images.iterdir():
        cv2.imwrite(str(tmp_path / path.name), cv2.imread(str(path)).astype(np.uint16) << 4)
    result = histo(*PREDICT, tmp_path / "patch-*.png")
    assert result.stdout == histo(*PREDICT, images).stdout
    assert "warning: 12 of 12 images: read as 12-bit integers, 0 to 4,095" in result.stderr


@pytest.mark.parametrize("kind", ["f4", "f8", "u2", "i8"])
def test_arrays_of_other_types_get_the_same_scores(histo, tmp_path, kind):
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy")[:12]
    np.save(tmp_path / "bytes.npy", patches)
    np.save(tmp_path / "x.npy", (patches / 255).astype(kind) if kind[0] == "f" else patches.astype(kind))
    assert histo(*PREDICT, tmp_path / "x.npy").stdout == histo(*PREDICT, tmp_path / "bytes.npy").stdout


# the nightly job


def test_columns_full_adds_the_path_and_the_class(histo, images):
    rows = run_predict(histo, images, "--columns", "full")
    assert list(rows[0]) == ["id", "path", "probability", "class"]
    plain = run_predict(histo, images, "--threshold", "stored")
    assert [row["probability"] for row in rows] == [row["label"] for row in plain]
    assert [row["class"] for row in rows] == [row["class"] for row in plain]
    assert [row["path"] for row in rows] == [str(path) for path in sorted(images.iterdir())]


def test_the_suffix_chooses_the_format(histo, images, tmp_path):
    histo(*PREDICT, images, "--out", tmp_path / "x.jsonl")
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["id"] == "patch-00"
    histo(*PREDICT, images, "--out", tmp_path / "x.jsonl", "--format", "csv")
    assert (tmp_path / "x.jsonl").read_text().startswith("id,label\n")
    assert "--out" in histo.fails(*PREDICT, images, "--format", "parquet", code=2)[1]
    histo(*PREDICT, images, "--out", tmp_path / "x.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").num_rows == 12
    error, hint = histo.fails(*PREDICT, images, "--out", tmp_path / "x.xlsx", code=2)
    assert "does not write .xlsx" in error
    assert ".parquet" in hint


def test_ids_of_listed_paths_can_be_stems(histo, images, tmp_path):
    names = "".join(f"{path}\n" for path in sorted(images.iterdir()))
    assert histo(*PREDICT, "-", "--id", "stem", stdin=names).stdout == histo(*PREDICT, images).stdout
    write_images(histo, tmp_path / "again", 1)
    more = names + f"{tmp_path}/again/patch-00.png\n"
    error, hint = "would have the same id", "use --id path"
    result = histo(*PREDICT, "-", "--id", "stem", "--out", tmp_path / "x.csv", stdin=more, code=1)
    assert error in result.stderr
    assert hint in result.stderr


def test_path_stems_of_a_list_are_the_paths_as_they_are(histo, tmp_path, monkeypatch):
    """`find .` lists folders too."""
    write_images(histo, tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    listed = ".\n/\n./\n..\n./patch-00.png\npatch-00.png\n"
    result = histo(*PREDICT, "-", "--id", "path-stem", stdin=listed, code=4)
    assert [row["id"] for row in table(result.stdout)] == ["./patch-00", "patch-00"]
    assert "4 of 6 files could not be read" in result.stderr


@pytest.mark.parametrize(
    "name", [".", "/", "", "..", "./a", "a.png", "a.b/c", "a.b/c.png", ".hidden", "x/.a.png", "a."]
)
def test_a_path_stem_ends_with_the_stem(name):
    file = File(name, bytes)
    stem = make_id(file, IdKind.PATH_STEM)
    assert name.startswith(stem)
    assert stem.rpartition("/")[2] == file.stem == make_id(file, IdKind.STEM)


def test_a_long_list_of_paths_takes_no_memory(tmp_path):
    lines = [f"{'folder/' * 20}{number}.png\n".encode() for number in range(10_000)]
    inputs = open_inputs(["-"], Workspace(tmp_path), Resize.CROP, lines)
    tracemalloc.start()
    try:
        for _ in inputs.patches:
            pass
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_id_chooses_the_kind_of_the_ids(histo, tmp_path):
    write_images(histo, tmp_path / "images" / "a", 1)
    for kind, key in {"stem": "patch-00", "path-stem": "a/patch-00", "path": "a/patch-00.png"}.items():
        assert [row["id"] for row in run_predict(histo, tmp_path / "images", "--id", kind)] == [key]
        listed = run_predict(histo, "-", "--id", kind, stdin=f"{tmp_path}/images/a/patch-00.png\n")
        assert [row["id"] for row in listed] == [key if kind == "stem" else f"{tmp_path}/images/{key}"]


def test_the_first_kind_of_id_that_differs_for_all_images_is_the_default(histo, tmp_path):
    images = tmp_path / "images"
    write_images(histo, images / "a", 2)
    assert [row["id"] for row in run_predict(histo, images)] == ["patch-00", "patch-01"]
    write_images(histo, images / "b", 1)
    assert [row["id"] for row in run_predict(histo, images)] == ["a/patch-00", "a/patch-01", "b/patch-00"]
    (images / "b" / "patch-00.jpg").write_bytes((images / "b" / "patch-00.png").read_bytes())
    assert [row["id"] for row in run_predict(histo, images)][2:] == ["b/patch-00.jpg", "b/patch-00.png"]


def test_a_pattern_in_quotes_is_expanded(histo, images):
    assert histo(*PREDICT, images / "patch-0?.png").stdout.count("\n") == 11
    assert histo(*PREDICT, images.parent / "**" / "patch-*.png").stdout == histo(*PREDICT, images).stdout
    assert "no path matches" in histo.fails(*PREDICT, images / "*.tif")[0]


def test_a_link_to_nothing_among_the_inputs_is_an_image_that_cannot_be_read(histo, images, tmp_path):
    link = images / "patch-dead.png"
    link.symlink_to("x" * 300)
    assert "1 of 2 files could not be read" in histo(*PREDICT, images / "patch-00.png", link, code=4).stderr
    link.unlink()
    link.symlink_to(tmp_path / "nothing.png")
    assert "--split test is for packed data sets" in histo.fails(*PREDICT, link, "--split", "test", code=2)[0]
    for line in ([images / "*.png"], [images]):
        result = histo(*PREDICT, *line, "--out", tmp_path / "x.csv", code=4)
        assert re.search(r"warning: .*patch-dead\.png: No such file or directory", result.stderr)
        assert "1 of 13 files could not be read" in result.stderr
        assert len(table((tmp_path / "x.csv").read_text())) == 12
    assert "the only file could not be read" in histo(*PREDICT, link, code=1).stderr


def test_an_image_in_several_inputs_is_scored_once(histo, images, tmp_path):
    (images / "deep").mkdir()
    (images / "patch-11.png").rename(images / "deep" / "patch-11.png")
    for line in ([images / "**"], [images, images / "deep", images / "patch-00.png"]):
        result = histo(*PREDICT, *line)
        ids = [row["id"] for row in table(result.stdout)]
        assert len(ids) == len(set(ids)) == 12
        assert re.search(r"\d+ images are in several inputs; each image is scored once", result.stderr)
    np.save(tmp_path / "x.npy", np.zeros((1, 96, 96, 3), np.uint8))
    assert "x.npy is given twice" in histo.fails(*PREDICT, *[tmp_path / "x.npy"] * 2, code=2)[0]


def test_failed_files_are_listed_and_the_exit_code_says_so(histo, images, tmp_path):
    (images / "patch-05.png").write_bytes(b"no picture")
    for more in ([], ["--out", tmp_path / "x.csv"]):
        histo(*PREDICT, images, "--failed", tmp_path / "failed.csv", *more, code=4)
        [row] = table((tmp_path / "failed.csv").read_text())
        assert row == {"id": "patch-05", "path": f"{images}/patch-05.png", "error": row["error"]}
        assert "patch-05.png: not an image" in row["error"]
    for path in images.iterdir():
        path.write_bytes(b"no picture")
    result = histo(*PREDICT, images, "--failed", tmp_path / "failed.csv", code=1)
    assert "error: none of the 12 files could be read" in result.stderr
    assert len(table((tmp_path / "failed.csv").read_text())) == 12
    assert "leave out" in histo.fails(*PREDICT, images, "--failed", "x", "--errors", "fail", code=2)[1]


def test_a_data_set_that_is_missing_has_a_hint(histo, empty):
    assert empty.fails("predict", "kaggle")[1] == "there are no data sets yet: histo download packs one"
    assert empty.fails("eval", "--data", "kaggle")[1] == "there are no data sets yet: histo download packs one"
    assert histo.fails(*PREDICT, "kaggle")[1] == "data sets: synthetic"


def test_a_job_leaves_the_parts_of_another_file_alone(histo, images, tmp_path):
    parts = tmp_path / f".x.csv.{'0a' * 8}.parts"
    parts.mkdir()
    histo(*PREDICT, images, "--out", tmp_path / "x", "--format", "csv")
    assert parts.is_dir()
    histo(*PREDICT, images, "--out", tmp_path / "x.csv")
    assert not parts.exists()


def test_prevalence_changes_the_odds_by_one_factor_and_no_class(histo, images):
    line = [images, "--columns", "full"]
    write_images(histo, images, 60)
    usual, rare = (run_predict(histo, *line, *more) for more in ([], ["--prevalence", 0.05]))
    odds = [logit([float(row["probability"]) for row in rows]) for rows in (usual, rare)]
    labels = load_checkpoint(histo.root / "checkpoints" / "best.pt").validation["labels"].numpy()
    expected = logit(0.05) - logit(labels.mean())
    assert odds[1] - odds[0] == pytest.approx(np.full(60, expected), abs=1e-3)
    assert [row["class"] for row in usual] == [row["class"] for row in rare]


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "nan", "50"])
def test_a_prevalence_that_is_no_share_is_refused(histo, images, share):
    assert "is not above 0 and below 1" in histo(*PREDICT, images, "--prevalence", share, code=2).stderr


def test_patches_that_look_unlike_the_training_patches_are_reported(histo, tmp_path):
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy")[:64]
    blurred = [cv2.GaussianBlur(patch, (0, 0), 2) for patch in patches]
    for name, images in {"same": patches, "blurred": blurred}.items():
        np.save(tmp_path / f"{name}.npy", images)
    warning = "the patches look unlike the training patches"
    assert warning not in histo(*PREDICT, tmp_path / "same.npy").stderr
    shown = histo(*PREDICT, tmp_path / "blurred.npy").stderr
    assert warning in shown
    assert "of 64 measured patches have more unusual colours, or less sharpness" in shown
    assert "less sharp than the training patches" in shown
