"""`histo predict`: a tumour probability for every patch, written as it is computed."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import IO, Any, NamedTuple

import histocli
from histocli.compute.device import compute_settings
from histocli.compute.world import ALONE, World
from histocli.config import OnError, Output, PredictConfig
from histocli.data.inputs import STDIN, Inputs, fingerprint, open_inputs
from histocli.errors import HistoError, UsageError
from histocli.inference.parts import Parts
from histocli.inference.predictor import STORED, ScoredChunk, Scorer
from histocli.inference.qc import COLUMNS, Flagger
from histocli.inference.writers import Table, Writer, written
from histocli.metrics.thresholds import fixed
from histocli.workspace import Workspace


class Prediction(NamedTuple):
    """How many patches were scored, how many could not be read, and how many bear each flag.

    `duplicates` is whether it was known which patches were trained on, where flags were asked for.
    """

    scored: int
    unreadable: int
    flagged: dict[str, int]
    duplicates: bool


class _Task(NamedTuple):
    """Everything opened, and ready to score."""

    scorer: Scorer
    threshold: float | None
    flagger: Flagger | None
    inputs: Inputs
    size: int  # of the chunks that are scored at a time

    @property
    def kinds(self) -> dict[str, type]:
        """The columns of the result."""
        columns = {"id": str, "label": float} | ({} if self.threshold is None else {"class": int})
        return columns | (COLUMNS if self.flagger else {})


@dataclass
class _Tally:
    """What was met on the way; `unreadable` are the errors as text."""

    scored: int = 0
    unreadable: list[str] = field(default_factory=list)
    flagged: dict[str, int] = field(default_factory=dict)

    def add(self, other: "_Tally") -> None:
        """Count what another has met, too."""
        self.scored += other.scored
        self.unreadable += other.unreadable
        for flag, count in other.flagged.items():
            self.flagged[flag] = self.flagged.get(flag, 0) + count

    def prediction(self, task: _Task) -> Prediction:
        """The result of it all."""
        known = task.flagger is None or task.flagger.duplicates
        return Prediction(self.scored, len(self.unreadable), self.flagged, known)


@compute_settings()
def predict(
    workspace: Workspace,
    config: PredictConfig,
    stream: IO[str],
    *,
    on_checkpoint: Callable[[str], None] = lambda description: None,
    on_start: Callable[[str, int | None], None] = lambda device, total: None,
    on_progress: Callable[[int], None] = lambda done: None,
    on_unreadable: Callable[[HistoError], None] = lambda error: None,
    world: World = ALONE,
) -> Prediction:
    """Score every input patch in order, to `config.out` (whole or not at all) or to `stream` as it goes.

    Several processes (`world`) make the same call; `on_start` and `on_progress` are told of what is this one's to do.

    Raises:
        HistoError: an input, a checkpoint or the device cannot be used; or, with `errors` `fail`, a file cannot
            be read.
    """
    _check(config, world)
    task = world.each(lambda: _open(workspace, config))
    for member in task.scorer.members:
        on_checkpoint(member.checkpoint.describe())

    def refuse(error: HistoError) -> None:
        if config.errors is OnError.FAIL:
            raise error
        on_unreadable(error)

    if world.size > 1:
        return _predict_parts(workspace, config, task, world, on_start, on_progress, refuse)
    on_start(task.scorer.reason, task.inputs.total)
    tally = _Tally()
    with (
        written(config.out or stream, config.format, task.kinds) as writer,
        closing(task.scorer.chunks(task.inputs.patches, task.size, refuse, on_progress)) as chunks,
    ):
        for chunk in chunks:
            tally.add(_write(chunk, task, writer))
    return tally.prediction(task)


def _predict_parts(
    workspace: Workspace,
    config: PredictConfig,
    task: _Task,
    world: World,
    on_start: Callable[[str, int | None], None],
    on_progress: Callable[[int], None],
    on_unreadable: Callable[[HistoError], None],
) -> Prediction:
    """Score this process's parts of the inputs; once all are there, the leading process puts them together.

    Each part is made from whole batches of those that one process would score, so that the result is the same.
    """
    assert config.out is not None
    assert task.inputs.total is not None
    total, size = task.inputs.total, task.size
    made_of = world.each(lambda: _made_of(workspace, config, task))
    world.agree(made_of, "inputs, checkpoints or devices")
    parts = Parts(config.out, made_of, math.ceil(total / size), world)
    on_start(task.scorer.reason, parts.size(total, size))
    refuse = on_unreadable if config.errors is OnError.FAIL else lambda error: None  # else they are told in order
    with closing(task.scorer.chunks(parts.share(task.inputs.patches, size), size, refuse, on_progress)) as chunks:
        for index, group in groupby(enumerate(chunks), lambda pair: pair[0] // parts.chunks):
            tally = _Tally()
            with written(parts.path(parts.own[index]), config.format, task.kinds) as writer:
                for _, chunk in group:
                    tally.add(_write(chunk, task, writer))
            parts.finish(parts.own[index], asdict(tally))
    world.gather(None)
    return world.lead(lambda: _merge(config, task, parts, on_unreadable))


def _merge(config: PredictConfig, task: _Task, parts: Parts, on_unreadable: Callable[[HistoError], None]) -> Prediction:
    """Put the finished parts together, and remove them."""
    assert config.out is not None
    whole = _Tally()
    with written(config.out, config.format, task.kinds) as writer:
        for number, facts in enumerate(parts.facts()):
            writer.append(parts.path(number))
            whole.add(_Tally(**facts))
    parts.remove()
    for text in whole.unreadable:
        on_unreadable(HistoError(text))
    return whole.prediction(task)


def _made_of(workspace: Workspace, config: PredictConfig, task: _Task) -> dict[str, Any]:
    """All that decides what the result holds."""
    options = ("format", "tta", "uncalibrated", "threshold", "qc", "resize", "errors")
    return {
        "histo": histocli.__version__,
        "inputs": fingerprint(config.inputs, workspace),
        "total": task.inputs.total,
        "size": task.size,
        "checkpoints": [member.sha256 for member in task.scorer.members],
        "compute": task.scorer.kind,
        **{name: getattr(config, name) for name in options},
    }


def _check(config: PredictConfig, world: World) -> None:
    if world.size > 1 and (config.out is None or STDIN in config.inputs):
        raise UsageError("several processes need inputs to share and a file to write", "name both: --out FILE")
    if config.format is Output.PARQUET and config.out is None:
        raise UsageError("--format parquet cannot be streamed", "give it a file with --out")
    if config.threshold not in (None, STORED):
        fixed(str(config.threshold))
    if config.out is not None and config.out.is_dir():
        raise UsageError(f"--out {config.out} is a folder", "name the file to write")


def _open(workspace: Workspace, config: PredictConfig) -> _Task:
    scorer = Scorer(
        workspace,
        config.ckpt,
        config.device,
        config.precision,
        tta=config.tta,
        raw=config.uncalibrated,
        spread=config.qc,
        halve=config.halve,
    )
    threshold = None if config.threshold is None else scorer.threshold(config.threshold)
    flagger = Flagger(workspace, [member.checkpoint for member in scorer.members]) if config.qc else None
    inputs = open_inputs(config.inputs, workspace, config.resize)
    return _Task(scorer, threshold, flagger, inputs, scorer.at_once(config.batch_size))


def _write(chunk: ScoredChunk, task: _Task, writer: Writer) -> _Tally:
    tally = _Tally(len(chunk.patches), [str(error) for error in chunk.failures])
    if chunk.patches:
        table = _table(chunk, task.threshold, task.flagger)
        writer.rows(table)
        for flag in ";".join(filter(None, table.get("flags", []))).split(";"):
            if flag:
                tally.flagged[flag] = tally.flagged.get(flag, 0) + 1
    return tally


def _table(chunk: ScoredChunk, threshold: float | None, flagger: Flagger | None) -> Table:
    """The rows of a chunk, by column."""
    probs = chunk.scores.probs
    table: Table = {"id": [patch.id for patch in chunk.patches], "label": probs.tolist()}
    if threshold is not None:
        table["class"] = (probs >= threshold).astype(int).tolist()
    return table | (flagger.columns(chunk) if flagger else {})
