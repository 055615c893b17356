"""Compute calibrated probabilities of tumour from images: packed data, files and arrays.

Validation during training, `histo eval` and `histo predict` all use `BatchPredictor`.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from histocli.compute.cores import PIECE, start_cores
from histocli.compute.device import Compute
from histocli.compute.memory import is_out_of_memory, make_memory_error
from histocli.config import EvalConfig
from histocli.data.loaders import PatchLoader
from histocli.errors import HistoError
from histocli.images.early import create_decoding_processes
from histocli.images.processes import DecodingProcesses
from histocli.images.remarks import Remarks
from histocli.images.stream import Chunk, iterate_chunks, load_chunk, load_chunks, map_on_pool
from histocli.inference.forward import Network, compute_log_odds
from histocli.listeners import SILENT, CommandListener
from histocli.metrics.calibration import adjust_prevalence, compute_probabilities
from histocli.metrics.curves import Floats
from histocli.patch import Patch, Pixels


class CalibratedNetwork(NamedTuple):
    """A network on the device, and the temperature that its log odds are divided by."""

    network: Network
    temperature: float = 1.0


class PredictorOptions(TypedDict, total=False):
    """The options of `BatchPredictor`."""

    tta: bool
    uncalibrated: bool
    should_compute_spread: bool
    can_halve_batch: bool
    prevalence: float | None


class Scores(NamedTuple):
    """The scores of N patches, each float64 (N,).

    `probs` are the probabilities of tumour, `raw` those before calibration, and `spread` is the largest minus the
    smallest probability of the eight flips and right-angle rotations (0 where only one was computed).
    """

    probs: Floats
    raw: Floats
    spread: Floats


class ScoredChunk(NamedTuple):
    """Consecutive patches: those that could be read, with their pixels (k,96,96,3) and scores; the others' errors.

    `remarks` say what was changed or guessed in the images.
    """

    patches: list[Patch]
    pixels: Pixels
    scores: Scores
    failures: list[tuple[Patch, HistoError]]
    remarks: Remarks


class BatchPredictor:
    """One network on a device, or several whose probabilities are averaged.

    The probability of one network is the mean over the views of a patch, calibrated by the network's temperature.

    Args:
        networks: the networks, on the device, with their temperatures.
        compute: the device and the number format.
        tta: average over the eight flips and right-angle rotations instead of scoring the patch as it is.
        uncalibrated: return uncalibrated probabilities as `probs` too.
        should_compute_spread: compute the eight views for `spread`, even without `tta`.
        can_halve_batch: if the memory is too small for a batch, continue with half as many patches at a time.
        prevalence: the share of tumour patches in the data, for which the probabilities are adjusted; None: the
            prevalence of the calibration data, `calibrated_prevalence`.
    """

    calibrated_prevalence = 0.5

    def __init__(
        self,
        networks: Sequence[CalibratedNetwork],
        compute: Compute,
        *,
        tta: bool = False,
        uncalibrated: bool = False,
        should_compute_spread: bool = False,
        can_halve_batch: bool = False,
        prevalence: float | None = None,
    ) -> None:
        self.prevalence = prevalence
        self.networks, self.compute = list(networks), compute
        self.tta, self.uncalibrated = tta, uncalibrated
        self.should_compute_spread, self.can_halve_batch = should_compute_spread, can_halve_batch
        self._largest_batch: int | None = None  # the largest that fits the memory; None until a batch did not fit
        for network, _ in self.networks:
            if isinstance(network, nn.Module):
                network.eval()

    def predict_array(self, pixels: Pixels, batch_size: int = EvalConfig.batch_size) -> Scores:
        """Score an array of patches, uint8 (N,96,96,3) in RGB order.

        Raises:
            HistoError: a probability is not finite, or the memory is too small.
        """
        batches = (pixels[first : first + batch_size] for first in range(0, len(pixels), batch_size))
        log_odds = [self._compute_log_odds(self._upload(batch)) for batch in batches]
        return self._compute_scores(self._concatenate(log_odds))

    def predict_packed(self, batches: PatchLoader, on_progress: Callable[[int], None] = lambda done: None) -> Scores:
        """Score every patch of a loader, in the order of its rows.

        Each process of a job scores its share, and all of them get the scores of all patches. `on_progress` receives
        the number of patches that all processes together have scored so far.

        Raises:
            HistoError: as `predict_array`.
        """
        log_odds: list[Tensor] = []  # these stay on the device: a GPU then never waits for the CPU
        done = 0
        for batch in batches.eval_batches():
            log_odds.append(self._compute_log_odds(batch.images))
            done += len(batch.images) * batches.ranks.size
            on_progress(min(done, len(batches)))
        share = self._compute_scores(self._concatenate(log_odds))
        return Scores(*batches.gather_shares(torch.from_numpy(np.stack(share, 1))).numpy().T)

    def predict_patches(
        self,
        patches: Iterable[Patch],
        size: int,
        listener: CommandListener = SILENT,
        pool: DecodingProcesses | None = None,
    ) -> Generator[ScoredChunk, None, None]:
        """Read and score a stream of patches, `size` at a time, and yield them in order.

        On a CPU each core reads and scores its own chunks. A GPU scores one chunk while the CPU reads the next, in
        `pool`, or in processes that are started if there are many patches.
        Before a chunk is yielded, the listener receives each kind of remark that is the first of its kind; after the
        caller has used the chunk, the number of patches so far. The caller reports the patches that cannot be read.

        Raises:
            HistoError: as `predict_array`.
        """
        done, seen = 0, set[str]()
        if self.has_gpu:
            scored = self._score_on_gpu(patches, size, pool)
        else:
            if pool is not None:
                pool.close()
            cores = start_cores()
            scored = map_on_pool(cores.pool, self._read_and_score, iterate_chunks(patches, size), 2 * cores.count)
        with closing(scored) as chunks:
            for chunk in chunks:
                for what, remark in chunk.remarks.items():
                    if what not in seen:
                        seen.add(what)
                        listener.on_remark(what, remark.example)
                yield chunk
                done += len(chunk.patches) + len(chunk.failures)
                listener.on_progress(done)

    def choose_chunk_size(self, batch_size: int) -> int:
        """Return how many patches of a stream to score at a time: `batch_size` on a GPU, at most 64 on each core."""
        return batch_size if self.has_gpu else min(batch_size, PIECE)

    @property
    def has_gpu(self) -> bool:
        """Whether the networks run on a GPU."""
        return self.compute.device.type != "cpu"

    def _read_and_score(self, patches: list[Patch]) -> ScoredChunk:
        chunk = load_chunk(patches)
        return self._finish_scoring(chunk, self._start_scoring(chunk))

    def _score_on_gpu(
        self, patches: Iterable[Patch], size: int, pool: DecodingProcesses | None
    ) -> Generator[ScoredChunk, None, None]:
        """Start each chunk before the scores of the previous chunk are used: the GPU then always has work."""
        before: tuple[Chunk, _Download] | None = None
        with closing(load_chunks(patches, size, pool=pool or create_decoding_processes())) as chunks:
            for chunk in chunks:
                started = chunk, self._start_scoring(chunk)
                if before:
                    yield self._finish_scoring(*before)
                before = started
        if before:
            yield self._finish_scoring(*before)

    def _start_scoring(self, chunk: Chunk) -> "_Download":
        """Start to compute the log odds of a chunk; on a GPU this does not wait for the result."""
        return _Download(self._compute_log_odds(self._upload(chunk.pixels)) if chunk.patches else self._concatenate([]))

    def _finish_scoring(self, chunk: Chunk, log_odds: "_Download") -> ScoredChunk:
        """Wait for the log odds of a chunk, and return the chunk with its scores."""
        scores = self._compute_scores(log_odds.wait())
        return ScoredChunk(chunk.patches, chunk.pixels, scores, chunk.failures, chunk.remarks)

    def _upload(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.compute.device)

    def _concatenate(self, log_odds: list[Tensor]) -> Tensor:
        return torch.cat(log_odds, 2) if log_odds else torch.empty(len(self.networks), 1, 0)

    def _compute_log_odds(self, images: Tensor) -> Tensor:
        """Compute the log odds float32 (M,V,N) of M networks, V views and N images; they stay on the device."""
        size = min(self._largest_batch or len(images), len(images))
        while True:
            try:
                batches = images.split(size) if size else [images]
                return self._concatenate([self._forward(batch) for batch in batches])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self.can_halve_batch or size == 1:
                    raise make_memory_error(size, error) from error
            self._largest_batch = size = size // 2
            if self.compute.device.type == "cuda":
                torch.cuda.empty_cache()

    def _forward(self, images: Tensor) -> Tensor:
        """Compute the log odds (M,V,N) of a batch that fits the memory."""
        all_views = self.tta or self.should_compute_spread
        return torch.stack(
            [compute_log_odds(member.network, images, self.compute, tta=all_views) for member in self.networks]
        )

    def _compute_scores(self, log_odds: Tensor) -> Scores:
        """Turn log odds (M,V,N) into scores, in double precision on the CPU."""
        odds = log_odds.cpu().numpy().astype(np.float64)
        if not np.isfinite(odds).all():
            hint = "use --precision fp32; in training, lower --lr"
            raise HistoError("the network's probabilities are not finite", hint)
        means = [_average_log_odds(views) if self.tta else views[0] for views in odds]
        raw = np.mean([compute_probabilities(mean) for mean in means], 0)
        if self.uncalibrated:
            probs, views = raw, [compute_probabilities(views) for views in odds]
        else:
            temperatures = [member.temperature for member in self.networks]
            probs = np.mean([compute_probabilities(mean, t) for mean, t in zip(means, temperatures, strict=True)], 0)
            views = [compute_probabilities(views, t) for views, t in zip(odds, temperatures, strict=True)]
        return Scores(self._adjust(probs), self._adjust(raw), np.ptp(self._adjust(np.mean(views, 0)), 0))

    def _adjust(self, probs: Floats) -> Floats:
        """Adjust probabilities for the prevalence of the data."""
        if self.prevalence is None:
            return probs
        return adjust_prevalence(probs, self.calibrated_prevalence, self.prevalence)


class _Download:
    """A copy of log odds from a GPU to the CPU that runs in the background until `wait` is called."""

    def __init__(self, log_odds: Tensor) -> None:
        self._tensor, self._copied = log_odds, None
        if log_odds.device.type == "cuda":
            self._tensor = torch.empty(log_odds.shape, dtype=log_odds.dtype, pin_memory=True)
            self._tensor.copy_(log_odds, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def wait(self) -> Tensor:
        """Wait until the log odds are on the CPU, and return them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensor


def _average_log_odds(odds: Floats) -> Floats:
    """Return the log odds (N,) of the mean probability over views (V,N), exact even near 0 and 1."""
    mean: Floats = np.logaddexp.reduce(-np.logaddexp(0, -odds)) - np.logaddexp.reduce(-np.logaddexp(0, odds))
    return mean
