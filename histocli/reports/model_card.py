"""`model_card.md`: what a run was trained on, how good it is and how sure that is, and what it is not for.

After Mitchell et al., "Model Cards for Model Reporting" (2019).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.compute.device import thread_count
from histocli.data.groups import parted_by, plural
from histocli.data.manifest import UNLABELLED, file_sha256, read_manifest
from histocli.inference.score_table import clusters_of
from histocli.metrics import evaluate, uncertainty
from histocli.metrics.calibration import probability
from histocli.metrics.intervals import FEW_CLUSTERS
from histocli.models.checkpoint import Checkpoint, load_checkpoint
from histocli.reports.evaluations import evaluations_of
from histocli.workspace import Workspace, read_json, write_text

if TYPE_CHECKING:
    import pandas as pd

_CARD = "model_card.md"
_EVALUATIONS = "## Evaluations\n"
_LEAKS = {
    "slide": "Train and validation share no slide.",
    "overlap group": "Patches that show the same tissue are on one side, but not whole slides. Patches of one slide "
    "that do not overlap may stand on both sides, so the validation figures flatter somewhat.",
    "patch": "**The split is by patch: patches of one slide stand on both sides, so the validation figures flatter.** "
    "`histo eval --data` on slides never seen gives the figure that counts.",
}
_INTENDED = """\
Research on metastases in H&E-stained lymph-node sections: a score for single patches of 96x96 pixels at 10x (about
0.97 micrometres per pixel), which says how likely the central 32x32 pixels are to hold tumour.

Not a medical device. No score may decide about a patient, alone or among other findings. Not for other organs, stains,
magnifications or kinds of tumour, and not for whole slides, on which it has not been measured.
"""
_LIMITS = """\
- A score says something only of patches like those trained on; `histo predict --flags` marks those that are not, by
  colour and focus, and those that the network scores otherwise when they are turned.
- Another laboratory's scanner and stain may shift scores and their calibration: measure on its labelled patches first.
- Label 1 means tumour in the central 32x32 pixels; tumour in the outer ring alone is a 0.
- The best epoch, the temperature and the threshold were chosen on the validation patches, whose figures are therefore
  slightly too good even where no slide is shared.
- Probabilities, PPV and NPV hold where as many patches are tumour as in validation (half, as `histo balance` draws
  them). Where tumour is rarer, probabilities are too high and PPV is lower.
- Intervals speak of other patches or slides of the same kind, not of other training runs: `histo train --seeds` does.
"""


def write_card(workspace: Workspace, run: str) -> Path:
    """Write the card of a run that has all its epochs, from what is in its folder and in the workspace."""
    folder = workspace.run_dir(run)
    config = read_json(folder / "config.json")
    best = load_checkpoint(folder / "best.pt")
    manifest = read_manifest(folder / "manifest.csv", ("id", "label", "slide", "split"))
    packed = workspace.dataset_path(config["data"])
    dataset = read_json(packed) if packed.is_file() else {}
    sections = [
        f"# Model card: {run}\n\n{_summary(best, config)}",
        f"## Intended use\n\n{_INTENDED}",
        f"## Data\n\n{_data(config, dataset, manifest)}",
        f"## Leakage\n\n{_leakage(config, manifest)}",
        f"## Training\n\n{_training(config, best, folder)}",
        *_validation(best, manifest),
        f"## Limits\n\n{_LIMITS}"
        + "- Trained on synthetic patches: it knows nothing of real tissue.\n" * (dataset.get("source") == "synthetic"),
        _EVALUATIONS,
    ]
    write_text(folder / _CARD, "\n".join(sections))
    note_evaluations(workspace, run)
    return folder / _CARD


def note_evaluations(workspace: Workspace, run: str) -> None:
    """Bring the card's list of what `histo eval` measured up to date, if the run has a card."""
    path = workspace.run_dir(run) / _CARD
    if not path.is_file():
        return
    found = [made for made in evaluations_of(workspace, run) if "intervals" in made]
    rows = [
        [
            f"{made['data']}, {made['split']}" + ", 8 orientations" * made["tta"] + ", uncalibrated" * made["raw"],
            f"{made['n']:,}",
            *("unknown" if made[key] is None else f"{made[key]:,}" for key in ("trained_on", "chosen_on")),
            *(_figure(made["metrics"][key], made["intervals"][key]) for key in ("auc", "accuracy", "ece")),
            made["bootstrap"]["by"],
            f"{made['threshold']:.4f}",
        ]
        for made in found
    ]
    columns = ["patches", "n", "of them trained on", "of them chosen on", "AUC", "accuracy", "ECE", "intervals by"]
    columns.append("threshold")
    text = _table(columns, rows) if rows else "None yet: `histo eval` adds them here.\n"
    kept = path.read_text(encoding="utf-8").partition(_EVALUATIONS)[0]
    write_text(path, f"{kept}{_EVALUATIONS}\n{text}")


def _summary(best: Checkpoint, config: dict[str, Any]) -> str:
    options = config["options"]
    start = "random weights" if options["weights"] == "random" else "pretrained weights"
    size = sum(tensor.numel() for tensor in best.model.values())
    return (
        f"A patch classifier of lymph-node metastases: `{best.arch}` from {start}, {size:,} numbers, trained with "
        f"histo {config['versions']['histo']}. `best.pt` is epoch {best.epoch} of {options['epochs']}.\n"
    )


def _data(config: dict[str, Any], dataset: dict[str, Any], manifest: "pd.DataFrame") -> str:
    """Where the patches came from, their counts and their hashes."""
    rows = []
    for part in ("train", "val"):
        chosen = manifest[(manifest["split"] == part) & (manifest["label"] != UNLABELLED)]
        slides = (chosen.loc[chosen["slide"] != "", "slide"]).nunique()
        tumour = int(chosen["label"].sum())
        rows.append(
            [
                part,
                f"{len(chosen):,}",
                f"{tumour:,}",
                f"{len(chosen) - tumour:,}",
                f"{slides:,}" if slides else "unknown",
            ]
        )
    facts = [
        f"- Data set: `{config['data']}`" + (f", {dataset['source']}, from {dataset['origin']}" if dataset else ""),
        f"- Manifest: SHA-256 `{config['manifest_sha256']}` (`manifest.csv`)",
    ]
    if dataset:
        facts.append(f"- Pixels of all {dataset['patches']:,} packed patches: SHA-256 `{dataset['sha256']}`")
        facts += [f"- {name}: `{digest}`" for name, digest in dataset["checksums"].items()]
        facts += [f"- {count:,} {what}" for what, count in dataset["counts"].items()]
    return _table(["split", "patches", "tumour", "normal", "slides"], rows) + "\n" + "\n".join(facts) + "\n"


def _leakage(config: dict[str, Any], manifest: "pd.DataFrame") -> str:
    """What the split keeps apart, and what the audit found."""
    audit = config.get("audit")
    lines = "\n".join(_listed(audit)) if audit else "Not audited."
    return f"{_LEAKS[parted_by(manifest)]}\n\n{lines}\n"


def _listed(value: Any, name: str = "", indent: str = "") -> list[str]:
    """A value from a JSON file as a nested list; null stands for what is not known."""
    label = name.replace("_", " ")
    inner = indent + "  " * bool(label)
    head = [f"{indent}- {label}:"] if label else []
    if isinstance(value, dict):
        return head + [line for key, item in value.items() for line in _listed(item, key, inner)]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        rows = [", ".join(f"{key.replace('_', ' ')} {_said(v)}" for key, v in item.items()) for item in value]
        return head + [f"{inner}- {row}" for row in rows]
    return [f"{indent}- {label}: {_said(value)}"]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    words = {None: "not known", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _training(config: dict[str, Any], best: Checkpoint, folder: Path) -> str:
    options = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in config["options"].items() if value is not None
    )
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return "\n".join(
        [
            f"- Options: {options}",
            f"- Highest learning rate: {config['learning_rate']:g}",
            f"- Computed on {config['device']}",
            f"- Versions: {versions}" + (f"; commit `{config['git_commit']}`" if config["git_commit"] else ""),
            f"- Checkpoint `best.pt`: SHA-256 `{file_sha256(folder / 'best.pt')}`",
            "",
        ]
    )


def _validation(best: Checkpoint, manifest: "pd.DataFrame") -> list[str]:
    """The sections of the figures, with intervals, and of the calibration, both on the validation patches."""
    if not best.validation:
        return [f"## Figures\n\nThe best epoch is of an earlier version, which kept no scores: {best.metrics}.\n"]
    rows = manifest[(manifest["split"] == "val") & (manifest["label"] != UNLABELLED)]
    labels = best.validation["labels"].numpy().astype(np.int64)
    odds = best.validation["log_odds"].numpy()
    probs = probability(odds, best.temperature)
    found, before = evaluate(labels, probs, best.threshold), evaluate(labels, probability(odds))["metrics"]
    unsure = uncertainty(labels, probs, found["metrics"], best.threshold, clusters_of(rows), threads=thread_count())
    drawn, ends = unsure["bootstrap"], unsure["intervals"]
    by = f"{drawn['clusters']:,} {plural(drawn['by'])}"
    values = [[name.replace("_", " "), _figure(value, ends[name])] for name, value in found["metrics"].items()]
    changes = [
        [name.replace("_", " "), _number(before[name]), _number(found["metrics"][name])]
        for name in ("ece", "brier", "log_loss")
    ]
    rule = best.config.get("threshold", "0.5")
    few, why = min(drawn["holding"].values()), drawn["undefined"].get("auc")
    return [
        f"## Figures on the {found['n']:,} validation patches\n\n"
        f"One view of each patch; 95 % intervals by bootstrap over {by}, {drawn['replicates']:,} "
        f"resamples{'; so few make them rough' * (1 < few < FEW_CLUSTERS)}."
        f"{f' The AUC has none: {why}.' if why else ''}"
        f"{' Not all slides are known: these are too narrow where slides differ.' * (drawn['by'] != 'slide')}\n\n"
        + _table(["figure", "value (95 % interval)"], values),
        "## Calibration and threshold\n\n"
        f"The log odds of scores are divided by a temperature of {best.temperature:.4f}, fitted on the validation "
        "patches (Guo et al. 2017).\n\n"
        + _table(["figure", "before", "after"], changes)
        + f"\nA patch is called tumour from "
        f"{best.threshold:.4f} on (rule: {rule}).\n",
    ]


def _figure(value: float | None, interval: list[float] | None) -> str:
    ends = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    return _number(value) + ends


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
