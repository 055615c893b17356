"""`histo predict`: write the probability of tumour of each patch."""

import json
from collections.abc import Iterable
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
    check_output_unchanged,
    check_predict_options,
    describe_rows,
    is_streamed,
    open_job,
)
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import apply_compute_settings
from histocli.config import PredictConfig
from histocli.errors import HistoError
from histocli.files.outputs import find_record_path, write_output
from histocli.fs import fsync, shorten_name
from histocli.images.processes import DecodingProcesses
from histocli.inference.input_notes import describe_unopened
from histocli.inference.parts import Parts
from histocli.inference.predicted_ids import write_record
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
    gets its name when it is complete. With `config.skip_done`, a signal adds the finished parts to the file.

    Several processes (`ranks`) make the same call, and each scores its share; its listener receives the numbers of
    patches of this process. `pool` are processes that decode, if they have been started.

    Raises:
        HistoError: an input, a checkpoint or the device cannot be used; or, with `errors` `fail`, a file cannot
            be read.
    """
    check_predict_options(workspace, config, ranks)
    job = ranks.on_all_ranks(lambda: open_job(workspace, config, pool, listener, ranks))
    for checkpoint in job.predictor.checkpoints:
        listener.on_note(checkpoint.describe())
    for note in job.inputs.notes:
        listener.on_note(note)
    for note in describe_unopened(config.inputs, job.inputs.other_files):
        listener.on_note(note)

    if is_streamed(config):
        job.predictor.report_device(listener)
        listener.on_total(job.inputs.total)
        return _write_stream(job, config.out or stream)
    out = job.out
    lock = out.with_name(f".{shorten_name(out.name)}.lock")
    with ExitStack() as stack:  # only one process of the job can hold the lock
        ranks.on_rank0(lambda: stack.enter_context(hold(lock, str(config.out))))
        # Another job may have written the file before this one held the lock.
        ranks.on_rank0(lambda: check_output_unchanged(job))
        return _write_parts(job, _compute_fingerprint(job))


def _write_stream(job: Job, to: Path | IO[str]) -> Prediction:
    """Write each row as soon as it is computed."""
    counts = Counts()
    with open_writer(to, job.config) as writer, closing(job.score(job.inputs.patches)) as chunks:
        for chunk in chunks:
            counts.add(job.write(chunk, writer))
    return job.finish(counts)


def _write_parts(job: Job, fingerprint: str) -> Prediction:
    """Score this process's share of the unfinished parts; when all parts are finished, join them into the file.

    A part consists of whole chunks. The chunks, and so the scores, are the same for any number of processes.
    """
    total, ranks = job.inputs.total, job.ranks
    assert total is not None
    ranks.check_equal(fingerprint, "inputs, checkpoints or devices")
    parts = Parts(job.out, fingerprint, total, job.chunk_size, ranks)
    before = total - parts.count_patches(parts.unfinished)
    were = "was" if before == 1 else "were"
    resumed = f"; {before:,} of {format_count(total, 'patch')} {were} scored before" if before else ""
    job.predictor.report_device(job.listener, resumed)
    job.listener.on_total(parts.count_patches(parts.assigned))
    if ranks.size == 1:
        for number in sorted(set(range(parts.count)) - set(parts.unfinished)):
            _report_unreadable(parts.read_counts(number, Counts), job.listener)
    patches = parts.select_share(job.inputs.patches)
    try:
        with closing(job.score(patches)) as chunks:
            for number in parts.assigned:
                counts = Counts()
                with parts.write_part(number, counts) as path, open_part(path, job.config) as writer:
                    for chunk in islice(chunks, parts.chunks_per_part):
                        counts.add(job.write(chunk, writer))
    except BaseException as error:
        if ranks.size == 1:
            parts.remove_if_empty()
        if isinstance(error, Stopped) and parts.folder.is_dir():
            if job.predicted is not None and ranks.size == 1:
                # If files are added to the folder before the next call, it removes these parts.
                _join_parts(job, parts, parts.list_finished())
            raise Stopped(error.number, "run the same command again: it continues with the next patches") from error
        raise
    ranks.all_gather(None)  # wait until every process has finished its parts
    return ranks.on_rank0(lambda: _finish(job, parts))


def _finish(job: Job, parts: Parts) -> Prediction:
    """Join all parts into the file, and return the result of `predict`."""
    counts = _join_parts(job, parts, range(parts.count))
    if job.ranks.size > 1:  # in the order of the inputs; a single process reported them before
        _report_unreadable(counts, job.listener)
    return job.finish(counts)


def _join_parts(job: Job, parts: Parts, numbers: Iterable[int]) -> Counts:
    """Join finished parts into the file, and remove all parts; return the counts of the patches in the joined parts.

    The process may end at any moment. New rows are never left beside the record of the rows that they replace. Rows
    that are added get their record first: the next call with `--skip-done` would keep them without one. If the disk is
    full, the earlier rows keep their record.
    """
    counts, record_path = Counts(), find_record_path(parts.target)
    with write_output(parts.target) as path:
        with open_part(path, job.config) as writer:
            if job.predicted and job.predicted.ids:
                writer.append(parts.target)
            for number in numbers:
                writer.append(parts.part_path(number))
                counts.add(parts.read_counts(number, Counts))
        fsync(path)  # now, because the earlier rows lose their record: only the rename follows
        if job.predicted is None:
            record_path.unlink(missing_ok=True)
        else:
            _write_record(job)
    if job.predicted is None:
        _write_record(job)
    try:
        parts.remove()
    except OSError as error:  # for example on a network drive, while a file is still open
        job.listener.on_warning(f"cannot remove {parts.folder}: {error.strerror}; the next call with --out tries again")
    return counts


def _write_record(job: Job) -> None:
    """Record what the rows were made with, for a later call with `--skip-done`, unless it is not known of all rows."""
    made_with = describe_rows(job.config, job.predictor)
    id_kind, places, white = job.inputs.id_kind, job.inputs.places, dict(job.inputs.white)
    if job.predicted is not None:
        if not job.predicted.is_recorded:
            return
        id_kind = id_kind or job.predicted.id_kind
        # An array that has grown replaces itself.
        places = tuple({place: place for place in (*job.predicted.places, *places)}.values())
        white = {**job.predicted.white, **white}
    write_record(job.out, replace(made_with, id=id_kind, places=list(places), white=white))


def _report_unreadable(counts: Counts, listener: CommandListener) -> None:
    for _, _, message, hint in counts.unreadable:
        listener.on_unreadable(HistoError(message, hint))


def _compute_fingerprint(job: Job) -> str:
    """Return a SHA-256 of everything that the result depends on; parts are only used again if it is the same."""
    rows = replace(describe_rows(job.config, job.predictor), id=job.inputs.id_kind, white=dict(job.inputs.white))
    values = {
        "histo": histocli.__version__,
        "inputs": [*(str(Path(name).absolute()) for name in job.config.inputs), job.inputs.state],
        "total": job.inputs.total,
        "done": job.predicted.digest if job.predicted else None,
        "size": job.chunk_size,
        "compute": job.predictor.kind,
        "rows": to_json(rows),
        **{name: getattr(job.config, name) for name in ("split", "output_format", "qc", "errors", "columns")},
    }
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
