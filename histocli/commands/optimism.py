"""`histo eval --optimism`: how much a random split flatters, from runs that are there already."""

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histocli.compute.device import thread_count
from histocli.data.groups import parted_by
from histocli.data.leakage import seen_already
from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.data.splits import HELD_OUT
from histocli.errors import HistoError
from histocli.inference.labelled import name_of
from histocli.inference.score_table import clusters_of, read_scores
from histocli.metrics import evaluate, uncertainty
from histocli.metrics.calibration import probability
from histocli.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from histocli.reports.evaluations import evaluations_of
from histocli.reports.plots import Format
from histocli.workspace import Workspace, read_json, write_json

# Options that may differ between runs of one recipe.
_MAY_DIFFER = {"data", "seed", "device", "precision", "compile", "threshold", "allow_leak"}
_MAY_VARY = 0.1  # the number of training patches, as a share: splits by group do not come out alike
Key = tuple[str, str, str]  # the data and split of an evaluation, and the hash of its manifest or of its patches' ids


class Optimism(NamedTuple):
    """What the gap is, and where it is written and drawn."""

    path: Path
    picture: Path
    report: dict[str, Any]


def optimism(workspace: Workspace, ckpt: str, data: str | None = None) -> Optimism:
    """Compare the validation of a run, and of all runs of its recipe and data, with unseen patches, and by their split.

    Reads what `histo eval` measured of each on the same unseen patches (`data`, else what most of the runs were
    evaluated on), writes `metrics/<data>-optimism.json` and draws it. Of runs split by slide and by overlap group the
    latter are listed and not compared.

    Raises:
        HistoError: the run is not there, or nothing to compare it with: neither unseen patches nor another split.
    """
    run = load_checkpoint(find_checkpoint(workspace, ckpt)).run
    rows = [_validation(workspace, name, best) for name, best in _siblings(workspace, run).items()]
    name = str(_config(workspace, run)["data"])
    key = _unseen(workspace, run, [row["run"] for row in rows], data)
    kinds = {row["kind"] for row in rows}
    if len(kinds) < 2 and key is None:
        grouped = "slide" if _slides_known(workspace, run) else "overlap"
        have, lack = ("random", grouped) if "random" in kinds else (rows[0]["parted_by"], "random")
        raise HistoError(
            f"every run of {run}'s recipe on {name} has a {have} split, and none was evaluated on unseen patches",
            f"histo eval --ckpt {run} --data NAME; or histo balance --data {name} --split {lack} && histo train, with "
            f"the options of {run}",
        )
    for row in rows:
        row["unseen"] = _measured(workspace, row["run"], key) if key else None
    splits = {row["parted_by"] for row in rows}
    grouped_by = next((split for split in ("slide", "overlap group") if split in splits), None)
    compared = {"random": "patch", "grouped": grouped_by}
    means = {kind: _means([row for row in rows if row["parted_by"] == split]) for kind, split in compared.items()}
    report = {
        "data": name,
        "grouped_by": grouped_by,
        "unseen": _named(workspace, [row["run"] for row in rows], key) if key else None,
        "runs": rows,
        "means": means,
        "gaps": {
            "random_minus_grouped": _minus(means["random"]["validation"], means["grouped"]["validation"]),
            "grouped_minus_unseen": _minus(means["grouped"]["validation"], means["grouped"]["unseen"]),
            "random_minus_unseen": _minus(means["random"]["validation"], means["random"]["unseen"]),
        },
    }
    path = workspace.metrics_dir / f"{name}-optimism.json"
    write_json(path, report)
    return Optimism(path, _draw(workspace, report), report)


def _siblings(workspace: Workspace, run: str) -> dict[str, Checkpoint]:
    """The `best.pt` of each finished run with this one's data, recipe, network and version, and about as many patches.

    The run itself is among them.
    """

    def recipe(name: str) -> tuple[Any, ...]:
        config = _config(workspace, name)
        options = {key: v for key, v in config["options"].items() if key not in _MAY_DIFFER}
        return config["data"], options, config["versions"]["histo"]

    def best(name: str) -> Checkpoint | None:
        try:
            return load_checkpoint(workspace.run_dir(name) / "best.pt")
        except HistoError:
            return None  # of a format before this one, or damaged: nobody asked for this run

    def network(checkpoint: Checkpoint) -> dict[str, Any]:
        return {key: tensor.shape for key, tensor in checkpoint.model.items()}

    def finished(name: str) -> bool:
        history = workspace.run_dir(name) / "history.jsonl"
        epochs = len(history.read_text(encoding="utf-8").splitlines()) if history.is_file() else 0
        return bool(epochs >= _config(workspace, name)["options"]["epochs"])

    def alike(name: str) -> bool:
        patches = _config(workspace, name)["train_patches"]
        return bool(abs(patches / _config(workspace, run)["train_patches"] - 1) <= _MAY_VARY)

    if not finished(run):
        raise HistoError(f"{run} has not all its epochs yet", f"histo train --resume --name {run}")
    wanted, its_own = recipe(run), load_checkpoint(workspace.run_dir(run) / "best.pt")
    runs = [name for name in workspace.run_names() if (workspace.run_dir(name) / "best.pt").is_file()]
    like = [name for name in runs if recipe(name) == wanted and finished(name) and alike(name)]
    theirs = {name: its_own if name == run else best(name) for name in like}
    # A name's network may change between versions.
    return {name: found for name, found in theirs.items() if found and network(found) == network(its_own)}


def _config(workspace: Workspace, run: str) -> dict[str, Any]:
    config: dict[str, Any] = read_json(workspace.run_dir(run) / "config.json")
    return config


def _validation(workspace: Workspace, run: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """How a run was split, and its AUC on its own validation patches."""
    manifest = read_manifest(workspace.run_dir(run) / "manifest.csv", ("id", "label", "split"))
    parted = parted_by(manifest)
    rows = manifest[(manifest["split"] == "val") & (manifest["label"] != UNLABELLED)]
    found = {"auc": checkpoint.metrics["val_auc"], "interval": None}
    if checkpoint.validation:
        found = _of_validation(checkpoint, rows)
    return {
        "run": run,
        "kind": "random" if parted == "patch" else "grouped",
        "parted_by": parted,
        "seed": checkpoint.config.get("seed"),
        "validation": found,
    }


def _of_validation(checkpoint: Checkpoint, rows: Any) -> dict[str, Any]:
    labels = checkpoint.validation["labels"].numpy().astype(np.int64)
    probs = probability(checkpoint.validation["log_odds"].numpy(), checkpoint.temperature)
    metrics = evaluate(labels, probs, checkpoint.threshold)["metrics"]
    unsure = uncertainty(labels, probs, metrics, checkpoint.threshold, clusters_of(rows), threads=thread_count())
    return {"auc": metrics["auc"], "interval": unsure["intervals"]["auc"]}


def _unseen(workspace: Workspace, run: str, runs: list[str], data: str | None) -> Key | None:
    """The data on which most of `runs` were evaluated, other than those they were drawn from.

    Raises:
        HistoError: it was to be `data`, a data set's name or a folder, and none was evaluated there as it should be.
    """
    own = _config(workspace, run)["data"]
    wanted = name_of(Path(data)) if data and Path(data).exists() else data
    found: dict[Key, int] = {}
    for made in (made for sibling in runs for made in _evaluations(workspace, sibling)):
        foreign = made["packed"] != own or made["split"] in HELD_OUT
        if foreign and wanted in (None, made["data"]):
            key = _key(workspace, made)
            found[key] = found.get(key, 0) + 1
    if data and not found:
        there = [made for made in evaluations_of(workspace, run) if made["data"] == wanted]
        raise HistoError(
            f"none of these runs was evaluated on {data} as their validation was",
            _unfit(there) or f"histo eval --ckpt {run} --data {data}",
        )
    return min(found, key=lambda key: (-found[key], key), default=None)


def _unfit(made: list[dict[str, Any]]) -> str | None:
    """Why a run's evaluations of one data set cannot stand beside its validation, where there is no other reason."""
    plain = [one for one in made if not one["raw"] and not one["tta"]]
    if not plain:
        return None
    known = [one["trained_on"] + one["chosen_on"] for one in plain if None not in (one["trained_on"], one["chosen_on"])]
    if known and min(known):
        return f"{min(known):,} of its patches were trained on or chose the epoch: leave them out"
    return None if known else "whether its patches were trained on is not known: the run's manifest or data are gone"


def _slides_known(workspace: Workspace, run: str) -> bool:
    manifest = read_manifest(workspace.run_dir(run) / "manifest.csv")
    return "slide" in manifest.columns and not (manifest["slide"] == "").any()


def _evaluations(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    """What is comparable with a run's validation: one view, calibrated, of patches of which it was trained on none."""
    made = evaluations_of(workspace, run)
    return [m for m in made if m.get("trained_on") == 0 and m.get("chosen_on") == 0 and not m["raw"] and not m["tta"]]


def _key(workspace: Workspace, made: dict[str, Any]) -> Key:
    return made["data"], made["split"], made["manifest_sha256"] or _ids_sha256(workspace, made)


def _ids_sha256(workspace: Workspace, made: dict[str, Any]) -> str:
    """The hash of ids and labels: folders of one name need not hold the same patches."""
    table = read_scores(workspace.metrics_dir / made["scores"]).sort_values("id")
    return sha256(table[["id", "label"]].to_csv(index=False).encode()).hexdigest()


def _named(workspace: Workspace, runs: list[str], key: Key) -> dict[str, Any]:
    """What the unseen patches are, and what of them is known to be of the slides, or the tissue, that a run has seen.

    Of several runs it is the most. None stands for what is not known: nothing is, of patches that are not packed.
    """
    data, split, digest = key
    seen: dict[str, int | None] = {"shared_slides": None, "overlaps": None}
    manifests = {_config(workspace, run)["manifest_sha256"]: workspace.run_dir(run) / "manifest.csv" for run in runs}
    for own in map(read_manifest, manifests.values()):
        if not {data, str(own["data"].iloc[0])} <= set(workspace.dataset_names()):
            continue
        for what, count in seen_already(workspace, own, data, split).items():
            if count is not None:
                seen[what] = max(seen[what] or 0, count)
    return {"data": data, "split": split, "sha256": digest, **seen}


def _measured(workspace: Workspace, run: str, key: Key) -> dict[str, Any] | None:
    """A run's AUC on the unseen patches, or None where it was not evaluated on them."""
    for made in _evaluations(workspace, run):
        if _key(workspace, made) == key:
            return {"auc": made["metrics"]["auc"], "interval": made.get("intervals", {}).get("auc")}
    return None


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean AUC of some runs: on their own validation patches, and on the unseen ones where all have it."""
    means: dict[str, Any] = {"runs": len(rows)}
    for key in ("validation", "unseen"):
        values = [row[key]["auc"] for row in rows if row[key] and row[key]["auc"] is not None]
        means[key] = float(np.mean(values)) if values and len(values) == len(rows) else None
    return means


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _draw(workspace: Workspace, report: dict[str, Any]) -> Path:
    from histocli.reports.plots.optimism import HEIGHT, draw_optimism
    from histocli.reports.plots.style import COLUMN, save

    path = workspace.plots_dir / f"{report['data']}-optimism.png"
    return save(path, Format.PNG, COLUMN, HEIGHT, lambda figure: draw_optimism(figure, report))
