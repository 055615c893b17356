"""`histo eval`: measure a checkpoint, or an ensemble of checkpoints, on labelled patches."""

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from histocli.class_names import parse_classes
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import apply_compute_settings
from histocli.config import STORED_THRESHOLD, EvalConfig
from histocli.data.manifest import hash_file
from histocli.enums import Resize, SplitName
from histocli.errors import HistoError, UsageError
from histocli.inference import checkpoints
from histocli.inference.checkpoints import CheckpointPredictor, LoadedCheckpoint, load_from_config
from histocli.inference.input_notes import suggest_input
from histocli.inference.labelled import ScoredPatches, score_packed
from histocli.inference.labelled_folder import list_folder_options, score_folder
from histocli.inference.score_table import measure_groups, measure_scores, write_scores
from histocli.labels.slide_names import compile_slide_pattern
from histocli.listeners import SILENT, CommandListener
from histocli.metrics.thresholds import parse_threshold
from histocli.pages.model_card import add_evaluations
from histocli.reports.evaluation import EvaluationReport, is_of_other_data, write_evaluation
from histocli.sources.options import parse_mpp
from histocli.trackers.evaluation import send_evaluation
from histocli.workspace import Workspace, make_name

_MAX_NAME = 60  # a name with more characters is shortened


class Evaluation(NamedTuple):
    """An evaluation, and the file that it was written to, or read from."""

    path: Path
    report: EvaluationReport


@apply_compute_settings()
def evaluate(
    workspace: Workspace,
    config: EvalConfig,
    *,
    listener: CommandListener = SILENT,
    ranks: Ranks = SINGLE_PROCESS,
) -> Evaluation:
    """Score the data, and write `metrics/<run>-<data>-<split>.json` and the scores in a CSV file with the same name.

    Options that differ from their defaults (`--tta`, `--uncalibrated`, `--prevalence`, `--threshold`, `--resize`,
    `--mpp`) are added to the name of the file; without `--data`, the splits train and all of the run's own patches are
    named own-train and own-all. If a file with this name has an evaluation of other data, a hash is added too.

    With several processes (`ranks`), each scores its share, and rank 0 computes the metrics and writes the files.

    Raises:
        HistoError: a checkpoint, the data or the device cannot be used, or no patch has a label.
    """
    is_on_disk = config.data is not None and Path(config.data).exists()
    _check_options(workspace, config, is_on_disk)
    predictor = ranks.on_all_ranks(lambda: load_from_config(workspace, config))
    threshold = ranks.on_all_ranks(lambda: predictor.find_threshold(config.threshold))
    ranks.check_equal([predictor.digests, predictor.kind], "checkpoints or devices")
    for checkpoint in predictor.checkpoints:
        listener.on_note(checkpoint.describe())
    predictor.report_device(listener)
    if is_on_disk:
        if config.data in (*workspace.list_datasets(), *workspace.list_subsets()):
            listener.on_warning(
                f"--data {config.data} means the path {Path(config.data or '').absolute()}; the workspace also has a "
                "data set or subset of this name: to evaluate that, run the command in another folder"
            )
        scored = score_folder(workspace, predictor, config, listener, ranks)
    else:
        scored = score_packed(workspace, predictor, config, listener, ranks)
    return ranks.on_rank0(lambda: _measure_and_write(workspace, config, predictor, scored, threshold, listener))


def _measure_and_write(
    workspace: Workspace,
    config: EvalConfig,
    predictor: CheckpointPredictor,
    scored: ScoredPatches,
    threshold: float,
    listener: CommandListener,
) -> Evaluation:
    """Compute the metrics of the scores, write both, and send the metrics of a run to its trackers."""
    is_best = [_is_best(workspace, member) for member in predictor.members]
    folder = None if scored.packed else str(Path(config.data or "").resolve())
    path = _choose_path(workspace, config, predictor, scored, folder, all(is_best))
    report = _make_report(config, predictor, scored, threshold, folder, path.with_suffix(".csv").name)
    write_scores(path.with_suffix(".csv"), scored.table.drop(columns="raw"))
    write_evaluation(path, report)
    if is_best == [True]:
        add_evaluations(workspace, predictor.runs[0], predictor.digests[0])
        send_evaluation(workspace, report, path.stem.removeprefix(f"{report.run}-"), listener)
    return Evaluation(path, report)


def _make_report(
    config: EvalConfig,
    predictor: CheckpointPredictor,
    scored: ScoredPatches,
    threshold: float,
    folder: str | None,
    scores_file: str,
) -> EvaluationReport:
    """Return the evaluation of the scores, which are written to `scores_file`."""
    measured, before, intervals = measure_scores(scored.table, threshold)
    return EvaluationReport(
        run=_join_names(predictor.runs),
        data=scored.data,
        split=scored.split,
        splits=scored.splits,
        folder=folder,
        checkpoints=tuple(member.to_report() for member in predictor.members),
        manifest_sha256=scored.manifest_sha256,
        tta=config.tta,
        is_calibrated=not config.uncalibrated,
        assumed_prevalence=config.prevalence,
        skipped=scored.skipped,
        changed=scored.changed,
        packed=scored.packed,
        is_own=_is_train_or_all_of_own_subset(config, scored),
        data_source=scored.data_source,
        n_in_training=scored.run_patches.n_in_training,
        n_in_validation=scored.run_patches.n_in_validation,
        n_of_training_slides=scored.run_patches.n_of_training_slides,
        n_of_validation_slides=scored.run_patches.n_of_validation_slides,
        n_unknown_checkpoints=scored.run_patches.n_unknown,
        calibration_mismatch=config.tta or len(predictor.members) > 1,
        scores=scores_file,
        likeness=scored.likeness,
        resize=config.resize.value,
        mpp=parse_mpp(config.mpp, config.resize),
        threshold_rule=config.threshold,
        measured=measured,
        before_calibration=before,
        uncertainty=intervals,
        slides=measure_groups("slide", scored.table, threshold),
        hospitals=measure_groups("hospital", scored.table, threshold),
    )


def _choose_path(
    workspace: Workspace,
    config: EvalConfig,
    predictor: CheckpointPredictor,
    scored: ScoredPatches,
    folder: str | None,
    is_best: bool,
) -> Path:
    """Return the path of an evaluation; its name has the checkpoints, the data, and changed options.

    A hash is added to the name if there is a file of this name with an evaluation of other data, such as another
    folder.
    """
    unusual = {
        "tta": config.tta,
        "uncalibrated": config.uncalibrated,
        f"prevalence-{config.prevalence}": config.prevalence is not None,
        format_threshold(config.threshold): config.threshold != STORED_THRESHOLD,
        config.resize.value: config.resize is not Resize.CROP,
        f"mpp-{config.mpp}": config.mpp is not None,
    }
    name = run = _join_names(predictor.runs)
    if not is_best or name.endswith("-more"):
        name += "-" + sha256("".join(predictor.digests).encode()).hexdigest()[:8]
    split = f"own-{scored.split}" if _is_train_or_all_of_own_subset(config, scored) else scored.split
    parts = [name, scored.data, split, *(option for option, is_set in unusual.items() if is_set)]
    path = workspace.metrics_dir / f"{make_name('-'.join(parts))}.json"
    origin = {"run": run, "data": scored.data, "split": scored.split, "folder": folder}
    other = path.with_name(f"{path.stem}-{sha256(repr(origin).encode()).hexdigest()[:8]}.json")
    return other if is_of_other_data(path, origin) else path


def _is_train_or_all_of_own_subset(config: EvalConfig, scored: ScoredPatches) -> bool:
    """Return whether the patches are the split train, or all patches, of the subset that the run was trained on.

    The whole data set can be evaluated with the same names of splits, so "own" is added to the name of the file.
    """
    return config.data is None and scored.split != SplitName.VAL


def format_threshold(threshold: str) -> str:
    """Return the threshold as text for a file name; 0.5 and 0.50 give the same text."""
    value = None if threshold == STORED_THRESHOLD else parse_threshold(threshold)
    return f"at-{threshold.replace('=', '-') if value is None else repr(value)}"


def _is_best(workspace: Workspace, member: LoadedCheckpoint) -> bool:
    """Return whether a checkpoint is the `best.pt` of its run, or a copy of it."""
    best = workspace.run_dir(member.checkpoint.run) / "best.pt"
    return best.is_file() and (member.path.samefile(best) or hash_file(best) == member.sha256)


def _join_names(names: list[str]) -> str:
    """Join names with `-and-`; if the result is long, return the first name and the number of the others."""
    joined = "-and-".join(names)
    is_short = len(names) == 1 or len(joined) <= _MAX_NAME
    return joined if is_short else f"{names[0]}-and-{len(names) - 1}-more"


def _check_options(workspace: Workspace, config: EvalConfig, is_on_disk: bool) -> None:
    """Check the values of options, then that the data exists and that the options are possible with it.

    Raises:
        HistoError: the data does not exist.
        UsageError: a value cannot be used, or an option is not possible with this data.
    """
    checkpoints.check_scoring_options(config)
    parse_mpp(config.mpp, config.resize)
    parse_classes(config.classes)
    compile_slide_pattern(config.slide_pattern, has_table=bool(config.slides or config.slide_column))
    manifests = {path.stem for path in workspace.manifests_dir.glob("*.csv")}
    if config.data is not None and not is_on_disk and config.data not in manifests:
        hint = suggest_input(config.data, sorted(manifests), workspace)
        raise HistoError(f"there is no file, folder or data set {config.data!r}", hint)
    for name in list_folder_options():
        # --resize always has a value.
        if name != "resize" and getattr(config, name) and not is_on_disk:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for a folder or archive", f"for a packed data set: histo download {flag}")
