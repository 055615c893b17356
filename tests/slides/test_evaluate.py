"""`histo eval --maps`."""

import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from histocli.data.manifest import hash_file
from histocli.reports.slides import find_slide_evaluation_path
from histocli.slides.asap import read_asap
from histocli.slides.records import SlideRecord, write_finished
from histocli.slides.synthetic import draw_slide, plan_synthetic_slide, write_annotation
from histocli.workspace import Workspace
from tests.cli import Histo, read_rows, template
from tests.slides.files import make_area, make_finished, make_ring, write_features

TUMOUR = {"objectType": "annotation", "classification": {"name": "Tumor"}}  # properties of an area in QuPath's GeoJSON


class ScoredSlides(NamedTuple):
    """The maps of three slides and of two more for training, and the annotations of all."""

    maps: Path
    training: Path
    annotations: Path


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    histo = Histo(template())
    scored = ScoredSlides(folder / "maps", folder / "training", folder / "annotations")
    for out, numbers in ((scored.maps, range(3)), (scored.training, (3, 4))):
        for number in numbers:
            plan = plan_synthetic_slide(3, number, 2400, number not in (1, 3))
            draw_slide(plan, folder / f"slides-{out.name}" / f"{plan.name}.tif")
            write_annotation(plan, scored.annotations / f"{plan.name}.xml")
        histo("predict", folder / f"slides-{out.name}", "--device", "cpu", "--out", out)
    return scored


def copy_as_geojson(annotations, folder, ring, properties):
    """Write the annotations as QuPath does, those with tumour with one area more."""
    for path in annotations.iterdir():
        areas = [([*area.outline.tolist(), area.outline[0].tolist()], TUMOUR) for area in read_asap(path).polygons]
        areas += [(ring, properties)] if areas else []
        write_features(folder / f"{path.stem}.geojson", *(make_area(outline, **values) for outline, values in areas))


def test_annotations_give_auc_froc_and_recall(histo, slides, monkeypatch):
    monkeypatch.setenv("HISTO_EVAL_THRESHOLD", "0.7")  # an option may also be given by its variable
    result = histo("eval", "--maps", slides.maps, "--annotations", slides.annotations, "--json")
    report = json.loads(result.stdout)
    assert report == json.loads((histo.root / "metrics" / "slides-maps.json").read_text())
    assert (report["slides"], report["tumour_slides"], report["threshold"]) == (3, 2, 0.7)
    assert set(report["auc"]) == {"maximum", "mean of the 10 highest", "area of tumour squares in mm2"}
    for name, auc in report["auc"].items():
        scores = [report["scores"][slide][name] for slide in report["labels"]]
        assert auc["value"] == pytest.approx(roc_auc_score(list(report["labels"].values()), scores))
    assert report["labels"] == {"tumor_001": 1, "normal_002": 0, "tumor_003": 1}
    at = np.interp([1 / 4, 1 / 2, 1, 2, 4, 8], report["false_positives"], report["sensitivity"])
    assert report["froc"]["value"] == pytest.approx(at.mean())
    assert sum(recall["lesions"] for recall in report["recall"].values()) >= 2
    assert {path.name for path in (histo.root / "plots").iterdir()} == {"slides-maps-roc.png", "slides-maps-froc.png"}
    record = json.loads((slides.maps / "tumor_001" / "slide.json").read_text())
    assert record["manifests"] == hash_file(histo.root / "runs" / "first" / "manifest.csv")


@pytest.mark.attack
@pytest.mark.parametrize("name", ["my maps (é)", "x" * 200, "-"])
def test_maps_in_a_folder_of_any_name_are_evaluated(histo, slides, tmp_path, name):
    """These names cannot be part of a file name; an earlier version refused them after it had measured the maps."""
    shutil.copytree(slides.maps, tmp_path / name)
    histo("eval", "--maps", tmp_path / name, "--annotations", slides.annotations)
    (report,) = (histo.root / "metrics").glob("slides-*.json")
    assert len(report.stem) <= 100


def test_folders_of_the_same_name_have_files_of_their_own(histo, slides, tmp_path):
    other = shutil.copytree(slides.training, tmp_path / "maps")
    for maps in (slides.maps, other, slides.maps, other):
        histo("eval", "--maps", maps, "--annotations", slides.annotations)
    first, second = sorted((histo.root / "metrics").glob("slides-maps*.json"))
    assert second.name == "slides-maps.json"
    assert json.loads(second.read_text())["folder"] == str(slides.maps)
    assert json.loads(first.read_text())["folder"] == str(other)
    assert len(list((histo.root / "plots").glob("slides-maps*.png"))) == 4
    histo("report", "--maps", other, "--pictures", 0)
    assert first.name in (histo.root / "plots" / "first-report.html").read_text()


def test_a_json_file_of_something_else_is_not_replaced_but_a_damaged_one_is(tmp_path):
    workspace = Workspace(tmp_path)
    path = workspace.metrics_dir / "slides-maps.json"
    path.parent.mkdir()
    for text, is_replaced in (("[]", False), ('{"run": "x"}', False), ("{", True), ("", True)):
        path.write_text(text)
        assert (find_slide_evaluation_path(workspace, tmp_path / "maps") == path) is is_replaced


def test_the_curve_of_an_earlier_call_is_removed_if_there_is_none_now(histo, slides, tmp_path):
    histo("eval", "--maps", slides.maps, "--annotations", slides.annotations)
    (tmp_path / "labels.csv").write_text("id,label\ntumor_001,1\nnormal_002,0\n")
    histo("eval", "--maps", slides.maps, "--labels", tmp_path / "labels.csv")
    assert [path.name for path in (histo.root / "plots").glob("slides-*")] == ["slides-maps-roc.png"]
    (tmp_path / "labels.csv").write_text("id,label\ntumor_001,1\n")
    result = histo("eval", "--maps", slides.maps, "--labels", tmp_path / "labels.csv", "--json")
    reason = "slides of both classes are needed (1 with tumour, 0 without)"
    told = " ".join(result.stderr.split())
    assert f"warning: the AUC and the ROC curve of slides cannot be computed: {reason}" in told
    assert "three AUCs" not in told
    assert json.loads(result.stdout)["undefined"] == {"auc": reason}
    assert not list((histo.root / "plots").glob("slides-*"))
    shutil.copy(slides.annotations / "normal_002.xml", tmp_path)
    result = histo("eval", "--maps", slides.maps, "--annotations", tmp_path, "--json")
    assert "no annotated lesion" in json.loads(result.stdout)["undefined"]["froc"]


def test_an_id_of_a_label_may_have_the_suffix_of_the_slide(histo, slides, tmp_path):
    labels = tmp_path / "labels.csv"
    line = ["eval", "--maps", slides.maps, "--labels", labels]
    labels.write_text("id,label\ntumor_001.tif,1\nnormal_002,0\n")
    assert json.loads(histo(*line, "--json").stdout)["labels"] == {"normal_002": 0, "tumor_001": 1}
    labels.write_text("id,label\ntumor_001.tif,1\ntumor_001,0\n")
    assert "'tumor_001' is the same id as 'tumor_001.tif', with two labels" in histo.fails(*line)[0]


def test_tiles_among_the_annotations_are_left_out_and_counted(histo, slides, tmp_path):
    line = ["eval", "--maps", slides.maps, "--json", "--annotations"]
    expected = json.loads(histo(*line, slides.annotations).stdout)
    tile = {"objectType": "tile", "measurements": {"probability of tumour": 0.9}}
    copy_as_geojson(slides.annotations, tmp_path, make_ring(0, 0, 2000), tile)
    result = histo(*line, tmp_path)
    assert "tumor_001.geojson: left out 1 tile: only areas of annotations count" in " ".join(result.stderr.split())
    assert json.loads(result.stdout) == expected | {"truth": str(tmp_path)}


def test_outlines_that_cross_themselves_are_counted(histo, slides, tmp_path):
    """The parts that they enclose twice were left out without a word."""
    turns = [0.8 * math.pi * i for i in range(6)]
    star = [[1000 + 900 * math.sin(turn), 1000 + 900 * math.cos(turn)] for turn in turns]
    copy_as_geojson(slides.annotations, tmp_path, star, TUMOUR)
    result = histo("eval", "--maps", slides.maps, "--annotations", tmp_path)
    message = (
        "tumor_001.geojson: the outline of 1 area crosses itself: the parts that it encloses twice "
        "(30.90% of the area) are treated as not annotated"
    )
    assert message in " ".join(result.stderr.split())


def test_labels_give_the_auc_alone(histo, slides, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\ntumor_001,1\nnormal_002,0\n")
    result = histo("eval", "--maps", slides.maps, "--labels", labels, "--json")
    report = json.loads(result.stdout)
    assert report["slides"] == 2
    assert report["without_truth"] == ["tumor_003"]
    assert "1 slide is not measured, because it has no label or annotation: tumor_003" in result.stderr
    assert report["froc"]["value"] is None
    highest = {name: scores["maximum"] for name, scores in report["scores"].items()}
    assert report["auc"]["maximum"]["value"] == float(highest["tumor_001"] > highest["normal_002"])


@pytest.mark.parametrize(("lowest", "has_interval"), [(0.9, False), (0.05, True)])
def test_an_auc_that_is_the_same_in_every_resample_has_no_interval(histo, tmp_path, lowest, has_interval):
    for i, probability in enumerate((lowest, 0.9, 0.9, 0.1, 0.1, 0.1)):
        folder = tmp_path / "maps" / f"s{i}"
        folder.mkdir(parents=True)
        (folder / "scores.csv").write_text(f"x,y,probability\n0,0,{probability}\n")
        record = SlideRecord(folder.name, "scored", squares=1, checkpoint="first")
        write_finished(folder, make_finished(f"{folder.name}.tif", record))
    (tmp_path / "labels.csv").write_text("id,label\ns0,1\ns1,1\ns2,1\ns3,0\ns4,0\ns5,0\n")
    result = histo("eval", "--maps", tmp_path / "maps", "--labels", tmp_path / "labels.csv", "--json")
    assert (json.loads(result.stdout)["auc"]["maximum"]["interval"] is not None) == has_interval


def write_maps(folder, paths, checkpoint, **fields):
    """Write a map of one square for each slide, and a table of labels; return the command that measures the maps."""
    for i, path in enumerate(map(Path, paths)):
        out = folder / "maps" / path.stem
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.csv").write_text(f"x,y,probability\n0,0,0.{i}\n")
        record = SlideRecord(path.stem, "scored", squares=1, maximum=i / 10, checkpoint=checkpoint)
        write_finished(out, make_finished(path, record, **fields))
    labels = [f"{Path(path).name},{i % 2}\n" for i, path in enumerate(paths)]
    (folder / "labels.csv").write_text("id,label\n" + "".join(labels))
    return ["eval", "--maps", folder / "maps", "--labels", folder / "labels.csv", "--json"]


def read_splits(histo):
    """Return the split of each slide of the first run."""
    return {row["slide"]: row["split"] for row in read_rows(histo.root / "runs" / "first" / "manifest.csv")}


def change_dataset(histo, **fields):
    path = histo.root / "data" / "synthetic" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_slides_that_the_checkpoint_was_trained_on_are_counted(histo, tmp_path):
    splits = read_splits(histo)
    names = [*sorted(splits), "new_1", "new_2"]
    kaggle = [f"camelyon16_train_{name}.tif" if i % 2 else f"{name}.tif" for i, name in enumerate(names)]
    line = write_maps(tmp_path, kaggle, "first; gone")
    drawn = histo(*line)  # synthetic patches are of no slide
    assert "were used to train or validate the checkpoint" not in drawn.stderr
    change_dataset(histo, source="slides")
    result = histo(*line)
    report = json.loads(result.stdout)
    for split, key in (("train", "in_training"), ("val", "in_validation")):
        used = {name for name in splits if splits[name] == split}
        assert {name.removeprefix("camelyon16_train_") for name in report[key]} == used
    assert (report["checkpoints"], report["unknown_checkpoints"]) == (["first", "gone"], ["gone"])
    shown = " ".join(result.stderr.split())
    assert f"warning: {len(splits)} of {len(names)} slides were used to train or validate the checkpoint" in shown
    assert "it is not known whether gone was trained on these slides" in shown
    assert "warning: it is not known" not in shown
    histo("report", "--maps", tmp_path / "maps", "--pictures", 0)
    page = (histo.root / "plots" / "first-report.html").read_text()
    assert f'<p class="warning">{len(splits)} of {len(names)} slides were used to train or validate' in page
    folder = histo.root / "runs" / "first"
    drawn = next(row for row in read_rows(folder / "manifest.csv") if row["split"] == "train")
    shots = {"per_class": 1, "ids": [drawn["id"]], "slides": 1, "drawn_from": len(splits)}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shots": shots}))
    (used,) = json.loads(histo(*line).stdout)["in_training"]  # the other slides were not trained on
    assert used.removeprefix("camelyon16_train_") == drawn["slide"]


def test_synthetic_slides_are_those_of_the_seed_and_size_of_their_folder(histo, tmp_path):
    trained = sorted(name for name, split in read_splits(histo).items() if split == "train")[:3]
    folders = [tmp_path / "synthetic-slides" / f"seed-{seed}-side-2400" / "slides" for seed in (3, 4)] + [tmp_path]
    paths = [folder / f"{name}.tif" for folder, name in zip(folders, trained, strict=True)]
    line = write_maps(tmp_path, paths, "first; histonet-pcam")
    for source, request, used in (
        ("synthetic-slides", {"seed": 3, "slide-side": 2400}, trained[:1]),
        ("slides", {"from": [str(folders[0])]}, trained[:1]),
        ("slides", {"from": [str(folders[0]), "real"]}, trained[2:]),
        ("kaggle", {}, trained[2:]),
    ):
        change_dataset(histo, source=source, request=request)
        result = histo(*line)
        assert json.loads(result.stdout)["in_training"] == used, source
    shown = " ".join(result.stderr.split())
    assert "histonet-pcam was trained on 31,157 training patches of PCam" in shown
    assert "it is not known" not in shown


def test_the_slides_of_a_run_are_not_known_if_its_manifest_or_data_set_changed(histo, tmp_path):
    change_dataset(histo, source="slides")
    names = list(read_splits(histo))
    digest = hash_file(histo.root / "runs" / "first" / "manifest.csv")
    for manifests, unknown in ((digest, []), ("0" * 64, ["first"])):
        line = write_maps(tmp_path, names, "first", manifests=manifests)
        assert json.loads(histo(*line).stdout)["unknown_checkpoints"] == unknown
    line = write_maps(tmp_path, names, "first")
    (histo.root / "data" / "synthetic" / "dataset.json").write_text("{")
    assert json.loads(histo(*line).stdout)["unknown_checkpoints"] == ["first"]


def test_wrong_use_is_refused(histo, tmp_path):
    error, _ = histo.fails("eval", "--maps", tmp_path, code=2)
    assert "--maps needs --annotations DIR or --labels FILE" in error
    error, _ = histo.fails("eval", "--maps", tmp_path, "--annotations", tmp_path)
    assert "there are no maps of slides in" in error
    error, _ = histo.fails("eval", "--maps", tmp_path, "--annotations", tmp_path, "--tta", code=2)
    assert "--tta is for patches" in error
    error, _ = histo.fails("eval", "--annotations", tmp_path, code=2)
    assert "--annotations is for the maps of whole slides" in error


def test_the_score_of_slides_is_chosen_on_training_slides(histo, slides, tmp_path):
    line = ["eval", "--maps", slides.maps, "--annotations", slides.annotations]
    assert "report the one that you chose before you saw them" in " ".join(histo(*line).stderr.split())
    result = histo(*line, "--choose-on", slides.training, "--json")
    chosen = json.loads(result.stdout)["chosen"]
    assert chosen["slides"] == 2
    assert chosen["auc"][chosen["name"]] == max(chosen["auc"].values())
    assert f"chosen on 2 training slides: {chosen['name']}" in result.stderr
    labels = tmp_path / "training.csv"
    labels.write_text("id,label\ntumor_001,1\nnormal_002,0\ntumor_003,1\nnormal_004,0\n")
    error, _ = histo.fails("eval", "--maps", slides.maps, "--labels", labels, "--choose-on", slides.training)
    assert "needs slides with and without tumour" in error
    error, _ = histo.fails(*line, "--choose-on", slides.maps)
    assert "is in --choose-on and in --maps" in error
    other = shutil.copytree(slides.training, tmp_path / "other")
    for path in other.rglob("slide.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scored_with": "other checkpoints"}))
    error, _ = histo.fails(*line, "--choose-on", other)
    assert "the slides of --choose-on and of --maps were scored with different checkpoints or options" in error
    error, _ = histo.fails("eval", "--choose-on", slides.maps, code=2)
    assert "--choose-on is for the maps of whole slides" in error
