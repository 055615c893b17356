"""`histo plot` from the files that the other commands leave in a workspace."""

import csv
import json
import os
import re
import shutil
import time
import xml.etree.ElementTree as ET
from hashlib import sha1
from pathlib import Path

import cv2
import numpy as np
import pytest

from histocli.atomic import write_json, write_text
from histocli.commands.plot import plot
from histocli.commands.runs import remove_runs
from histocli.config import PlotConfig
from histocli.enums import PlotFormat, PlotKind
from histocli.errors import HistoError, UsageError
from histocli.metrics import estimate_uncertainty, evaluate
from histocli.reports.audit import AuditReport, Contradictions
from histocli.reports.balance import BalanceReport, DroppedPatches, PatchCounts, SlideCounts, SplitCounts
from histocli.reports.evaluation import EvaluatedCheckpoint, EvaluationReport
from histocli.schema import to_json
from histocli.sources.folder import FolderOptions, FolderSource
from histocli.workspace import Workspace
from tests.data.tissue import write_patches
from tests.listeners import RecordingListener

OF_EVALUATION = [PlotKind.ROC, PlotKind.PR, PlotKind.CONFUSION, PlotKind.CALIBRATION, PlotKind.SCORES, PlotKind.ERRORS]


def draw(workspace, run, kinds, format=PlotFormat.PNG, **options):
    runs = () if run is None else (run,) if isinstance(run, str) else tuple(run)
    return plot(workspace, PlotConfig(run=runs, kind=tuple(kinds), format=format, **options))


def add_data(workspace, name, labels, pixels=None):
    folder = workspace.dataset_dir(name)
    folder.mkdir(parents=True)
    pixels = np.full((len(labels), 96, 96, 3), 128, np.uint8) if pixels is None else pixels
    np.save(workspace.patches_path(name), pixels)
    write_json(workspace.dataset_path(name), {"name": name})
    rows = "".join(f"{name}-{i},{label}\n" for i, label in enumerate(labels))
    write_text(workspace.manifest_path(name), "id,label\n" + rows)


def add_run(workspace, run, epochs=3, age=0, is_repeat=False):
    row = {"train_loss": 0.5, "val_loss": 0.6, "val_auc": 0.9, "val_accuracy": 0.8, "lr": 0.001}
    lines = (json.dumps(row | {"epoch": epoch}) + "\n" for epoch in range(1, epochs + 1))
    write_text(workspace.run_dir(run) / "history.jsonl", "".join(lines))
    config = workspace.run_dir(run) / "config.json"
    record = {"run": run, "data": "pcam", "val_patches": 40, "manifest_sha256": "0" * 64, "is_repeat": is_repeat}
    write_json(config, record)
    changed = config.stat().st_mtime - age
    os.utime(config, (changed, changed))


def add_evaluation(workspace, run, data, split, labels, probs, packed=True, tta=False, end="", **fields):
    stem = f"{run}-{data}-{split}{end}"
    measured = evaluate(labels, probs)
    report = EvaluationReport(
        run=run,
        data=data,
        split=split,
        checkpoints=(EvaluatedCheckpoint(run, "histonet", 3, 1.0, "best.pt", "0" * 64, "torch", ""),),
        tta=tta,
        is_calibrated=True,
        scores=f"{stem}.csv",
        measured=measured,
        before_calibration={},
        uncertainty=estimate_uncertainty(labels, probs, measured.metrics, replicates=20),
    )
    write_json(workspace.metrics_dir / f"{stem}.json", report.to_json() | fields)
    with (workspace.metrics_dir / f"{stem}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "label", "prob", "data", "index", "sha1"])
        for i, (label, prob) in enumerate(zip(labels, probs, strict=True)):
            table.writerow([f"patch-{i}", label, prob, data if packed else "", i if packed else "", ""])


def add_balance(workspace):
    counts = dict.fromkeys(("train", "val"), SplitCounts(18, 16, 2))
    slides = [SlideCounts(f"s{i}", split, 9, 8) for i, split in enumerate(["train", "val"] * 2)]
    report = BalanceReport(
        data="pcam",
        name="balanced",
        n=68,
        seed=0,
        split="slide",
        can_leak=False,
        sharing_pixels=None,
        val_fraction=0.1,
        dropped=DroppedPatches(),
        available=PatchCounts(36, 32),
        counts=counts,
        slides=slides,
        hospitals=None,
        appearance=None,
        audit=AuditReport("pcam", [], 0, Contradictions(0, []), [], None, []),
        manifest_sha256="0" * 64,
    )
    write_json(workspace.metrics_dir / "balance.json", to_json(report))


@pytest.fixture
def workspace(tmp_path):
    """Return a workspace with a data set, a run, its evaluation and a balanced subset."""
    workspace = Workspace(tmp_path)
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 40)
    probs = np.clip(0.5 + 0.25 * (2 * labels - 1) + 0.3 * rng.normal(size=40), 0, 1)
    add_data(workspace, "pcam", labels)
    add_run(workspace, "net-1")
    add_evaluation(workspace, "net-1", "pcam", "val", labels, probs)
    add_balance(workspace)
    return workspace


def names(paths):
    return {path.name for path in paths}


@pytest.mark.parametrize("format", PlotFormat)
def test_all_draws_every_kind_in_every_format(workspace, format):
    paths = plot(workspace, PlotConfig(kind=(PlotKind.ALL,), format=format))
    expected = {"net-1-curves", "pcam-balance", "pcam-samples"} | {f"net-1-pcam-val-{kind}" for kind in OF_EVALUATION}
    assert names(paths) == {f"{stem}.{format}" for stem in expected} == names(workspace.plots_dir.iterdir())
    for path in paths:
        check = {PlotFormat.PNG: check_png, PlotFormat.SVG: check_svg, PlotFormat.PDF: check_pdf}[format]
        check(path)


def check_png(path):
    height, width, _ = cv2.imread(str(path)).shape
    assert width in (700, 1440), path
    assert height > 250, path


def check_svg(path):
    assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg", path


def check_pdf(path):
    written = path.read_bytes()
    assert written.startswith(b"%PDF-"), path
    assert written.rstrip().endswith(b"%%EOF"), path
    assert b"CreationDate" not in written, path


@pytest.mark.usefixtures("names_only")
def test_the_requested_kinds_are_drawn_for_every_evaluation(workspace):
    add_evaluation(workspace, "net-1", "unseen", "all", [0, 1, 1], [0.1, 0.9, 0.2])
    paths = plot(workspace, PlotConfig(("net-1",), (PlotKind.ROC, PlotKind.BALANCE)))
    assert names(paths) == {"net-1-pcam-val-roc.png", "net-1-unseen-all-roc.png", "pcam-balance.png"}


@pytest.mark.usefixtures("names_only")
def test_the_network_that_was_trained_or_evaluated_last_is_the_default(workspace):
    def drawn(kind):
        return names(plot(workspace, PlotConfig(kind=(kind,))))

    def set_time(path, time):
        os.utime(path, (time, time))

    now = time.time()
    add_evaluation(workspace, "histonet-pcam", "pcam", "all", [0, 1], [0.2, 0.9])
    set_time(workspace.metrics_dir / "histonet-pcam-pcam-all.json", now + 10)
    assert drawn(PlotKind.ROC) == {"histonet-pcam-pcam-all-roc.png"}
    assert drawn(PlotKind.CURVES) == {"net-1-curves.png"}
    add_run(workspace, "newer", age=-15)
    with pytest.raises(HistoError, match="the run 'newer' has not been evaluated"):
        drawn(PlotKind.ROC)
    set_time(workspace.metrics_dir / "net-1-pcam-val.json", now + 20)
    assert drawn(PlotKind.ROC) == {"net-1-pcam-val-roc.png"}
    assert drawn(PlotKind.CURVES) == {"net-1-curves.png"}
    (workspace.metrics_dir / "damaged.json").write_text("{")
    set_time(workspace.metrics_dir / "damaged.json", now + 30)
    assert drawn(PlotKind.ROC) == {"net-1-pcam-val-roc.png"}
    add_evaluation(workspace, "cv", "pcam", "out-of-fold", [0, 1], [0.2, 0.9])
    set_time(workspace.metrics_dir / "cv-pcam-out-of-fold.json", now + 40)
    assert drawn(PlotKind.ROC) == {"net-1-pcam-val-roc.png"}


@pytest.mark.usefixtures("names_only")
def test_a_run_with_a_similar_name_has_its_own_plots(workspace):
    add_run(workspace, "net-1-long")
    add_evaluation(workspace, "net-1-long", "pcam", "val", [0, 1], [0.2, 0.9])
    assert names(plot(workspace, PlotConfig(("net-1",), (PlotKind.ROC,)))) == {"net-1-pcam-val-roc.png"}


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (PlotKind.CURVES, "histo train"),
        (PlotKind.ROC, "histo train"),
        (PlotKind.BALANCE, "histo balance"),
        (PlotKind.SAMPLES, "histo download"),
        (PlotKind.ALL, "histo train"),
    ],
)
def test_in_an_empty_workspace_the_hint_is_the_command_to_run(tmp_path, kind, hint):
    with pytest.raises(HistoError) as caught:
        plot(Workspace(tmp_path), PlotConfig(kind=(kind,)))
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", OF_EVALUATION)
def test_for_a_run_without_evaluation_the_hint_is_histo_eval(tmp_path, kind):
    workspace = Workspace(tmp_path)
    add_run(workspace, "first", age=1000)
    add_run(workspace, "second")
    for run, hint in ((None, "histo eval --ckpt second"), ("first", "histo eval --ckpt first")):
        with pytest.raises(HistoError, match="has not been evaluated") as caught:
            draw(workspace, run, [kind])
        assert caught.value.hint == hint


def test_nothing_is_drawn_if_one_of_several_kinds_has_no_input(workspace):
    (workspace.metrics_dir / "balance.json").unlink()
    with pytest.raises(HistoError) as caught:
        plot(workspace, PlotConfig(kind=(PlotKind.ROC, PlotKind.BALANCE)))
    assert "histo balance" in caught.value.hint
    assert not workspace.plots_dir.exists()


@pytest.mark.usefixtures("names_only")
def test_all_skips_kinds_without_input(tmp_path):
    workspace = Workspace(tmp_path)
    add_run(workspace, "only")
    listener = RecordingListener()
    assert names(plot(workspace, PlotConfig(kind=(PlotKind.ALL,)), listener=listener)) == {"only-curves.png"}
    assert listener.notes == [
        "no ROC curve, calibration or other plot of scores: the run 'only' has not been evaluated; "
        "histo eval --ckpt only"
    ]


def test_an_unknown_run_is_refused_with_the_known_ones(workspace):
    with pytest.raises(HistoError, match="no run 'other'") as caught:
        plot(workspace, PlotConfig(("other",), (PlotKind.ALL,)))
    assert "net-1" in caught.value.hint
    with pytest.raises(UsageError):
        plot(workspace, PlotConfig(("../net-1",), (PlotKind.ALL,)))


def test_the_common_name_of_seeds_is_refused_with_the_names_of_the_runs(workspace):
    for number in (9, 10):
        add_run(workspace, f"net-seed{number}", is_repeat=True)
    with pytest.raises(HistoError, match="'net' is the common name of 2 runs, and has no evaluation") as caught:
        plot(workspace, PlotConfig(("net",), (PlotKind.ALL,)))
    assert caught.value.hint == "for the curves of the runs: --run net-seed9 --run net-seed10"
    with pytest.raises(HistoError, match="'net' is the common name of 2 runs") as caught:
        remove_runs(workspace, ["net"])
    assert caught.value.hint == "histo runs rm net-seed9 net-seed10"


@pytest.mark.usefixtures("names_only")
def test_an_evaluation_of_a_copied_checkpoint_needs_no_run_folder(workspace):
    add_evaluation(workspace, "borrowed", "pcam", "all", [0, 1], [0.2, 0.9])
    assert names(plot(workspace, PlotConfig(("borrowed",), (PlotKind.ROC,)))) == {"borrowed-pcam-all-roc.png"}


def test_a_run_without_an_epoch_has_no_curves(tmp_path):
    workspace = Workspace(tmp_path)
    add_run(workspace, "young", epochs=0)
    with pytest.raises(HistoError, match="not finished an epoch"):
        plot(workspace, PlotConfig(kind=(PlotKind.CURVES,)))


def test_the_hint_for_a_missing_history_is_a_command_that_works(workspace):
    (workspace.run_dir("net-1") / "history.jsonl").unlink()
    add_evaluation(workspace, "borrowed", "pcam", "all", [0, 1], [0.2, 0.9])
    for run, hint in (("net-1", "restore it from a copy"), ("borrowed", "")):
        with pytest.raises(HistoError, match=f"the run '{run}' has no history") as caught:
            plot(workspace, PlotConfig((run,), (PlotKind.CURVES,)))
        assert caught.value.hint == hint


@pytest.mark.parametrize("kinds", [[PlotKind.ALL], [PlotKind.CURVES]])
def test_a_damaged_history_is_an_error_even_with_all(workspace, kinds):
    write_text(workspace.run_dir("net-1") / "history.jsonl", "{not json")
    with pytest.raises(HistoError, match=r"history\.jsonl"):
        plot(workspace, PlotConfig(kind=kinds))


def test_the_errors_sheet_shows_the_most_confident_errors(tmp_path):
    workspace = Workspace(tmp_path)
    labels = np.array([0] * 30 + [1] * 30)
    probs = np.where(labels == 0, 0.1, 0.9)
    probs[:20] = np.linspace(0.55, 0.98, 20)  # 20 false positives, of which the 16 highest are shown
    probs[30:32] = 0.3, 0.2  # two false negatives
    shown, hidden = np.array([200, 30, 90]), np.array([30, 200, 90])
    pixels = np.empty((60, 96, 96, 3), np.uint8)
    pixels[:] = hidden
    pixels[4:20] = shown
    pixels[30:32] = shown
    add_data(workspace, "pcam", labels, pixels)
    add_run(workspace, "net")
    add_evaluation(workspace, "net", "pcam", "val", labels, probs)
    (path,) = plot(workspace, PlotConfig(("net",), (PlotKind.ERRORS,)))
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    assert not (np.abs(image - hidden) < 8).all(axis=2).any()
    mask = (np.abs(image - shown) < 8).all(axis=2).astype(np.uint8)
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9)))  # the marked centres
    assert cv2.connectedComponents(closed)[0] - 1 == 18


def test_patches_of_several_data_sets_are_read_from_the_right_one(workspace):
    add_data(workspace, "unseen", [0, 1, 1], np.full((3, 96, 96, 3), (200, 30, 90), np.uint8))
    path = workspace.metrics_dir / "net-1-pcam-val.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "a,0,0.9,pcam,39,", "b,1,0.1,unseen,2,"]))
    (sheet,) = plot(workspace, PlotConfig(kind=(PlotKind.ERRORS,)))
    image = cv2.cvtColor(cv2.imread(str(sheet)), cv2.COLOR_BGR2RGB)
    grey, red = ((image == colour).all(axis=2).sum() for colour in ((128, 128, 128), (200, 30, 90)))
    assert grey == pytest.approx(red, rel=0.05)
    assert grey > 10_000


@pytest.mark.parametrize("packing", ["folder", "class", "zip"])
def test_errors_in_a_folder_or_zip_are_shown_while_it_is_there(tmp_path, packing, request):
    workspace = Workspace(tmp_path / "workspace")
    add_run(workspace, "net")
    folder = tmp_path / ("tumor" if packing == "class" else "loose")
    pixels = np.full((2, 96, 96, 3), 128, np.uint8)
    pixels[1] = 200, 30, 90
    keys = ["tumor/a/patch", "tumor/b/patch"] if packing == "class" else ["patch-0", "patch-1"]
    write_patches(
        folder, {f"{name}/{key.split('/')[-1]}": patch for name, key, patch in zip("ab", keys, pixels, strict=True)}
    )
    if packing == "zip":
        folder = Path(shutil.make_archive(str(tmp_path / "loose"), "zip", folder))
    source = FolderSource(FolderOptions((str(folder),)))
    assert [patch.id for patch in source.read_patches()] == keys
    add_evaluation(workspace, "net", "loose", "all", [0, 1], [0.9, 0.8], packed=False)
    path = workspace.metrics_dir / "net-loose-all.json"
    write_json(path, json.loads(path.read_text()) | {"folder": str(folder)})
    table = path.with_suffix(".csv")
    digests = [sha1(patch.tobytes()).hexdigest() for patch in pixels]
    rows = [f"{keys[i]},{i},{prob},,,{digest}" for i, prob, digest in zip((0, 1), (0.9, 0.1), digests, strict=True)]
    table.write_text("\n".join(["id,label,prob,data,index,sha1", *rows]))
    (sheet,) = draw(workspace, None, [PlotKind.ERRORS])
    image = cv2.cvtColor(cv2.imread(str(sheet)), cv2.COLOR_BGR2RGB)
    grey, red = ((image == colour).all(axis=2).sum() for colour in ((128, 128, 128), (200, 30, 90)))
    assert grey == pytest.approx(red, rel=0.05)
    assert grey > 10_000
    table.write_text(table.read_text().replace(digests[0], "0" * 40))
    with pytest.raises(HistoError, match=f"'{keys[0]}' was scored with other pixels"):
        draw(workspace, None, [PlotKind.ERRORS])
    table.write_text(table.read_text().replace(keys[0], "gone"))
    with pytest.raises(HistoError, match="has no patch 'gone' any more"):
        draw(workspace, None, [PlotKind.ERRORS])
    shutil.move(folder, tmp_path / "elsewhere")
    request.getfixturevalue("names_only")
    assert "net-loose-all-roc.png" in names(draw(workspace, None, [PlotKind.ALL]))
    with pytest.raises(HistoError, match="their folder is not there any more") as caught:
        draw(workspace, None, [PlotKind.ERRORS])
    assert "histo download" in caught.value.hint


@pytest.mark.usefixtures("names_only")
def test_only_the_runs_own_data_is_drawn_unless_another_is_named(workspace):
    add_data(workspace, "unseen", [0, 1, 1])
    report = json.loads((workspace.metrics_dir / "balance.json").read_text())
    write_json(workspace.metrics_dir / "other-balance.json", report | {"data": "unseen", "name": "other"})
    add_evaluation(workspace, "net-1", "unseen", "all", [0, 1, 1], [0.1, 0.9, 0.2])
    everything = names(draw(workspace, None, [PlotKind.ALL]))
    assert {"pcam-samples.png", "pcam-balance.png", "net-1-unseen-all-roc.png", "net-1-pcam-val-roc.png"} <= everything
    assert {"unseen-samples.png", "other-balance.png"}.isdisjoint(everything)
    named = names(draw(workspace, None, [PlotKind.SAMPLES, PlotKind.BALANCE, PlotKind.ROC], data=("unseen",)))
    assert named == {"unseen-samples.png", "other-balance.png", "net-1-unseen-all-roc.png"}
    with pytest.raises(HistoError, match="no data set 'nowhere'") as caught:
        draw(workspace, None, [PlotKind.ALL], data=("nowhere",))
    assert "pcam, unseen" in caught.value.hint


@pytest.mark.usefixtures("names_only")
def test_a_subset_that_was_drawn_again_is_not_that_of_the_run(workspace):
    config, balance = workspace.run_dir("net-1") / "config.json", workspace.metrics_dir / "balance.json"
    write_json(config, json.loads(config.read_text()) | {"manifest_sha256": "a" * 64})
    for digest, is_drawn in (("a", True), ("b", False)):
        write_json(balance, json.loads(balance.read_text()) | {"manifest_sha256": digest * 64})
        assert ("pcam-balance.png" in names(draw(workspace, None, [PlotKind.ALL]))) == is_drawn
    with pytest.raises(HistoError, match="no balanced subset that net-1 was trained on"):
        draw(workspace, None, [PlotKind.BALANCE])


def test_several_runs_share_a_plot_for_each_data_set_that_all_of_them_scored(workspace):
    add_run(workspace, "net-2", epochs=2)
    add_evaluation(workspace, "net-2", "pcam", "val", [0, 1, 1], [0.2, 0.9, 0.4])
    add_evaluation(workspace, "net-2", "unseen", "all", [0, 1, 1], [0.1, 0.9, 0.2])
    both = ["net-1", "net-2"]
    drawn = names(draw(workspace, both, [PlotKind.ALL], PlotFormat.SVG))
    kinds = ("pcam-val-roc", "pcam-val-pr", "pcam-val-calibration", "curves")
    assert drawn == {f"net-1-vs-net-2-{kind}.svg" for kind in kinds}
    written = (workspace.plots_dir / "net-1-vs-net-2-pcam-val-roc.svg").read_text()
    for run in both:
        assert f"<!-- {run} -->" in written
    assert "the runs scored different patches" in written
    with pytest.raises(UsageError, match="--kind confusion shows one run"):
        draw(workspace, both, [PlotKind.CONFUSION])
    with pytest.raises(HistoError, match="has not been evaluated on unseen"):
        draw(workspace, both, [PlotKind.ROC], data=("unseen",))
    add_run(workspace, "net-3")
    add_evaluation(workspace, "net-3", "pcam", "val", [0, 1, 1], [0.2, 0.9, 0.4], tta=True)
    with pytest.raises(HistoError, match="no evaluation on the same data and with the same options in common"):
        draw(workspace, ["net-2", "net-3"], [PlotKind.ROC])


@pytest.mark.usefixtures("names_only")
def test_a_network_without_a_run_folder_has_no_curves_beside_a_run(workspace):
    add_evaluation(workspace, "histonet-pcam", "pcam", "val", [0, 1, 1], [0.2, 0.9, 0.4])
    both = ["net-1", "histonet-pcam"]
    kinds = ("roc", "pr", "calibration")
    drawn = {f"net-1-vs-histonet-pcam-pcam-val-{kind}.png" for kind in kinds}
    assert names(draw(workspace, both, [PlotKind.ALL])) == drawn
    with pytest.raises(HistoError, match="the run 'histonet-pcam' has no history"):
        draw(workspace, both, [PlotKind.CURVES])
    with pytest.raises(HistoError, match="it is not known which data set histonet-pcam was trained on") as caught:
        draw(workspace, "histonet-pcam", [PlotKind.SAMPLES])
    assert caught.value.hint == "--data NAME chooses a data set: pcam"


@pytest.mark.parametrize(
    ("field", "values"),
    [("folder", ["/one/mine", "/two/mine"]), ("resize", ["crop", "scale"]), ("mpp", [None, 0.25, 0.5])],
)
def test_several_runs_have_a_plot_for_each_folder_and_way_to_read_it(workspace, field, values):
    add_run(workspace, "net-2")
    for run in ("net-1", "net-2"):
        for i, value in enumerate(values):
            fields = {"folder": "/one/mine", field: value}
            add_evaluation(workspace, run, "mine", "all", [0, 1, 1], [0.2, 0.9, 0.4], False, end=f"-{i}", **fields)
    paths = draw(workspace, ["net-1", "net-2"], [PlotKind.ROC], data=("mine",))
    assert len(set(paths)) == len(values)
    assert names(paths) <= names(workspace.plots_dir.iterdir())


def test_a_curve_of_several_runs_is_that_at_the_stored_threshold(workspace):
    """It is drawn once, although one of the runs has been evaluated at another threshold too."""
    add_run(workspace, "net-2")
    for run in ("net-1", "net-2"):
        add_evaluation(workspace, run, "pcam", "test", [0, 1, 1], [0.2, 0.9, 0.4])
    add_evaluation(workspace, "net-1", "pcam", "test", [0, 1], [0.2, 0.9], end="-at-0.3", threshold_rule="0.3")
    (path,) = draw(workspace, ["net-1", "net-2"], [PlotKind.CALIBRATION], PlotFormat.SVG, data=("pcam",))
    assert "the runs scored different patches" not in path.read_text()


def test_size_resolution_and_title_are_chosen(workspace):
    def size(**options):
        (path,) = draw(workspace, None, [PlotKind.ROC], PlotFormat.PNG, **options)
        return cv2.imread(str(path)).shape[:2]

    assert size() == (760, 700)
    assert size(dpi=100) == (380, 350)
    assert size(width=7.0) == (1520, 1400)
    draw(workspace, None, [PlotKind.ROC], PlotFormat.SVG)
    path = workspace.plots_dir / "net-1-pcam-val-roc.svg"
    assert "ROC: net-1" in path.read_text()
    draw(workspace, None, [PlotKind.ROC], PlotFormat.SVG, title=False)
    assert "ROC: net-1" not in path.read_text()
    for wrong in ({"dpi": 0}, {"width": 0.5}, {"width": 40, "dpi": 600}):
        with pytest.raises(UsageError):
            draw(workspace, None, [PlotKind.ROC], **wrong)
    assert draw(workspace, None, [PlotKind.ROC], PlotFormat.PDF, width=40, dpi=600)


@pytest.mark.parametrize(("slides", "has_band"), [(9, False), (20, True)])
def test_the_roc_has_a_band_where_the_bootstrap_has_enough_slides(workspace, slides, has_band):
    table = workspace.metrics_dir / "net-1-pcam-val.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},slide", *(f"{row},s{i // 2 % slides}" for i, row in enumerate(rows))]))
    (path,) = draw(workspace, None, [PlotKind.ROC], PlotFormat.SVG)
    assert ("95% band by slide" in path.read_text()) == has_band


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no"),
        ("id,label,prob,data,index\nx,1,0.5,pcam,0\n", "no column sha1"),
        ("id,label,prob,data,index,sha1\nx,1,much,pcam,0,\n", "not a table of scores"),
        ("id,label,prob,data,index,sha1\nx,0,0.9,pcam,4000,\n", "row 4,000"),
        ("id,label,prob,data,index,sha1\nx,0,0.9,gone,0,\n", "not packed"),
        (f"id,label,prob,data,index,sha1\nx,0,0.9,pcam,0,{'0' * 40}\n", "'x' was scored with other pixels"),
    ],
)
def test_scores_that_do_not_match_the_data_are_refused(workspace, text, message):
    path = workspace.metrics_dir / "net-1-pcam-val.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(HistoError, match=message) as caught:
        plot(workspace, PlotConfig(kind=(PlotKind.ERRORS,)))
    assert caught.value.hint


def test_a_missing_table_does_not_prevent_the_other_sheets(workspace):
    before = names(plot(workspace, PlotConfig(kind=(PlotKind.ERRORS,))))
    add_evaluation(workspace, "net-1", "pcam", "test", [0, 1], [0.9, 0.8])
    (workspace.metrics_dir / "net-1-pcam-test.csv").unlink()
    assert names(plot(workspace, PlotConfig(kind=(PlotKind.ERRORS,)))) == before


@pytest.mark.parametrize(
    ("labels", "groups"), [(["", "", ""], ["without label (n = 3)"]), ([0, 0], ["normal (n = 2)", "tumour (n = 0)"])]
)
def test_samples_have_a_group_for_each_class_or_one_without_labels(tmp_path, labels, groups):
    workspace = Workspace(tmp_path)
    add_data(workspace, "mine", labels)
    (path,) = plot(workspace, PlotConfig(kind=(PlotKind.SAMPLES,), format=PlotFormat.SVG))
    assert re.findall(r"<!-- (.* \(n = .*\)) -->", path.read_text()) == groups


@pytest.mark.usefixtures("names_only")
def test_all_draws_the_other_kinds_without_the_pixels(workspace):
    workspace.patches_path("pcam").unlink()
    workspace.dataset_path("pcam").unlink()
    drawn = names(plot(workspace, PlotConfig(kind=(PlotKind.ALL,), format=PlotFormat.SVG)))
    assert "net-1-pcam-val-roc.svg" in drawn
    assert not any("samples" in name or "errors" in name for name in drawn)
    with pytest.raises(HistoError, match="there are no packed patches yet"):
        draw(workspace, None, [PlotKind.SAMPLES])
    add_data(workspace, "unseen", [0, 1])
    with pytest.raises(HistoError, match="net-1 was trained on pcam, whose patches are not in") as caught:
        draw(workspace, None, [PlotKind.SAMPLES])
    assert caught.value.hint == "--data NAME chooses a data set: unseen"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"confusion": {"tn": "many", "fp": 0, "fn": 0, "tp": 0}}, "confusion.tn is 'many', not a whole number"),
        ({"threshold": 1.5}, "threshold is 1.5, not at least 0 and at most 1"),
        ({"n": -1}, "n is -1, not at least 0"),
        (
            {
                "curves": {
                    "roc": {"fpr": [0, 1], "tpr": [0], "threshold": [1, 0]},
                    "pr": {"recall": [], "precision": []},
                }
            },
            "curves.roc has lists of different lengths",
        ),
        ({"tta": 1}, "tta is 1, not true or false"),
        ({"histogram": None}, "histogram is None, not an object"),
    ],
)
def test_a_metrics_file_that_was_changed_by_hand_is_refused_by_its_field(workspace, change, field):
    path = workspace.metrics_dir / "net-1-pcam-val.json"
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(HistoError, match="the field") as caught:
        plot(workspace, PlotConfig(kind=(PlotKind.ROC,)))
    assert str(caught.value) == f"{path}: the field {field}"
    assert "histo eval" in caught.value.hint


@pytest.mark.parametrize("kinds", [[PlotKind.ALL], [PlotKind.ROC]])
def test_an_old_metrics_file_among_others_is_one_error_that_names_it(workspace, kinds):
    add_evaluation(workspace, "net-1", "unseen", "all", [0, 1, 1], [0.1, 0.9, 0.2])
    path = workspace.metrics_dir / "net-1-pcam-val.json"
    values = json.loads(path.read_text())
    values["trained_on"] = values.pop("intervals")
    write_json(path, values)
    with pytest.raises(HistoError, match=r"net-1-pcam-val\.json: the field intervals is missing") as caught:
        draw(workspace, None, kinds)
    assert caught.value.hint == "histo eval writes it again"
