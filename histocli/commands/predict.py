"""`histo predict`: write the probability of tumour of each patch."""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import histocli
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import compute_settings
from histocli.config import Columns, ExportFormat, OnError, Output, PredictConfig, Resize
from histocli.data.decoding import DecodingProcesses
from histocli.data.inputs import STDIN, Inputs, fingerprint, open_inputs, stdin_lines
from histocli.data.remarks import Remark, Remarks
from histocli.errors import HistoError, UsageError
from histocli.fs import hold, shorten_name
from histocli.inference.checkpoints import STORED, CheckpointPredictor, load_predictor
from histocli.inference.done import Done, new_patches, read_done, write_record
from histocli.inference.failed import write_failed
from histocli.inference.parts import Parts
from histocli.inference.predictor import ScoredChunk
from histocli.inference.qc import COLUMNS, Flagger
from histocli.inference.writers import Table, Writer, open_part, open_writer
from histocli.metrics.thresholds import parse_threshold
from histocli.outputs import check_output, is_stream, output_path, real_path
from histocli.sources import Patch
from histocli.sources.files import is_image, to_utf8
from histocli.workspace import Workspace

_LEAST_MPP, _MOST_MPP = 0.05, 20


class Prediction(NamedTuple):
    """The number of patches that were scored, that could not be read, and that have each flag.

    `duplicates` is false if duplicates were asked for and the training patches are not in the workspace. `done_before`
    is the number of patches that the file held already, and `remarks` say what was changed or guessed in images.
    """

    scored: int
    unreadable: int
    flagged: dict[str, int]
    duplicates: bool
    remarks: Remarks
    done_before: int


@dataclass
class _Counts:
    """The number of scored patches, the number with each flag, and remarks on their images.

    `unreadable` has the id, the path, the message and the hint of each patch that cannot be read.
    """

    scored: int = 0
    unreadable: list[list[str]] = field(default_factory=list)
    flagged: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, Remark] = field(default_factory=Remarks)

    def add(self, other: "_Counts") -> None:
        """Add the counts of other patches."""
        self.scored += other.scored
        self.remarks = Remarks(self.remarks)
        self.remarks.merge(other.remarks)
        self.unreadable += other.unreadable
        for flag, count in other.flagged.items():
            self.flagged[flag] = self.flagged.get(flag, 0) + count


class _Job(NamedTuple):
    """The opened checkpoints and inputs of `predict`."""

    config: PredictConfig
    predictor: CheckpointPredictor
    threshold: float | None
    flagger: Flagger | None
    inputs: Inputs
    lines: list[bytes] | None  # the paths that were read from stdin
    size: int  # number of patches in a chunk
    pool: DecodingProcesses | None
    done: Done | None  # the patches that the file holds already
    on_remark: Callable[[str, str], None]

    @property
    def out(self) -> Path:
        """The regular file to write."""
        assert self.config.out is not None
        return real_path(self.config.out)

    @property
    def column_types(self) -> dict[str, type]:
        """The columns of the result and their types."""
        return _column_types(self.config)

    def score(
        self, patches: Iterable[Patch], report: Callable[[HistoError], None], on_progress: Callable[[int], None]
    ) -> Generator[ScoredChunk, None, None]:
        """Read and score patches, as `Predictor.predict_patches` does, and pass on the first remark of each kind."""
        told = set()
        with closing(self.predictor.predict_patches(patches, self.size, report, on_progress, self.pool)) as chunks:
            for chunk in chunks:
                for what, remark in chunk.remarks.items():
                    if what not in told:
                        told.add(what)
                        self.on_remark(what, remark.example)
                yield chunk

    def write(self, chunk: ScoredChunk, writer: Writer) -> _Counts:
        """Write the rows of a chunk, and return the counts of its patches."""
        failures = [[patch.id, patch.path, str(error), error.hint] for patch, error in chunk.failures]
        counts = _Counts(len(chunk.patches), failures, remarks=chunk.remarks)
        if chunk.patches:
            table = self._table(chunk)
            writer.rows(table)
            for flag in ";".join(filter(None, table.get("flags", []))).split(";"):
                if flag:
                    counts.flagged[flag] = counts.flagged.get(flag, 0) + 1
        return counts

    def _table(self, chunk: ScoredChunk) -> Table:
        """Return the rows of a chunk, by column."""
        probs = chunk.scores.probs
        table: Table = {"id": [patch.id for patch in chunk.patches]}
        if self.config.columns is Columns.FULL:
            table |= {"path": [to_utf8(patch.path) for patch in chunk.patches], "probability": probs.tolist()}
        else:
            table["label"] = probs.tolist()
        if self.threshold is not None:
            table["class"] = (probs >= self.threshold).astype(int).tolist()
        return table | (self.flagger.columns(chunk) if self.flagger else {})

    def result(self, counts: _Counts) -> Prediction:
        """Return the counts as the result of `predict`."""
        known = self.flagger is None or self.flagger.duplicates
        if self.config.failed is not None:
            write_failed(self.config.failed, [row[:3] for row in counts.unreadable])
        before = len(self.done.ids) if self.done else 0
        return Prediction(counts.scored, len(counts.unreadable), counts.flagged, known, Remarks(counts.remarks), before)


@compute_settings()
def predict(
    workspace: Workspace,
    config: PredictConfig,
    stream: IO[str],
    *,
    on_checkpoint: Callable[[str], None] = lambda description: None,
    on_note: Callable[[str], None] = lambda note: None,
    on_start: Callable[[str, int | None], None] = lambda device, total: None,
    on_progress: Callable[[int], None] = lambda done: None,
    on_unreadable: Callable[[HistoError], None] = lambda error: None,
    on_remark: Callable[[str, str], None] = lambda what, example: None,
    ranks: Ranks = SINGLE_PROCESS,
    pool: DecodingProcesses | None = None,
) -> Prediction:
    """Score all input patches in order, and write the results to the file `config.out`, else to `stream`.

    The file is written in parts. If the process is killed, the same call continues from the finished parts. The file
    gets its name when it is complete.

    Several processes (`ranks`) make the same call, and each scores its share. `on_start` and `on_progress` are called
    with the numbers of patches of this process, and `on_remark` with each kind of change or guess at its first image.
    `pool` are processes that decode, if they have been started.

    Raises:
        HistoError: an input, a checkpoint or the device cannot be used; or, with `errors` `fail`, a file cannot
            be read.
    """
    _check(workspace, config, ranks)
    job = ranks.on_all_ranks(lambda: _open(workspace, config, pool, on_remark))
    for member in job.predictor.members:
        on_checkpoint(member.checkpoint.describe())
    for note in job.inputs.left_out:
        on_note(note)

    def report(error: HistoError) -> None:
        if config.errors is OnError.FAIL:
            raise error
        on_unreadable(error)

    if _is_streamed(config):
        on_start(job.predictor.reason, job.inputs.total)
        return _write_stream(job, config.out or stream, report, on_progress)
    out = job.out
    lock = out.with_name(f".{shorten_name(out.name)}.lock")
    with ExitStack() as stack:  # only one process of the job can hold the lock
        ranks.on_rank0(lambda: stack.enter_context(hold(lock, str(config.out))))
        return _write_parts(job, _dependencies(workspace, job), ranks, on_start, report, on_unreadable, on_progress)


def _write_stream(
    job: _Job, to: Path | IO[str], report: Callable[[HistoError], None], on_progress: Callable[[int], None]
) -> Prediction:
    """Write each row as soon as it is computed."""
    counts = _Counts()
    with (
        open_writer(
            to, job.config.output_format, job.column_types, escape_formulas=job.config.escape_formulas
        ) as writer,
        closing(job.score(job.inputs.patches, report, on_progress)) as chunks,
    ):
        for chunk in chunks:
            counts.add(job.write(chunk, writer))
    return job.result(counts)


def _write_parts(
    job: _Job,
    dependencies: dict[str, Any],
    ranks: Ranks,
    on_start: Callable[[str, int | None], None],
    report: Callable[[HistoError], None],
    on_unreadable: Callable[[HistoError], None],
    on_progress: Callable[[int], None],
) -> Prediction:
    """Score this process's share of the unfinished parts; when all parts are finished, join them into the file.

    A part consists of whole chunks. The chunks, and so the scores, are the same for any number of processes.
    """
    total, size = job.inputs.total, job.size
    assert total is not None
    ranks.check_equal(dependencies, "inputs, checkpoints or devices")
    parts = Parts(job.out, dependencies, math.ceil(total / size), ranks)
    before = total - parts.unfinished_size(total, size)
    resumed = f"; {before:,} of {total:,} patches were scored before" if before else ""
    on_start(job.predictor.reason + resumed, parts.share_size(total, size))
    if ranks.size == 1:
        for number in sorted(set(range(parts.count)) - set(parts.unfinished)):
            _report_all(_Counts(**parts.read_counts(number)), on_unreadable)
    elif job.config.errors is OnError.SKIP:
        report = lambda error: None  # noqa: E731 - with several processes, errors are reported at the end, in order
    patches = parts.share(job.inputs.patches, size)
    try:
        with closing(job.score(patches, report, on_progress)) as chunks:
            for number in parts.assigned:
                _write_part(job, parts, number, islice(chunks, parts.chunks))
    except BaseException:
        if ranks.size == 1:
            parts.remove_if_empty()
        raise
    ranks.all_gather(None)  # wait until every process has finished its parts
    return ranks.on_rank0(lambda: _join(job, parts, on_unreadable if ranks.size > 1 else lambda error: None))


def _write_part(job: _Job, parts: Parts, number: int, chunks: Iterator[ScoredChunk]) -> None:
    counts = _Counts()
    with (
        parts.write(number, lambda: asdict(counts)) as path,
        open_part(
            path, job.config.output_format, job.column_types, escape_formulas=job.config.escape_formulas
        ) as writer,
    ):
        for chunk in chunks:
            counts.add(job.write(chunk, writer))


def _join(job: _Job, parts: Parts, on_unreadable: Callable[[HistoError], None]) -> Prediction:
    """Join the finished parts into the file, and remove the parts."""
    counts = _Counts()
    with (
        output_path(parts.target) as path,
        open_part(path, job.config.output_format, job.column_types) as writer,
    ):
        if job.done and job.done.ids:
            writer.append(parts.target)
        for number in range(parts.count):
            writer.append(parts.path(number))
            counts.add(_Counts(**parts.read_counts(number)))
    parts.remove()
    if job.done is not None:
        write_record(parts.target, _made_with(job.config, job.predictor))
    _report_all(counts, on_unreadable)
    return job.result(counts)


def _report_all(counts: _Counts, on_unreadable: Callable[[HistoError], None]) -> None:
    for _, _, message, hint in counts.unreadable:
        on_unreadable(HistoError(message, hint))


def _dependencies(workspace: Workspace, job: _Job) -> dict[str, Any]:
    """Return everything that the result depends on; parts are only used again if it is the same."""
    options = (
        *("split", "output_format", "tta", "uncalibrated", "threshold", "qc", "resize", "errors", "escape_formulas"),
        *("columns", "id", "mpp"),
    )
    return {
        "histo": histocli.__version__,
        "inputs": fingerprint(job.inputs, job.config.inputs, workspace, job.lines),
        "total": job.inputs.total,
        "done": job.done.digest if job.done else None,
        "size": job.size,
        "checkpoints": [member.sha256 for member in job.predictor.members],
        "compute": job.predictor.kind,
        **{name: getattr(job.config, name) for name in options},
    }


def _is_streamed(config: PredictConfig) -> bool:
    """Return whether the results go to stdout, a pipe or a device, and not to a regular file."""
    return config.out is None or is_stream(config.out)


def _check(workspace: Workspace, config: PredictConfig, ranks: Ranks) -> None:
    if ranks.size > 1 and (_is_streamed(config) or STDIN in config.inputs):
        raise UsageError(
            "several processes cannot read a list from stdin or write to stdout", "give the inputs, and --out FILE"
        )
    _mpp(config)
    if config.mpp is not None and config.resize is Resize.SCALE:
        raise UsageError("--mpp and --resize scale exclude each other", "leave out --resize: --mpp rescales the images")
    if config.failed is not None and config.errors is OnError.FAIL:
        raise UsageError("--failed lists what --errors skip leaves out", "leave out --errors fail")
    if config.failed is not None and (config.failed.is_dir() or config.failed == config.out):
        raise UsageError(f"--failed {config.failed} is a folder, or the file of --out", "name another file")
    if config.skip_done and _is_streamed(config):
        raise UsageError("--skip-done needs --out FILE, the file that holds what is done")
    if config.output_format is Output.PARQUET and config.out is None:
        raise UsageError("--format parquet cannot be streamed", "give it a file with --out")
    if config.threshold not in (None, STORED):
        parse_threshold(str(config.threshold))
    if config.escape_formulas and config.output_format is not Output.CSV:
        raise UsageError(f"--escape-formulas is for CSV, not {config.output_format}", "leave it out")
    if config.out is not None:
        check_output(config.out, workspace, [Path(name) for name in config.inputs])
        if is_image(config.out.name) and config.out.exists():
            raise UsageError(f"--out {config.out} is an image, which would be lost", "name another file")


def _open(
    workspace: Workspace,
    config: PredictConfig,
    pool: DecodingProcesses | None,
    on_remark: Callable[[str, str], None],
) -> _Job:
    predictor = load_predictor(
        workspace,
        config.ckpt,
        config.device,
        config.precision,
        config.engine,
        tta=config.tta,
        raw=config.uncalibrated,
        spread=config.qc,
        halve=config.halve,
    )
    threshold = predictor.threshold(config.threshold or STORED) if _has_class(config) else None
    flagger = Flagger(workspace, [member.checkpoint for member in predictor.members]) if config.qc else None
    lines = None
    if STDIN in config.inputs and not _is_streamed(config):  # to resume, all inputs must be known first
        lines = [line for line in stdin_lines() if line.strip(b"\r\n")]
        if config.out is not None:
            check_output(config.out, workspace, [Path(os.fsdecode(line.rstrip(b"\r\n"))) for line in lines])
    inputs = open_inputs(config.inputs, workspace, config.resize, lines, config.split, _mpp(config), config.id)
    if config.out is not None:
        check_output(config.out, workspace, _files_of(workspace, predictor))
    done = None
    if config.skip_done:
        assert config.out is not None
        made_with = _made_with(config, predictor)
        done = read_done(config.out, config.output_format, list(_column_types(config)), made_with)
        patches = new_patches(inputs.patches, done, config.out)
        inputs = inputs._replace(patches=patches, total=len(patches))
    size = predictor.chunk_size(config.batch_size)
    return _Job(config, predictor, threshold, flagger, inputs, lines, size, pool, done, on_remark)


def _files_of(workspace: Workspace, predictor: CheckpointPredictor) -> list[Path]:
    """Return the checkpoints that are in use, and the exported networks of these checkpoints."""
    members = predictor.members
    return [
        *(member.path for member in members),
        *(workspace.export_path(member.sha256, ExportFormat.ONNX) for member in members),
    ]


def _mpp(config: PredictConfig) -> float | None:
    """Return the micrometres per pixel of the images.

    Raises:
        UsageError: it is not a number between 0.05 and 20.
    """
    if config.mpp is None:
        return None
    try:
        mpp = float(config.mpp)
    except ValueError:
        mpp = 0
    if not _LEAST_MPP <= mpp <= _MOST_MPP:
        hint = f"give a number from {_LEAST_MPP} to {_MOST_MPP}, such as 0.25 for 40x or 0.5 for 20x"
        raise UsageError(f"--mpp {config.mpp}: not the micrometres per pixel of patches", hint)
    return mpp


def _has_class(config: PredictConfig) -> bool:
    return config.threshold is not None or config.columns is Columns.FULL


def _column_types(config: PredictConfig) -> dict[str, type]:
    columns: dict[str, type] = {"id": str}
    columns |= {"path": str, "probability": float} if config.columns is Columns.FULL else {"label": float}
    columns |= {"class": int} if _has_class(config) else {}
    return columns | (COLUMNS if config.qc else {})


def _made_with(config: PredictConfig, predictor: CheckpointPredictor) -> dict[str, Any]:
    """Return what the rows of a file depend on, besides the patches."""
    names = ("tta", "uncalibrated", "threshold", "resize", "mpp")
    made_with = {name: getattr(config, name) for name in names}
    return {"checkpoints": [member.sha256 for member in predictor.members]} | made_with
