"""`histo predict`: a tumour probability for every patch, written as it is computed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import torch

from histocli.choices import Device, OnError, Output, Precision, Resize
from histocli.data.inputs import open_inputs
from histocli.data.stream import load_chunks
from histocli.data.tables import table_writer
from histocli.engine import batch_probabilities, choose_compute, finite
from histocli.errors import HistoError, UsageError
from histocli.models.checkpoint import find_checkpoint, load_checkpoint
from histocli.workspace import Workspace, atomic_path


@dataclass(frozen=True)
class PredictConfig:
    """The options of `histo predict`; `out` None writes to the stream given to `predict`."""

    inputs: list[str]
    ckpt: str = "best.pt"
    out: Path | None = None
    format: Output = Output.CSV
    tta: bool = False
    threshold: float | None = None
    resize: Resize = Resize.CROP
    errors: OnError = OnError.SKIP
    batch_size: int = 256
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO


class Prediction(NamedTuple):
    """How many patches were scored, and how many could not be read."""

    scored: int
    unreadable: int


class Writer(Protocol):
    """Writes scored rows."""

    def rows(self, ids: list[str], probs: list[float]) -> None:
        """Write some patches' rows."""

    def close(self) -> None:
        """Write what is still held."""


def predict(
    workspace: Workspace,
    config: PredictConfig,
    stream: IO[str],
    *,
    on_start: Callable[[str, int | None], None] = lambda device, total: None,
    on_progress: Callable[[int], None] = lambda done: None,
    on_unreadable: Callable[[HistoError], None] = lambda error: None,
) -> Prediction:
    """Score every input patch in order, to `config.out` (whole or not at all) or to `stream` as it goes.

    Raises:
        HistoError: an input, the checkpoint or the device cannot be used; or, with `errors` `fail`, a file cannot
            be read.
    """
    if config.format is Output.PARQUET and config.out is None:
        raise UsageError("--format parquet cannot be streamed", "give it a file with --out")
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise UsageError(f"--threshold {config.threshold} is not between 0 and 1")
    if config.out is not None and config.out.is_dir():
        raise UsageError(f"--out {config.out} is a folder", "name the file to write")
    checkpoint = load_checkpoint(find_checkpoint(workspace, config.ckpt))
    compute = choose_compute(config.device, config.precision)
    model = checkpoint.build().to(compute.device)
    inputs = open_inputs(config.inputs, workspace, config.resize)
    on_start(compute.reason, inputs.total)

    def write(writer: Writer) -> Prediction:
        scored = unreadable = 0
        for chunk in load_chunks(inputs.patches, config.batch_size):
            for _, error in chunk.failures:
                if config.errors is OnError.FAIL:
                    raise error
                on_unreadable(error)
            if chunk.patches:
                images = torch.from_numpy(chunk.pixels).permute(0, 3, 1, 2).to(compute.device)
                probs = finite(batch_probabilities(model, images, compute, tta=config.tta))
                writer.rows([patch.id for patch in chunk.patches], probs.tolist())
            scored, unreadable = scored + len(chunk.patches), unreadable + len(chunk.failures)
            on_progress(scored + unreadable)
        writer.close()
        return Prediction(scored, unreadable)

    if config.out is None:
        return write(_text_writer(stream, config))
    with atomic_path(config.out) as temporary:
        if config.format is Output.PARQUET:
            return write(ParquetWriter(temporary, config.threshold))
        with temporary.open("w", encoding="utf-8", newline="") as file:
            return write(_text_writer(file, config))


def _text_writer(stream: IO[str], config: PredictConfig) -> Writer:
    kind = JsonWriter if config.format is Output.JSONL else CsvWriter
    return kind(stream, config.threshold)


class CsvWriter:
    """`id,label` with the tumour probability in `label`, the Kaggle submission as it stands; a `class` if asked."""

    def __init__(self, stream: IO[str], threshold: float | None) -> None:
        self.stream, self.threshold = stream, threshold
        self.writer = table_writer(stream)
        self.writer.writerow(["id", "label"] + ["class"] * (threshold is not None))

    def rows(self, ids: list[str], probs: list[float]) -> None:
        """Write some patches' rows, and flush them to whoever reads along."""
        for key, prob in zip(ids, probs, strict=True):
            extra = [] if self.threshold is None else [int(prob >= self.threshold)]
            self.writer.writerow([key, f"{prob:.6f}", *extra])
        self.stream.flush()

    def close(self) -> None:
        """Flush."""
        self.stream.flush()


class JsonWriter:
    """One JSON object a line."""

    def __init__(self, stream: IO[str], threshold: float | None) -> None:
        self.stream, self.threshold = stream, threshold

    def rows(self, ids: list[str], probs: list[float]) -> None:
        """Write some patches' rows, and flush them."""
        for row in _records(ids, probs, self.threshold):
            self.stream.write(json.dumps(row) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Flush."""
        self.stream.flush()


class ParquetWriter:
    """A Parquet file, a row group for each batch.

    Raises:
        HistoError: pyarrow is not installed.
    """

    def __init__(self, path: Path, threshold: float | None) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError:
            raise HistoError("--format parquet needs pyarrow", "pip install 'histocli[parquet]'") from None
        fields = [("id", pa.string()), ("label", pa.float64())] + [("class", pa.int8())] * (threshold is not None)
        self.schema, self.threshold, self.table = pa.schema(fields), threshold, pa.Table
        self.writer = pq.ParquetWriter(path, self.schema)

    def rows(self, ids: list[str], probs: list[float]) -> None:
        """Write some patches' rows as a row group."""
        self.writer.write_table(self.table.from_pylist(_records(ids, probs, self.threshold), schema=self.schema))

    def close(self) -> None:
        """Write the footer."""
        self.writer.close()


def _records(ids: list[str], probs: list[float], threshold: float | None) -> list[dict[str, Any]]:
    """Rows as mappings, with the probabilities as the CSV has them."""
    records: list[dict[str, Any]] = []
    for key, prob in zip(ids, probs, strict=True):
        extra = {} if threshold is None else {"class": int(prob >= threshold)}
        records.append({"id": key, "label": round(prob, 6), **extra})
    return records
