"""`histo train --track`: what the library of each tracker reads back, resuming, and trackers that fail."""

import json
import shutil
import struct
import sys
import weakref

import cv2
import numpy as np
import pytest

import histocli
from histocli.compute.ddp import SINGLE_PROCESS
from histocli.listeners import CommandListener
from histocli.models.checkpoint import load_checkpoint
from histocli.trackers import TrackerListener
from tests.cli import QUICK, TRAIN
from tests.faults.processes import Process

pytestmark = pytest.mark.filterwarnings("default")  # the libraries warn about themselves
RUN = [*TRAIN, "--epochs", 2, "--name", "tracked"]
QUICK_RUN = [*QUICK, "--epochs", 2, "--name", "tracked"]  # for tests that do not compare steps
PICTURES = {"roc", "precision_recall", "calibration", "confusion"}
OFFLINE = {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture
def offline(monkeypatch):
    """Use wandb and MLflow in this process, without a network, and end wandb's own process afterwards.

    Otherwise the processes of later tests would send their metrics to it.
    """
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    yield
    import wandb

    wandb.teardown()


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw nothing at the end of a run, for tests that look at no picture."""
    monkeypatch.setattr("histocli.trackers.listener.draw_pictures", lambda *_: {})


def history(histo, run="tracked"):
    return [json.loads(line) for line in (histo.root / "runs" / run / "history.jsonl").read_text().splitlines()]


def read_events(histo, run="tracked"):
    """What TensorBoard reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(histo.root / "runs" / run / "tensorboard")).Reload()


def read_tensorboard(histo, run="tracked"):
    """The scalars by name, as {step: value}, and the names of all other data, read by TensorBoard."""
    events = read_events(histo, run)
    tags = events.Tags()
    scalars = {name: {event.step: event.value for event in events.Scalars(name)} for name in tags["scalars"]}
    texts = {name: events.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in tags["tensors"]}
    plugins = events.summary_metadata
    return scalars, texts, {name for name in plugins if name.startswith("_hparams_")}


def read_images(histo):
    """The pictures by name, as pixels (H,W,3), read by TensorBoard."""
    events = read_events(histo)
    encoded = {name: events.Images(name)[0].encoded_image_string for name in events.Tags()["images"]}
    return {name: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for name, data in encoded.items()}


def read_mlflow(histo):
    """The client of MLflow and the newest run in the workspace's database."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{histo.root / 'mlflow' / 'mlflow.db'}")
    (experiment,) = [experiment for experiment in client.search_experiments() if experiment.name == "histo"]
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def read_wandb(histo, run="tracked"):
    """All records of a run's offline files, parsed by the messages of wandb."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for path in sorted((histo.root / "runs" / run).glob("wandb/offline-run-*/*.wandb")):
        data, at, parts = path.read_bytes(), 7, []  # after the head of the file, which is LevelDB's log format
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # the rest of a block is empty
                at += 32768 - at % 32768
                continue
            size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            if kind == 0:
                break
            parts.append(data[at + 7 : at + 7 + size])
            at += 7 + size
            if kind in (1, 4):  # a whole record, or its last part
                records.append(Record.FromString(b"".join(parts)))
                parts = []
    return records


def history_of_wandb(histo, run="tracked"):
    rows = [record.history for record in read_wandb(histo, run) if record.HasField("history")]
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in rows]


def test_tensorboard_reads_the_epochs_the_options_and_the_best_metrics(histo):
    stderr = histo(*RUN, "--track", "tensorboard").stderr
    assert f"tensorboard: tensorboard --logdir {histo.root / 'runs'}" in stderr
    scalars, texts, hparams = read_tensorboard(histo)
    rows = history(histo)
    assert scalars["val/auc"] == pytest.approx({row["step"]: row["val_auc"] for row in rows})
    assert scalars["train/loss"] == pytest.approx({row["step"]: row["train_loss"] for row in rows})
    best = load_checkpoint(histo.root / "runs" / "tracked" / "best.pt")
    assert scalars["best/epoch"] == {0: best.epoch}
    assert scalars["best/auc_low"][0] < scalars["best/auc"][0] <= scalars["best/auc_high"][0]
    assert scalars["best/auc"][0] == pytest.approx(best.metrics["val_auc"])
    assert "| batch_size | 16 |" in texts["config/text_summary"]
    assert f"| checkpoint | {histo.root / 'runs' / 'tracked' / 'best.pt'} |" in texts["config/text_summary"]
    assert "| run | tracked |" in texts["tags/text_summary"]
    assert "| arch | histonet |" in texts["tags/text_summary"]
    images = read_images(histo)
    assert images.keys() == {f"best/{name}" for name in PICTURES}
    assert all(min(image.shape[:2]) > 300 and image.std() > 0 for image in images.values())
    assert hparams == {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"}


def summary_of_wandb(histo):
    records = [record.summary for record in read_wandb(histo) if record.HasField("summary")]
    items = [item for record in records for item in record.update]
    return {item.key or item.nested_key[-1]: json.loads(item.value_json) for item in items}


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_several_trackers_at_once_get_the_same_and_do_not_change_the_weights(histo):
    kinds = ("mlflow", "wandb", "tensorboard", "mlflow")
    result = histo(*RUN, *(word for kind in kinds for word in ("--track", kind)))
    assert "wandb: offline; send it with wandb sync" in result.stderr
    rows = history(histo)
    expected = pytest.approx({row["step"]: row["val_auc"] for row in rows})
    check_mlflow(histo, expected)
    check_wandb(histo, expected)
    assert read_tensorboard(histo)[0]["val/auc"] == expected
    first, tracked = (load_checkpoint(histo.root / "runs" / name / "last.pt") for name in ("first", "tracked"))
    assert all((tensor == tracked.model[name]).all() for name, tensor in first.model.items())
    check_evaluation(histo)


def check_mlflow(histo, expected):
    client, run = read_mlflow(histo)
    assert (run.info.run_name, run.info.status) == ("tracked", "FINISHED")
    assert run.data.params["batch_size"] == "16"
    assert run.data.params["checkpoint"] == str(histo.root / "runs" / "tracked" / "best.pt")
    assert run.data.tags["arch"] == "histonet"
    assert run.data.metrics["best/auc_low"] < run.data.metrics["best/auc"]
    assert {point.step: point.value for point in client.get_metric_history(run.info.run_id, "val/auc")} == expected
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["best", "model_card.md"]
    sent = {file.path.removeprefix("best/") for file in client.list_artifacts(run.info.run_id, "best")}
    assert sent == {f"{name}.png" for name in PICTURES}
    folder = histo.root / "mlflow" / "artifacts" / run.info.run_id / "artifacts" / "best"
    assert all(cv2.imread(str(folder / name)).std() > 0 for name in sent)


def check_wandb(histo, expected):
    assert {row["_step"]: row["val/auc"] for row in history_of_wandb(histo) if "val/auc" in row} == expected
    records = read_wandb(histo)
    (start,) = [record.run for record in records if record.HasField("run")]
    assert (start.display_name, start.project, "histonet" in start.tags) == ("tracked", "histo", True)
    config = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert config["batch_size"] == 16
    assert summary_of_wandb(histo)["best/auc_low"] == pytest.approx(read_mlflow(histo)[1].data.metrics["best/auc_low"])
    media = list((histo.root / "runs" / "tracked" / "wandb").glob("offline-run-*/files/media/images/best/*.png"))
    assert {path.name.split("_")[0].removesuffix(".png") for path in media} == {name.split("_")[0] for name in PICTURES}
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]


def check_evaluation(histo):
    """Evaluate the run: its metrics must be added to the run in each tracker."""
    before = read_mlflow(histo)[1]
    result = histo("eval", "--ckpt", "tracked", "--data", "synthetic", "--device", "cpu", "--json")
    assert "sent the metrics to mlflow as eval/synthetic-all/auc, ..." in result.stderr
    report = json.loads(result.stdout)
    low, high = report["delong"]["interval"]  # there are too few slides for the bootstrap
    expected = {"auc": report["metrics"]["auc"], "auc_low": low, "auc_high": high}
    scalars, summary, run = read_tensorboard(histo)[0], summary_of_wandb(histo), read_mlflow(histo)[1]
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    for name, value in expected.items():
        sent_as = f"eval/synthetic-all/{name}"
        assert scalars[sent_as][0] == pytest.approx(value, rel=1e-6)
        assert run.data.metrics[sent_as] == pytest.approx(value)
        assert summary[sent_as] == pytest.approx(value)


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_continues_in_its_tracker_and_sends_what_was_missed(histo):
    histo(*QUICK_RUN, "--track", "tensorboard")
    histo("train", "--resume", "--name", "tracked", "--epochs", 3)  # not tracked
    histo("train", "--resume", "--name", "tracked", "--epochs", 4, "--track", "tensorboard")
    scalars, _, _ = read_tensorboard(histo)
    assert list(scalars["val/auc"]) == [row["step"] for row in history(histo)]
    assert len(scalars["val/auc"]) == 4


@pytest.mark.slow
def test_a_killed_run_is_resumed_as_one_run_without_gaps(histo):
    """A process that is killed writes nothing at its end, so what was not sent before is lost."""
    track = ["--track", "mlflow", "--track", "wandb"]
    process = Process(histo.root, *TRAIN, "--epochs", 3, "--name", "tracked", *track, **OFFLINE)
    path = histo.root / "runs" / "tracked" / "history.jsonl"
    process.until(lambda: path.exists() and len(history(histo)) == 2)
    process.kill()
    process = Process(histo.root, "train", "--resume", "--name", "tracked", *track, **OFFLINE)
    assert process.wait() == 0, process.stderr
    steps = [row["step"] for row in history(histo)]
    assert len(steps) == 3
    client, run = read_mlflow(histo)
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/auc")] == steps
    folders = sorted((histo.root / "runs" / "tracked" / "wandb").glob("offline-run-*"))
    assert len({folder.name.rpartition("tracked-")[2] for folder in folders}) == 1
    for folder in folders[:-1]:
        shutil.rmtree(folder)
    assert [row["_step"] for row in history_of_wandb(histo) if "val/auc" in row] == steps


@pytest.mark.usefixtures("no_pictures")
def test_each_fold_is_a_run_of_its_own_in_a_group(histo):
    histo(*QUICK, "--folds", 2, "--name", "cv", "--track", "tensorboard")
    for fold in ("cv-fold1", "cv-fold2"):
        scalars, texts, _ = read_tensorboard(histo, fold)
        assert len(scalars["val/auc"]) == 1
        assert "| group | cv |" in texts["tags/text_summary"]


@pytest.mark.usefixtures("no_pictures")
def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on(histo, monkeypatch):
    """No server listens at this address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = histo(*QUICK_RUN, "--track", "mlflow", "--track", "tensorboard")
    assert result.stderr.count("warning: --track mlflow failed; the run tracked continues without it: ") == 1
    assert len(read_tensorboard(histo)[0]["val/auc"]) == len(history(histo)) == 2


@pytest.mark.usefixtures("no_pictures")
def test_a_tracker_that_fails_later_does_not_stop_the_training(histo, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", fail)
    result = histo(*QUICK_RUN, "--track", "tensorboard")
    assert result.stderr.count("--track tensorboard failed") == 1
    assert "No space left on device" in result.stderr
    assert len(history(histo)) == 2


def test_pictures_that_cannot_be_drawn_do_not_stop_the_training(histo, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("histocli.trackers.listener.draw_pictures", fail)
    result = histo(*QUICK_RUN, "--track", "tensorboard")
    assert "warning: --track: the final metrics of tracked were not sent: OSError" in " ".join(result.stderr.split())
    assert len(read_tensorboard(histo)[0]["val/auc"]) == len(history(histo)) == 2
    assert load_checkpoint(histo.root / "checkpoints" / "best.pt").run == "tracked"


def test_a_missing_package_is_named_before_the_training(histo, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    error, hint = histo.fails(*QUICK_RUN, "--track", "wandb")
    assert (error, hint) == ("--track wandb needs the package wandb", "pip install 'histocli[wandb]'")
    assert not (histo.root / "runs" / "tracked").exists()


@pytest.mark.usefixtures("no_pictures")
def test_the_python_api_tracks_too(histo):
    histocli.train(histo.root, epochs=1, batch_size=16, device="cpu", name="tracked", track="tensorboard")
    assert len(read_tensorboard(histo)[0]["val/auc"]) == 1
    with pytest.raises(histocli.HistoError, match="track='tensorbord' is not one of tensorboard, wandb, mlflow"):
        histocli.train(histo.root, epochs=1, track=["tensorbord"])


@pytest.mark.usefixtures("no_pictures")
def test_eval_is_complete_without_a_tracker_that_fails(histo, monkeypatch):
    histo(*QUICK_RUN, "--track", "mlflow")
    monkeypatch.setattr(histocli.trackers.mlflow.MLflowTracker, "log_run_metrics", lambda self, metrics: 1 / 0)
    result = histo("eval", "--ckpt", "tracked", "--data", "synthetic", "--device", "cpu", "--json")
    assert "the metrics were not sent to mlflow: ZeroDivisionError" in " ".join(result.stderr.split())
    assert json.loads(result.stdout)["metrics"]
    assert read_mlflow(histo)[1].info.status == "FINISHED"  # the training
    (histo.root / "runs" / "tracked" / "trackers.json").write_text('{"aim": {}}')
    result = histo("eval", "--ckpt", "tracked", "--data", "synthetic", "--device", "cpu", "--json")
    assert "trackers.json is damaged" in " ".join(result.stderr.split())
    assert json.loads(result.stdout)["metrics"]


def test_the_network_of_a_finished_run_is_not_kept_in_memory():
    """The next fold or seed needs the memory."""

    class Run:
        ranks = SINGLE_PROCESS

    run = Run()
    reference = weakref.ref(run)
    listener = TrackerListener([], CommandListener())
    listener.on_start(run, 0)
    listener.on_end(run)
    del run
    assert reference() is None
