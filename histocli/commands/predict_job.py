"""The job of one call of `histo predict`: its options, networks, inputs and results."""

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from histocli.compute.ddp import Ranks
from histocli.config import STORED_THRESHOLD, PredictConfig
from histocli.data.likeness import LikenessMeter
from histocli.enums import ExportFormat, OnError, Output
from histocli.errors import HistoError, UsageError
from histocli.files.outputs import check_output, is_stream, resolve_link
from histocli.fs import is_same_file
from histocli.images.processes import DecodingProcesses
from histocli.images.remarks import Remark, Remarks
from histocli.inference import checkpoints
from histocli.inference.checkpoints import CheckpointPredictor, load_from_config
from histocli.inference.columns import ScoredRows, has_class, list_column_types, make_table
from histocli.inference.inputs import STDIN, Inputs, open_inputs
from histocli.inference.new_patches import select_new_patches
from histocli.inference.path_list import MAX_LISTED, read_stdin_lines
from histocli.inference.predicted_ids import PredictedIds, RowOptions, check_white, normalise_option, read_predicted_ids
from histocli.inference.predictor import ScoredChunk
from histocli.inference.qc import Flagger
from histocli.inference.writers import Writer, check_format, write_failed
from histocli.listeners import CommandListener
from histocli.patch import Patch
from histocli.reports.likeness import Likeness
from histocli.schema import Count
from histocli.sources.options import parse_mpp
from histocli.workspace import Workspace


@dataclass
class Counts:
    """The number of scored patches, and the number with each flag.

    `unreadable` has the id, the path, the message and the hint of each patch that cannot be read. `remarks` counts the
    changes and guesses in images. `likeness` compares the patches with the training patches.
    """

    scored: Count = 0
    unreadable: list[list[str]] = field(default_factory=list)
    flagged: dict[str, Count] = field(default_factory=dict)
    remarks: dict[str, Remark] = field(default_factory=Remarks)
    likeness: Likeness = field(default_factory=Likeness)

    def add(self, other: "Counts") -> None:
        """Add the counts of other patches."""
        self.scored += other.scored
        self.remarks = Remarks(self.remarks)
        self.remarks.merge(other.remarks)
        self.unreadable += other.unreadable
        self.likeness += other.likeness
        for flag, count in other.flagged.items():
            self.flagged[flag] = self.flagged.get(flag, 0) + count


class Prediction(NamedTuple):
    """The result of `predict`: the counts of all patches of this call.

    `can_find_duplicates` is false if `--qc` needs the training patches and they are not in the workspace. `done_before`
    is the number of patches that the file contained before, and `inputs_done` is how many of the inputs it contained
    already.
    """

    counts: Counts
    can_find_duplicates: bool
    done_before: int
    inputs_done: int


class Job(NamedTuple):
    """The opened checkpoints and inputs of `predict`."""

    config: PredictConfig
    predictor: CheckpointPredictor
    threshold: float | None
    flagger: Flagger | None
    inputs: Inputs
    chunk_size: int
    pool: DecodingProcesses | None
    predicted: PredictedIds | None  # the patches that the file has already
    inputs_done: int  # the number of inputs that the file has already
    listener: CommandListener
    likeness_meter: LikenessMeter
    ranks: Ranks

    @property
    def out(self) -> Path:
        """The regular file to write."""
        assert self.config.out is not None
        return resolve_link(self.config.out)

    def score(self, patches: Iterable[Patch]) -> Generator[ScoredChunk, None, None]:
        """Read and score patches as `BatchPredictor.predict_patches` does."""
        return self.predictor.predict_patches(patches, self.chunk_size, self.listener, self.pool)

    def write(self, chunk: ScoredChunk, writer: Writer) -> Counts:
        """Write the rows of a chunk, report its unreadable patches, and return the counts.

        Raises:
            HistoError: a patch cannot be read, and `errors` is `fail`; or the rows cannot be written.
        """
        for _, error in chunk.failures:
            if self.config.errors is OnError.FAIL:
                raise error
            if self.ranks.size == 1:  # process 0 of several reports them at the end, in the order of the inputs
                self.listener.on_unreadable(error)
        failures = [[patch.id, patch.path, str(error), error.hint] for patch, error in chunk.failures]
        likeness = self.likeness_meter.measure(chunk.pixels)
        counts = Counts(len(chunk.patches), failures, remarks=chunk.remarks, likeness=likeness)
        if chunk.patches:
            table = make_table(self.config, ScoredRows(chunk, self.threshold, self.flagger))
            writer.write_rows(table)
            for flag in ";".join(filter(None, table.get("flags", []))).split(";"):
                if flag:
                    counts.flagged[flag] = counts.flagged.get(flag, 0) + 1
        return counts

    def finish(self, counts: Counts) -> Prediction:
        """Write the file of `--failed`, and return the result of `predict`."""
        can_find_duplicates = self.flagger is None or self.flagger.has_training_pixels
        if self.config.failed is not None:
            write_failed(self.config.failed, [row[:3] for row in counts.unreadable])
        done_before = len(self.predicted.ids) if self.predicted else 0
        return Prediction(counts, can_find_duplicates, done_before, self.inputs_done)


def is_streamed(config: PredictConfig) -> bool:
    """Return whether the results go to stdout, a pipe or a device, and not to a regular file."""
    return config.out is None or is_stream(config.out)


def check_predict_options(workspace: Workspace, config: PredictConfig, ranks: Ranks) -> None:
    """Check the options before anything is read.

    Raises:
        UsageError: they cannot be combined, or `config.out` cannot be written.
    """
    if ranks.size > 1 and (is_streamed(config) or STDIN in config.inputs):
        raise UsageError(
            "several processes cannot read a list from stdin or write to stdout", "give the inputs, and --out FILE"
        )
    checkpoints.check_scoring_options(config)
    parse_mpp(config.mpp, config.resize)
    if config.failed is not None and config.errors is OnError.FAIL:
        raise UsageError("--failed lists unreadable files, and --errors fail allows none", "leave out --errors fail")
    if config.failed is not None and config.out is not None and not is_stream(config.failed):
        # They need not exist yet.
        is_same_path = os.path.realpath(config.failed) == os.path.realpath(config.out)
        if is_same_path or is_same_file(config.failed, config.out):
            raise UsageError(f"--failed {config.failed} is the file of --out", "name another file")
    if config.skip_done and is_streamed(config):
        raise UsageError("--skip-done needs --out FILE, the file with the patches that are done")
    check_format(config.output_format, config.out)
    if config.escape_formulas and config.output_format is not Output.CSV:
        raise UsageError(f"--escape-formulas is for CSV, not {config.output_format}", "leave it out")
    _check_outputs(config, workspace, [Path(name) for name in config.inputs])


def _check_outputs(config: PredictConfig, workspace: Workspace, inputs: Sequence[Path]) -> None:
    """Check that the files of `--out` and `--failed` may be written, and are none of `inputs`."""
    for path, option in ((config.out, "--out"), (config.failed, "--failed")):
        if path is not None:
            check_output(path, workspace, inputs, option)


def open_job(
    workspace: Workspace,
    config: PredictConfig,
    pool: DecodingProcesses | None,
    listener: CommandListener,
    ranks: Ranks,
) -> Job:
    """Load the networks, and open the inputs.

    Raises:
        HistoError: an input, a checkpoint or the device cannot be used, or a file with results does not fit.
    """
    predictor = load_from_config(workspace, config)
    threshold = predictor.find_threshold(config.threshold or STORED_THRESHOLD) if has_class(config) else None
    flagger = Flagger(workspace, predictor.checkpoints) if config.qc else None
    lines = None
    if STDIN in config.inputs and not is_streamed(config):  # to resume, all inputs must be known first
        lines = [line for line in read_stdin_lines(MAX_LISTED) if line.strip(b"\r\n")]
        _check_outputs(config, workspace, [Path(os.fsdecode(line.rstrip(b"\r\n"))) for line in lines])
    networks = [workspace.export_path(digest, ExportFormat.ONNX) for digest in predictor.digests]
    _check_outputs(config, workspace, [*(member.path for member in predictor.members), *networks])
    predicted, inputs_done = _read_predicted_ids(config, predictor) if config.skip_done else None, 0
    inputs = open_inputs(
        config.inputs,
        workspace,
        config.resize,
        lines,
        config.split,
        parse_mpp(config.mpp, config.resize),
        config.id or (predicted and predicted.id_kind),
        may_be_empty=config.skip_done,
    )
    if predicted is not None:
        assert config.out is not None
        if not predicted.is_recorded:
            listener.on_warning(
                f"--skip-done: it is not known which checkpoint and options {config.out} was made with; its rows are "
                "kept, and new rows are added"
            )
        check_white(inputs.white, predicted, config.out)
        patches = list(inputs.patches)
        new = select_new_patches(patches, predicted, config.out, inputs.places)
        inputs, inputs_done = inputs._replace(patches=new, total=len(new)), len(patches) - len(new)
    size = predictor.choose_chunk_size(config.batch_size)
    meter = predictor.make_likeness_meter(inputs.total)
    return Job(
        config, predictor, threshold, flagger, inputs, size, pool, predicted, inputs_done, listener, meter, ranks
    )


def check_output_unchanged(job: Job) -> None:
    """Raise `HistoError` if the file has other ids, or another record, than when `--skip-done` read it."""
    if job.predicted is not None and _read_predicted_ids(job.config, job.predictor) != job.predicted:
        raise HistoError(f"{job.config.out} was changed by another process", "run the command again")


def _read_predicted_ids(config: PredictConfig, predictor: CheckpointPredictor) -> PredictedIds:
    """Return the ids in the file to write; raise `HistoError` if it does not fit the options."""
    assert config.out is not None
    columns = list(list_column_types(config))
    return read_predicted_ids(resolve_link(config.out), config.output_format, columns, describe_rows(config, predictor))


def describe_rows(config: PredictConfig, predictor: CheckpointPredictor) -> RowOptions:
    """Return what the rows of a file depend on, besides the patches."""
    return RowOptions(
        checkpoints=predictor.digests,
        tta=config.tta,
        uncalibrated=config.uncalibrated,
        prevalence=config.prevalence,
        threshold=normalise_option(config.threshold),
        resize=config.resize,
        mpp=normalise_option(config.mpp),
        escape_formulas=config.escape_formulas,
        id=config.id,
    )
