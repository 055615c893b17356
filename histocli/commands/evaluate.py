"""`histo eval`: how good a checkpoint, or an ensemble of several, is on patches whose labels are known."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli.compute.device import thread_count
from histocli.compute.world import ALONE, World
from histocli.config import Part, Resize
from histocli.data.manifest import file_sha256
from histocli.errors import HistoError, UsageError
from histocli.inference.checkpoints import STORED, CheckpointPredictor, load_predictor
from histocli.inference.comparison import compare as compare_scores
from histocli.inference.labelled import EvalConfig, Scored, score_folder, score_packed
from histocli.inference.score_table import clusters_of, strata, write_scores
from histocli.metrics import evaluate as measure
from histocli.metrics import uncertainty
from histocli.metrics.thresholds import fixed
from histocli.reports.model_card import note_evaluations
from histocli.workspace import Workspace, checked_name, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

CALIBRATION = ("ece", "brier", "log_loss")  # the figures that a temperature changes


class Evaluation(NamedTuple):
    """The metrics file's path and what it holds."""

    path: Path
    report: dict[str, Any]


def evaluate(
    workspace: Workspace,
    config: EvalConfig,
    *,
    on_start: Callable[[str], None] = lambda device: None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    on_unreadable: Callable[[HistoError], None] = lambda error: None,
    world: World = ALONE,
) -> Evaluation:
    """Score the data, write `metrics/<run>-<data>-<split>.json` and the scores as CSV beside it.

    What is not as usual (`--tta`, `--raw`, `--threshold`, `--resize`) is in the name too, and where another evaluation
    has that name already, a hash besides.

    Of several processes (`world`) each scores its share, and the leading one measures and writes.

    Raises:
        HistoError: a checkpoint, the data or the device cannot be used, or nothing is labelled.
    """
    on_disk = config.data is not None and Path(config.data).exists()
    _check(workspace, config, on_disk)
    scorer, threshold = world.each(lambda: _open(workspace, config))
    world.agree([[member.sha256 for member in scorer.members], scorer.kind], "checkpoints or devices")
    on_start(scorer.reason)
    if on_disk:
        scored = score_folder(workspace, scorer, config, on_progress, on_unreadable, world)
    else:
        scored = score_packed(workspace, scorer, config, on_progress, world)
    return world.lead(lambda: _write(workspace, config, scorer, scored, threshold))


def _open(workspace: Workspace, config: EvalConfig) -> tuple[CheckpointPredictor, float]:
    options = {"tta": config.tta, "raw": config.raw, "halve": config.halve}
    scorer = load_predictor(workspace, config.ckpt, config.device, config.precision, config.engine, **options)
    return scorer, scorer.threshold(config.threshold)


def _write(
    workspace: Workspace, config: EvalConfig, scorer: CheckpointPredictor, scored: Scored, threshold: float
) -> Evaluation:
    """Measure the scores, and write them and what was measured."""
    run = _name([member.checkpoint.run for member in scorer.members])
    unusual = {
        "tta": config.tta,
        "raw": config.raw,
        f"at-{config.threshold.replace('=', '-')}": config.threshold != STORED,
        config.resize.value: config.resize is not Resize.CROP,
    }
    said = [name for name, is_so in unusual.items() if is_so]
    parts = [f"{run}{_which(workspace, scorer)}", scored.data, scored.split, *said]
    origin = {
        "run": run,
        "data": scored.data,
        "split": scored.split,
        "folder": None if scored.packed else str(Path(config.data or "").resolve()),
    }
    path = _free(workspace.metrics_dir / f"{checked_name('-'.join(parts), 'metrics file')}.json", origin)
    report = {
        **origin,
        **_origin(scorer),
        "manifest_sha256": scored.manifest_sha256,
        "tta": config.tta,
        "raw": config.raw,
        "skipped": scored.skipped,
        "packed": scored.packed,
        "trained_on": scored.trained_on,
        "chosen_on": scored.chosen_on,
        "fitted_otherwise": config.tta or len(scorer.members) > 1,
        "scores": path.with_suffix(".csv").name,
        "threshold_rule": config.threshold,
        **_measured(scored.table, threshold),
    }
    write_scores(path.with_suffix(".csv"), scored.table.drop(columns="raw"))
    write_json(path, report)
    if len(scorer.members) == 1:
        note_evaluations(workspace, run)
    return Evaluation(path, report)


def _free(path: Path, origin: dict[str, Any]) -> Path:
    """`path`, or with a hash in its name, where that is an evaluation of another origin: of a folder of that name."""
    if not path.is_file():
        return path
    there = read_json(path)
    if isinstance(there, dict) and {key: there.get(key) for key in origin} == origin:
        return path
    return path.with_name(f"{path.stem}-{sha256(repr(origin).encode()).hexdigest()[:8]}.json")


def _which(workspace: Workspace, scorer: CheckpointPredictor) -> str:
    """What tells these checkpoints from the runs' own `best.pt`; nothing where that is what they are."""
    best = [workspace.run_dir(member.checkpoint.run) / "best.pt" for member in scorer.members]
    ours = [member.sha256 for member in scorer.members]
    named = _name([member.checkpoint.run for member in scorer.members]).endswith("-more")
    if not named and all(path.is_file() and file_sha256(path) == own for path, own in zip(best, ours, strict=True)):
        return ""
    return "-" + sha256("".join(ours).encode()).hexdigest()[:8]


def compare(
    workspace: Workspace,
    config: EvalConfig,
    names: tuple[str, str],
    *,
    on_start: Callable[[str], None] = lambda device: None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    on_unreadable: Callable[[HistoError], None] = lambda error: None,
    world: World = ALONE,
) -> Evaluation:
    """Compare two evaluations on the patches that both scored, and write what comes of it.

    A name is a metrics file (`.json`) or a checkpoint, which is evaluated first, as `config` says.

    Raises:
        HistoError: as `evaluate`, or the two have no patch in common.
    """

    def scored(name: str) -> Path:
        if not name.endswith(".json"):
            only = replace(config, ckpt=[name])
            made = evaluate(
                workspace, only, on_start=on_start, on_progress=on_progress, on_unreadable=on_unreadable, world=world
            )
            return made.path
        path = Path(name)
        return path if path.exists() else workspace.metrics_dir / name

    def write() -> Evaluation:
        if one == other and names[0] != names[1]:
            raise UsageError(f"{names[0]} and {names[1]} are one and the same evaluation", "name two that differ")
        report = compare_scores(one, other)
        stem = checked_name(_name([one.stem, other.stem], "-vs-", 100), "metrics file")
        path = workspace.metrics_dir / f"{stem}.json"
        write_json(path, report)
        return Evaluation(path, report)

    one, other = map(scored, names)
    return world.lead(write)


def _measured(table: "pd.DataFrame", threshold: float) -> dict[str, Any]:
    """Every figure of the scores, how sure it is, what it was before calibration, and of each slide and hospital."""
    labels, probs = table["label"].to_numpy(), table["prob"].to_numpy()
    found = measure(labels, probs, threshold)
    before = measure(labels, table["raw"].to_numpy(), threshold)["metrics"]
    unsure = uncertainty(labels, probs, found["metrics"], threshold, clusters_of(table), threads=thread_count())
    uncalibrated = {"uncalibrated": {name: before[name] for name in CALIBRATION}}
    return {**found, **uncalibrated, **unsure, **strata(table, threshold)}


def _origin(scorer: CheckpointPredictor) -> dict[str, Any]:
    """What was evaluated: of an ensemble, each member's `run`, `checkpoint` and so on; of one checkpoint, its own."""
    members = [
        {
            "run": member.checkpoint.run,
            "arch": member.checkpoint.arch,
            "epoch": member.checkpoint.epoch,
            "temperature": member.checkpoint.temperature,
            "checkpoint": str(member.path),
            "checkpoint_sha256": member.sha256,
            "engine": member.engine,
        }
        for member in scorer.members
    ]
    only = {key: value for key, value in members[0].items() if key != "run"}
    return {"ensemble": members} if len(members) > 1 else {"ensemble": [], **only}


def _name(names: list[str], between: str = "-and-", longest: int = 60) -> str:
    """What these are called together."""
    joined = between.join(names)
    return joined if len(joined) <= longest else f"{names[0]}{between}{len(names) - 1}-more"


def _check(workspace: Workspace, config: EvalConfig, on_disk: bool) -> None:
    """Raise an error for data that is not there, and for options that do not fit it."""
    manifests = {path.stem for path in workspace.manifests_dir.glob("*.csv")}
    if config.data is not None and not on_disk and config.data not in manifests:
        known = ", ".join(workspace.dataset_names()) or "none"
        raise HistoError(
            f"there is no {config.data}: no such path, and no data set of that name", f"data sets: {known}"
        )
    if config.labels and not on_disk:
        raise UsageError("--labels is for a folder or zip", "packed data sets have theirs: histo download --labels")
    if on_disk and config.split not in (None, Part.ALL):
        raise UsageError(f"--split {config.split}: a folder has no splits", "leave it out, or pack it: histo download")
    if config.threshold != STORED:
        fixed(config.threshold)
