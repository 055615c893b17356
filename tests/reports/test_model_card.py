"""The card that training leaves: complete, and honest about splits and audits."""

import json
import re

from histocli.models.checkpoint import load_checkpoint
from histocli.reports.model_card import write_card
from histocli.workspace import Workspace
from tests.cli import TRAIN, histo_fixture, one_thread_fixture  # noqa: F401


def test_the_model_card_is_complete(histo):
    text = (histo.root / "runs" / "first" / "model_card.md").read_text()
    config = json.loads((histo.root / "runs" / "first" / "config.json").read_text())
    dataset = json.loads((histo.root / "data" / "synthetic" / "dataset.json").read_text())
    best = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    assert config["manifest_sha256"] in text
    assert dataset["sha256"] in text
    assert f"{best.temperature:.4f}" in text
    assert "Train and validation share no slide." in text
    assert re.search(rf"^\| auc \| {best.metrics['val_auc']:.4f}", text, re.M)
    assert "95 % intervals by bootstrap over" in text
    assert "Trained on synthetic patches" in text
    for heading in ("Intended use", "Data", "Leakage", "Training", "Calibration and threshold", "Limits"):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert len(section.split()) > 6, heading
    assert not re.search(r"\b(TODO|TBD|None|nan)\b|[{}]", text.partition("## Evaluations")[0])


def test_the_model_card_tells_what_the_audit_found_and_that_a_random_split_flatters(histo):
    histo("balance", "--n", 64, "--split", "random")
    histo(*TRAIN, "--epochs", 1, "--name", "leaky")
    folder = histo.root / "runs" / "leaky"
    assert "validation figures flatter" in (folder / "model_card.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    config["audit"] = {
        "exact_duplicates": 3,
        "overlaps": {"train_val": 12},
        "shared_slides": [],
        "leaks": [{"from": "x: test", "held_out": True, "overlaps": None}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    text = write_card(Workspace(histo.root), "leaky").read_text()
    assert "- exact duplicates: 3\n- overlaps:\n  - train val: 12\n- shared slides: none\n" in text
    assert "- leaks:\n  - from x: test, held out yes, overlaps not known\n" in text
    del config["audit"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "Not audited." in write_card(Workspace(histo.root), "leaky").read_text()
