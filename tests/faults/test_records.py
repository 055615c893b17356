"""Records and tables that no `histo` wrote, or that were damaged: one error that names the file."""

import json

import numpy as np
import pandas as pd
import pytest

from histocli.errors import HistoError
from histocli.reports.run import read_history, read_run
from histocli.reports.slides import SlideEvaluation
from histocli.schema import from_json
from histocli.slides.patch_maps import place_predictions
from histocli.slides.resolution import read_resolutions
from histocli.workspace import Workspace
from tests.faults.processes import histo

pytestmark = pytest.mark.attack

EPOCH = b'{"epoch": 1, "train_loss": 1, "val_loss": 1, "val_auc": 1, "val_accuracy": 1, "lr": 1}\n'


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b"3", b'{"epoch": NaN}', b'"x'], ids=lambda x: x[:9])
def test_a_damaged_line_of_a_history_is_named(tmp_path, line):
    path = tmp_path / "first" / "history.jsonl"
    path.parent.mkdir()
    path.write_bytes(EPOCH + line + b"\n")
    (path.parent / "last.pt").touch()
    with pytest.raises(HistoError, match=r"history\.jsonl, line 2") as caught:
        read_history(path)
    assert caught.value.hint == "histo train --resume --name first writes it again"


@pytest.mark.parametrize("epochs", ["x", -1, 2.5, True])
def test_epochs_that_are_no_number_are_one_error(root, epochs):
    path = root / "runs" / "first" / "config.json"
    record = json.loads(path.read_text())
    record["options"]["epochs"] = epochs
    path.write_text(json.dumps(record))
    with pytest.raises(HistoError, match=r"config\.json: its content has the epochs"):
        read_run(path.parent)
    assert "damaged" in histo(root, "runs").stdout


def test_no_record_leads_a_plot_out_of_its_folder(root):
    """The picture was written to the folder that the name of the data set in the record led to."""
    path = root / "metrics" / "balance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "../../../outside"}))
    before = sorted(root.parent.rglob("*outside*"))
    histo(root, "plot", "--kind", "balance")
    assert [path.parent for path in sorted(root.parent.rglob("*outside*")) if path not in before] == [root / "plots"]


SLIDES = {
    "folder": "/maps",
    "truth": "/truth",
    "threshold": 0.5,
    "slides": 2,
    "tumour_slides": 1,
    "without_truth": [],
    "failed": [],
    "auc": {"maximum": {"value": 1.0, "interval": None}},
    "scores": {"a": {"maximum": 0.9}, "b": {"maximum": 0.1}},
    "labels": {"a": 1, "b": 0},
    "froc": {"value": 0.5, "interval": None},
    "false_positives": [0.0, 9.0],
    "sensitivity": [0.0, 1.0],
    "recall": {},
    "chosen": None,
    "checkpoints": ["first"],
    "unknown_checkpoints": [],
    "in_training": [],
    "in_validation": [],
    "weights_notes": [],
    "undefined": {},
}


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"a": 1}},
        {"labels": {"a": 7, "b": 0}},
        {"scores": {"a": {}, "b": {"maximum": 0.1}}},
        {"auc": {}, "scores": {"a": {}, "b": {}}},
        {"sensitivity": [0.0]},
        {"false_positives": [9.0, 9.5]},
        {"false_positives": [0.0, -1.0]},
    ],
    ids=str,
)
def test_an_evaluation_of_slides_whose_fields_do_not_fit_is_refused(change):
    assert from_json(SlideEvaluation, SLIDES, "x.json").compute_roc("maximum")
    with pytest.raises(HistoError, match=r"x\.json: its content "):
        from_json(SlideEvaluation, SLIDES | change, "x.json")


@pytest.mark.parametrize("position", ["inf", "1e300", "0.5", "-1e9"])
def test_a_position_that_is_no_pixel_is_refused(tmp_path, position):
    workspace = Workspace(tmp_path)
    workspace.manifests_dir.mkdir()
    workspace.dataset_dir("d").mkdir(parents=True)
    workspace.dataset_path("d").write_text("{}")
    columns = {"id": ["a", "b"], "label": 0, "slide": "s", "x": ["0", position], "y": 0, "mpp_x": "", "mpp_y": ""}
    pd.DataFrame(columns).to_csv(workspace.manifest_path("d"), index=False)
    (tmp_path / "scores.csv").write_text("id,probability\na,0.5\nb,0.5\n")
    if position == "inf":  # as a text that is no number: a patch without a position, which is counted
        assert place_predictions(workspace, tmp_path / "scores.csv", ["d"]).n_unplaced == 1
    else:
        with pytest.raises(HistoError, match=r"d\.csv, column x: b has the position"):
            place_predictions(workspace, tmp_path / "scores.csv", ["d"])


@pytest.mark.parametrize("mpp", ["0.2_5", "０.25", "nan", "1e-400"])
def test_a_resolution_that_python_alone_reads_is_refused(tmp_path, mpp):
    path = tmp_path / "mpp.csv"
    path.write_text(f"slide,mpp\na,{mpp}\n", encoding="utf-8")
    with pytest.raises(HistoError, match="the mpp of a"):
        read_resolutions(str(path))


PREVIOUS = {
    "a quote in a field": ("csv", b'id,label\n"a"b,1\n'),
    "no text": ("csv", b"id,label\n\xff,1\n"),
    "a null id": ("jsonl", b'{"id": null, "label": 1}\n'),
    "no ids": ("jsonl", b'{"id": 3, "label": 1}\n{"id": "a", "label": 1}\n'),
    "deep": ("jsonl", b"[" * 100_000 + b"\n"),
}


@pytest.mark.parametrize(("kind", "content"), PREVIOUS.values(), ids=PREVIOUS)
def test_a_file_without_predictions_is_not_continued(trained_workspace, tmp_path, kind, content):
    path = tmp_path / f"out.{kind}"
    path.write_bytes(content)
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--skip-done", "--out", path]
    process = histo(trained_workspace, *line, code=1)
    assert f"error: --skip-done: {path} cannot be read as {kind}" in process.stderr
    assert path.read_bytes() == content


def test_a_record_of_predictions_that_is_no_object_is_one_error(trained_workspace, tmp_path):
    (tmp_path / "out.csv").write_text("id,label\na,0.5\n")
    (tmp_path / ".out.csv.made-with.json").write_text("[]")
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--skip-done", "--out", tmp_path / "out.csv"]
    assert "made-with.json is damaged: it is not an object" in histo(trained_workspace, *line, code=1).stderr


def test_a_file_with_a_long_name_in_other_letters_is_continued(trained_workspace, tmp_path):
    path = tmp_path / ("é" * 120 + ".csv")
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--skip-done", "--out", path]
    histo(trained_workspace, *line)
    content = path.read_bytes()
    assert "made with" not in histo(trained_workspace, *line).stderr
    assert path.read_bytes() == content


@pytest.fixture
def onnx_path(root):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from histocli.data.manifest import hash_file

    path = Workspace(root).export_path(hash_file(root / "runs" / "first" / "best.pt"), "onnx")
    path.parent.mkdir(exist_ok=True)
    return path


def write_onnx(path, root, node_name, axes, input_name="images", constants=()):
    """Write a network that averages images over some axes, with the facts of the run's checkpoint."""
    import onnx
    from onnx import TensorProto, helper

    import histocli
    from histocli.data.manifest import hash_file

    node = helper.make_node("ReduceMean", [input_name], ["log_odds"], name=node_name, axes=axes, keepdims=0)
    images = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["N", 3, 96, 96])
    output = helper.make_tensor_value_info("log_odds", TensorProto.FLOAT, None)
    initializers = [onnx.numpy_helper.from_array(*constant) for constant in constants]
    graph = helper.make_graph([node], "g", [images], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"checkpoint_sha256": hash_file(root / "runs" / "first" / "best.pt"), "histo": histocli.__version__}
    helper.set_model_props(model, facts)
    path.write_bytes(model.SerializeToString())


NETWORKS = {
    "one number for all patches": {"axes": [0, 1, 2, 3]},
    "many numbers for each": {"axes": [1]},
    "another input": {"axes": [1, 2, 3], "input_name": "pixels"},
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_an_onnx_file_that_does_not_score_patches_is_one_error(root, onnx_path, options):
    write_onnx(onnx_path, root, "\x1b[31mnode", constants=[(np.zeros(3, np.float32), "\x1b[2Junused")], **options)
    process = histo(root, "predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--engine", "onnx", code=1)
    assert f"error: {onnx_path} " in process.stderr
    assert "\x1b" not in process.stderr
