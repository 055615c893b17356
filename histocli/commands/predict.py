"""`histo predict`: write the probability of tumour of each patch."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO

import histocli
from histocli.commands.predict_job import (
    Counts,
    Job,
    Prediction,
    check_done,
    check_predict_options,
    describe_rows,
    is_streamed,
    open_job,
)
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import apply_compute_settings
from histocli.config import PredictConfig
from histocli.errors import HistoError
from histocli.files.outputs import write_output
from histocli.fs import shorten_name
from histocli.images.processes import DecodingProcesses
from histocli.inference.done import write_record
from histocli.inference.inputs import hash_inputs
from histocli.inference.parts import Parts
from histocli.inference.predictor import ScoredChunk
from histocli.inference.writers import open_part, open_writer
from histocli.listeners import SILENT, CommandListener
from histocli.locks import hold
from histocli.schema import to_json
from histocli.signals import Stopped
from histocli.text import format_count
from histocli.workspace import Workspace


@apply_compute_settings()
def predict(
    workspace: Workspace,
    config: PredictConfig,
    stream: IO[str],
    *,
    listener: CommandListener = SILENT,
    ranks: Ranks = SINGLE_PROCESS,
    pool: DecodingProcesses | None = None,
) -> Prediction:
    """Score all input patches in order, and write the results to the file `config.out`, else to `stream`.

    The file is written in parts. If the process is killed, the same call continues from the finished parts. The file
    gets its name when it is complete.

    Several processes (`ranks`) make the same call, and each scores its share; its listener receives the numbers of
    patches of this process. `pool` are processes that decode, if they have been started.

    Raises:
        HistoError: an input, a checkpoint or the device cannot be used; or, with `errors` `fail`, a file cannot
            be read.
    """
    check_predict_options(workspace, config, ranks)
    job = ranks.on_all_ranks(lambda: open_job(workspace, config, pool, listener))
    for checkpoint in job.predictor.checkpoints:
        listener.on_note(checkpoint.describe())
    for note in job.inputs.notes:
        listener.on_note(note)

    if is_streamed(config):
        listener.on_note(job.predictor.reason)
        listener.on_total(job.inputs.total)
        return _write_stream(job, config.out or stream)
    out = job.out
    lock = out.with_name(f".{shorten_name(out.name)}.lock")
    with ExitStack() as stack:  # only one process of the job can hold the lock
        ranks.on_rank0(lambda: stack.enter_context(hold(lock, str(config.out))))
        ranks.on_rank0(lambda: check_done(job))  # another job may have written it before this one held the lock
        return _write_parts(job, _compute_fingerprint(workspace, job), ranks)


def _write_stream(job: Job, to: Path | IO[str]) -> Prediction:
    """Write each row as soon as it is computed."""
    counts = Counts()
    with (
        open_writer(
            to, job.config.output_format, job.column_types, escape_formulas=job.config.escape_formulas
        ) as writer,
        closing(job.score(job.inputs.patches)) as chunks,
    ):
        for chunk in chunks:
            counts.add(job.write(chunk, writer))
    return job.finish(counts)


def _write_parts(job: Job, fingerprint: str, ranks: Ranks) -> Prediction:
    """Score this process's share of the unfinished parts; when all parts are finished, join them into the file.

    A part consists of whole chunks. The chunks, and so the scores, are the same for any number of processes.
    """
    total, size = job.inputs.total, job.chunk_size
    assert total is not None
    ranks.check_equal(fingerprint, "inputs, checkpoints or devices")
    parts = Parts(job.out, fingerprint, math.ceil(total / size), ranks)
    before = total - parts.count_unfinished(total, size)
    were = "was" if before == 1 else "were"
    resumed = f"; {before:,} of {format_count(total, 'patch')} {were} scored before" if before else ""
    job.listener.on_note(job.predictor.reason + resumed)
    job.listener.on_total(parts.count_share(total, size))
    if ranks.size == 1:
        for number in sorted(set(range(parts.count)) - set(parts.unfinished)):
            _report_unreadable(parts.read_counts(number, Counts), job.listener)
    patches = parts.select_share(job.inputs.patches, size)
    try:
        with closing(job.score(patches, is_reporting=ranks.size == 1)) as chunks:
            for number in parts.assigned:
                _write_part(job, parts, number, islice(chunks, parts.chunks_per_part))
    except BaseException as error:
        if ranks.size == 1:
            parts.remove_if_empty()
        if isinstance(error, Stopped) and parts.folder.is_dir():
            raise Stopped(error.number, "run the same command again: it continues with the next patches") from error
        raise
    ranks.all_gather(None)  # wait until every process has finished its parts
    # Several processes report unreadable patches here, in the order of the inputs; a single process did it before.
    return ranks.on_rank0(lambda: _join_parts(job, parts, job.listener if ranks.size > 1 else SILENT))


def _write_part(job: Job, parts: Parts, number: int, chunks: Iterator[ScoredChunk]) -> None:
    """Score and write the chunks of one part."""
    counts = Counts()
    with (
        parts.write_part(number, lambda: to_json(counts)) as path,
        open_part(
            path, job.config.output_format, job.column_types, escape_formulas=job.config.escape_formulas
        ) as writer,
    ):
        for chunk in chunks:
            counts.add(job.write(chunk, writer))


def _join_parts(job: Job, parts: Parts, listener: CommandListener) -> Prediction:
    """Join the finished parts into the file, and remove the parts."""
    counts = Counts()
    with (
        write_output(parts.target) as path,
        open_part(path, job.config.output_format, job.column_types) as writer,
    ):
        if job.done and job.done.ids:
            writer.append(parts.target)
        for number in range(parts.count):
            writer.append(parts.part_path(number))
            counts.add(parts.read_counts(number, Counts))
    parts.remove()
    if job.done is None or job.done.is_recorded:  # else it is not known what the earlier rows were made with
        made_with = describe_rows(job.config, job.predictor)
        id_kind, folder, white = job.inputs.id_kind, job.inputs.folder, dict(job.inputs.white)
        if job.done:
            id_kind = id_kind or job.done.id_kind
            folder = job.done.find_common_folder(folder) if job.inputs.total else job.done.folder
            white = {**job.done.white, **white}
        made_with = replace(made_with, id=id_kind, folder=folder, white=white)
        write_record(parts.target, made_with)  # for a later call with --skip-done
    _report_unreadable(counts, listener)
    return job.finish(counts)


def _report_unreadable(counts: Counts, listener: CommandListener) -> None:
    for _, _, message, hint in counts.unreadable:
        listener.on_unreadable(HistoError(message, hint))


def _compute_fingerprint(workspace: Workspace, job: Job) -> str:
    """Return a SHA-256 of everything that the result depends on; parts are only used again if it is the same."""
    options = (
        *("split", "output_format", "tta", "uncalibrated", "threshold", "qc", "resize", "errors", "escape_formulas"),
        *("prevalence", "columns", "mpp"),
    )
    values = {
        "histo": histocli.__version__,
        "inputs": hash_inputs(job.inputs, job.config.inputs, workspace, job.lines, job.config.split),
        "total": job.inputs.total,
        "done": job.done.digest if job.done else None,
        "id": job.inputs.id_kind,
        "white": dict(job.inputs.white),
        "size": job.chunk_size,
        "checkpoints": job.predictor.digests,
        "compute": job.predictor.kind,
        **{name: getattr(job.config, name) for name in options},
    }
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
