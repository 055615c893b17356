"""Checkpoints at work: calibrated tumour probabilities for any stream of patches, of one network or of several."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from histocli.compute.cores import PIECE, every_core
from histocli.compute.device import choose_compute
from histocli.compute.memory import is_out_of_memory, memory_is_full
from histocli.config import Device, ExportFormat, Precision
from histocli.data.manifest import file_sha256
from histocli.data.stream import Chunk, chunked, load_chunk, load_chunks, ordered
from histocli.errors import HistoError, UsageError
from histocli.inference.forward import Network, batch_log_odds, finite
from histocli.metrics.calibration import probability, rescaled
from histocli.metrics.curves import Floats
from histocli.metrics.thresholds import choose_threshold, fixed
from histocli.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from histocli.models.fuse import fold
from histocli.models.onnx_network import OnnxNetwork, can_run
from histocli.sources import Patch, Pixels
from histocli.workspace import Workspace

STORED = "stored"
VIEWS = 8


class Member(NamedTuple):
    """A checkpoint in use: the file and its SHA-256, what it holds, its network on the device, and who runs that."""

    path: Path
    sha256: str
    checkpoint: Checkpoint
    network: Network
    engine: str


class Scores(NamedTuple):
    """Of N patches: the probabilities of tumour, uncalibrated too, and how far apart the eight views' are, all (N,)."""

    probs: Floats
    raw: Floats
    spread: Floats


_NONE = Scores(np.empty(0), np.empty(0), np.empty(0))


class ScoredChunk(NamedTuple):
    """Some consecutive patches: those that could be read with their pixels (k,96,96,3) and scores; others' errors."""

    patches: list[Patch]
    pixels: Pixels
    scores: Scores
    failures: list[HistoError]


class Scorer:
    """One checkpoint on a device, or several whose probabilities are averaged.

    Each network's probability is that of the mean over the views of a patch (one, or with `tta` the eight flips and
    right-angle rotations), then calibrated by the checkpoint's temperature unless `raw`. `spread` computes the eight
    views even where one alone is scored. `halve` goes on with half as many patches at a time where memory is short.

    Raises:
        UsageError: a checkpoint is given twice.
        HistoError: a checkpoint or the device cannot be used.
    """

    def __init__(
        self,
        workspace: Workspace,
        names: Sequence[str],
        device: Device = Device.AUTO,
        precision: Precision = Precision.AUTO,
        *,
        tta: bool = False,
        raw: bool = False,
        spread: bool = False,
        halve: bool = False,
    ) -> None:
        paths = [find_checkpoint(workspace, name) for name in names]
        digests = [file_sha256(path) for path in paths]
        for i, digest in enumerate(digests):
            if digest in digests[:i]:
                raise UsageError(f"--ckpt {names[i]} is given twice", "an ensemble is of different checkpoints")
        checkpoints = [load_checkpoint(path) for path in paths]
        self.compute = choose_compute(device, precision)
        self.tta, self.raw, self.spread, self.halve = tta, raw, spread, halve
        self.fits: int | None = None  # the patches at a time that memory was found to be enough for
        self.members = [
            Member(path, digest, checkpoint, *self._network(workspace, checkpoint, digest))
            for path, digest, checkpoint in zip(paths, digests, checkpoints, strict=True)
        ]

    def _network(self, workspace: Workspace, checkpoint: Checkpoint, sha256: str) -> tuple[Network, str]:
        """The checkpoint's network, and who runs it: ONNX Runtime, where it is faster and `histo export` was called."""
        exported = workspace.export_path(sha256, ExportFormat.ONNX)
        if not self._has_gpu and self.compute.precision is Precision.FP32 and exported.is_file() and can_run():
            return OnnxNetwork(exported, sha256), "ONNX Runtime"
        network = checkpoint.build().to(self.compute.device)
        fold(network)
        return network, "torch"

    @property
    def reason(self) -> str:
        """Where and how it computes, and why."""
        engines = {member.engine: None for member in self.members}
        return f"{self.compute.reason}, by {' and '.join(engines)}"

    @property
    def kind(self) -> list[str]:
        """What decides the last bits of a score: the kind of device, the number format, and who runs each network."""
        return [self.compute.device.type, str(self.compute.precision), *(member.engine for member in self.members)]

    def threshold(self, wanted: str = STORED) -> float:
        """The threshold on this scorer's probabilities that `wanted` names.

        A number is itself; `stored` is what training chose; a rule, such as `youden`, is applied to the validation
        patches that the checkpoint keeps the scores of. Of several checkpoints the mean is taken.

        Raises:
            UsageError: it is none of these.
            HistoError: a checkpoint keeps no validation scores to apply a rule to.
        """
        if wanted != STORED and (value := fixed(wanted)) is not None:
            return value
        found = [self._own_threshold(member.checkpoint, wanted) for member in self.members]
        return sum(found) / len(found)

    def _own_threshold(self, checkpoint: Checkpoint, wanted: str) -> float:
        calibrated = checkpoint.threshold if wanted == STORED else _by_rule(checkpoint, wanted)
        return rescaled(calibrated, checkpoint.temperature) if self.raw else calibrated

    def score(self, images: Tensor) -> Scores:
        """Score uint8 images (N,3,96,96) that are on the device.

        Raises:
            HistoError: a probability is not finite, or memory is full.
        """
        size = min(self.fits or len(images), len(images))
        while True:
            try:
                parts = [self._score(part) for part in images.split(size)]
                return Scores(*(np.concatenate(values) for values in zip(*parts, strict=True)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self.halve or size == 1:
                    raise memory_is_full(size) from error
            self.fits = size = size // 2
            if self.compute.device.type == "cuda":
                torch.cuda.empty_cache()

    def _score(self, images: Tensor) -> Scores:
        raws, calibrated, spreads = [], [], []
        for member in self.members:
            views = batch_log_odds(member.network, images, self.compute, tta=self.tta or self.spread)
            odds = finite(views).numpy().astype(np.float64)  # (V,N)
            temperature = member.checkpoint.temperature
            mean = _mean_log_odds(odds) if self.tta else odds[0]
            raws.append(probability(mean))
            calibrated.append(probability(mean, temperature))
            spreads.append(probability(odds, 1.0 if self.raw else temperature))
        raw = np.mean(raws, 0)
        return Scores(raw if self.raw else np.mean(calibrated, 0), raw, np.ptp(np.mean(spreads, 0), 0))

    def at_once(self, batch_size: int) -> int:
        """How many patches of a stream to score at a time where `batch_size` may be: a core takes fewer than a GPU."""
        return batch_size if self._has_gpu else min(batch_size, PIECE)

    def chunks(
        self,
        patches: Iterable[Patch],
        size: int,
        on_unreadable: Callable[[HistoError], None],
        on_progress: Callable[[int], None],
    ) -> Generator[ScoredChunk, None, None]:
        """Read and score a stream of patches, in order, `size` at a time.

        A processor's cores read and score a chunk each; a GPU scores what they read. `on_progress` is told how many
        patches were taken so far, once whoever takes the chunks is done with them.
        """
        done = 0
        with closing(self._scored(patches, size)) as chunks:
            for chunk in chunks:
                for error in chunk.failures:
                    on_unreadable(error)
                yield chunk
                done += len(chunk.patches) + len(chunk.failures)
                on_progress(done)

    @property
    def _has_gpu(self) -> bool:
        return self.compute.device.type != "cpu"

    def _scored(self, patches: Iterable[Patch], size: int) -> Generator[ScoredChunk, None, None]:
        if self._has_gpu:
            with closing(load_chunks(patches, size)) as chunks:
                yield from map(self._scored_chunk, chunks)
        else:
            cores = every_core()
            yield from ordered(cores.pool, self._read_and_scored, chunked(patches, size), 2 * cores.count)

    def _read_and_scored(self, patches: list[Patch]) -> ScoredChunk:
        return self._scored_chunk(load_chunk(patches))

    def _scored_chunk(self, chunk: Chunk) -> ScoredChunk:
        scores = _NONE
        if chunk.patches:
            scores = self.score(torch.from_numpy(chunk.pixels).permute(0, 3, 1, 2).to(self.compute.device))
        return ScoredChunk(chunk.patches, chunk.pixels, scores, [error for _, error in chunk.failures])


def _by_rule(checkpoint: Checkpoint, rule: str) -> float:
    """Apply the rule to the calibrated validation scores that the checkpoint keeps."""
    if not checkpoint.validation:
        raise HistoError(
            f"the checkpoint of run {checkpoint.run} keeps no validation scores to find --threshold {rule} on",
            "give a number, or train again",
        )
    labels, odds = (checkpoint.validation[name].numpy() for name in ("labels", "log_odds"))
    return choose_threshold(rule, labels.astype(np.int64), probability(odds, checkpoint.temperature))


def _mean_log_odds(odds: Floats) -> Floats:
    """The log odds (N,) of the mean probability over views (V,N), exact where that is near 0 or 1."""
    mean: Floats = np.logaddexp.reduce(-np.logaddexp(0, -odds)) - np.logaddexp.reduce(-np.logaddexp(0, odds))
    return mean
