"""The model card that training writes."""

import json
import re

import pytest

from histocli.errors import HistoError
from histocli.models.checkpoint import load_checkpoint
from histocli.reports.model_card import write_card
from histocli.workspace import Workspace
from tests.cli import TRAIN


def test_the_model_card_is_complete(histo):
    text = (histo.root / "runs" / "first" / "model_card.md").read_text()
    config = json.loads((histo.root / "runs" / "first" / "config.json").read_text())
    dataset = json.loads((histo.root / "data" / "synthetic" / "dataset.json").read_text())
    best = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    assert config["manifest_sha256"] in text
    assert dataset["sha256"] in text
    assert f"{best.temperature:.4f}" in text
    assert "Train and validation share no slide." in text
    assert re.search(rf"^\| AUC \| {best.metrics['val_auc']:.4f}", text, re.M)
    assert "95% intervals by bootstrap over" in text
    assert "trained on synthetic patches" in text
    for heading in ("Intended use", "Data", "Leakage", "Training", "Calibration and threshold", "Limits"):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert len(section.split()) > 6, heading
    assert not re.search(r"\b(TODO|TBD|None|nan|Undefined)\b|[{}]", text.partition("## Evaluations")[0])


def test_the_model_card_has_the_audit_and_a_warning_about_random_splits(histo):
    histo("balance", "--n", 64, "--split", "random")
    histo(*TRAIN, "--epochs", 1, "--name", "leaky")
    folder = histo.root / "runs" / "leaky"
    assert "the validation metrics are too good" in (folder / "model_card.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    (leak, *_) = config["audit"]["leaks"]
    config["audit"] |= {
        "duplicates": 3,
        "compared_with": [],
        "contradictions": {"patches": 2, "ids": ["a", "b"]},
        "overlaps": {"pairs": 7, "groups": 2, "patches": 12, "largest_group": 5},
        "leaks": [leak | {"from": "x|y: test", "held_out": True, "patches": 80, "duplicates": 4, "overlaps": None}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    text = write_card(Workspace(histo.root), "leaky").read_text()
    assert "- Compared with the data sets: none\n- Exact duplicates in `synthetic`: 3\n" in text
    assert "2 (a, b)\n- Overlaps in `synthetic`: 12 patches, in 7 pairs and 2 groups of at most 5 patches\n" in text
    assert "| x\\|y: test | train | 80 | yes | 4 | not known | " in text
    config["audit"]["leaks"][0]["patches"] = "80"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        HistoError, match=r"config\.json: the field audit\.leaks\[0\]\.patches is '80', not a whole number"
    ):
        write_card(Workspace(histo.root), "leaky")
    del config["audit"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "Not audited." in write_card(Workspace(histo.root), "leaky").read_text()
