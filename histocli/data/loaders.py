"""Store + rows -> batches on the device, gathered whole on a background thread."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SubsetRandomSampler

from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.data.stream import ordered
from histocli.sources import Pixels
from histocli.threads import thread_count

_BLOCK = 4096  # patches copied to a GPU at a time
AHEAD = 3  # batches gathered before they are asked for
T = TypeVar("T")


class Batch(NamedTuple):
    """uint8 RGB `images` (N,3,96,96), channels last in memory, and int64 `labels` (N,), both on the device."""

    images: Tensor
    labels: Tensor


class SubsetSampler(SubsetRandomSampler):
    """torch's SubsetRandomSampler, which can also give its whole order at once, in a twentieth of the time."""

    def order(self) -> "np.ndarray":
        """Return the indices in the order in which iteration would yield them: int64 (N,)."""
        places = torch.randperm(len(self.indices), generator=self.generator)
        order: np.ndarray = np.asarray(self.indices, np.int64)[places.numpy()]
        return order


class PatchLoader:
    """A subset of a packed store, by row, as batches on `device`.

    Where the whole subset takes less than half of a GPU's free memory it is kept there (`resident`) and gathered by
    the GPU; else a thread gathers each batch from the memory map, for CUDA into pinned memory, from where it is copied
    without waiting.

    Of several processes (`ranks`) each gets its share: a slice of every training batch, and every so many'th of the
    batches in order. The batches themselves are the same for any number of processes.
    """

    def __init__(
        self,
        store: Pixels,
        rows: "np.ndarray",
        labels: "np.ndarray",
        batch_size: int,
        device: torch.device,
        *,
        resident: bool | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        self.store = store
        self.rows = np.asarray(rows, np.int64)
        self.labels = torch.from_numpy(np.asarray(labels, np.int64))
        self.batch_size = batch_size
        self.device = device
        self.ranks = ranks
        self.resident: Tensor | None = None
        if self._fits() if resident is None else resident:
            self.resident = self._upload()
            self.labels = self.labels.to(device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        """How many full batches a training epoch has; a subset smaller than one batch is one batch."""
        return max(1, len(self) // self.batch_size)

    @property
    def share(self) -> float:
        """The patches of a training batch that are this process's, over what is the mean of all processes."""
        size = min(self.batch_size, len(self))
        return len(range(self.ranks.rank, size, self.ranks.size)) * self.ranks.size / size

    def eval_batches(self) -> Iterator[Batch]:
        """Every patch once, in the order of the rows; the last batch may be smaller."""
        positions = np.arange(len(self))
        batches = np.split(positions, range(self.batch_size, len(self), self.batch_size))
        return self._load(batches[self.ranks.rank :: self.ranks.size])

    def gather_shares(self, values: Tensor) -> Tensor:
        """What all processes made of their shares of `in_order`, in the order of the rows: (N,) on the CPU."""
        if self.ranks.size == 1:
            return values
        shares = [share.split(self.batch_size) for share in self.ranks.all_gather(values)]
        batches = range(math.ceil(len(self) / self.batch_size))
        return torch.cat([shares[i % len(shares)][i // len(shares)] for i in batches])

    def train_batches(self, seed: int, first: int = 0) -> Iterator[Batch]:
        """One epoch of full batches in an order that follows from `seed` alone, from batch `first` on.

        The patches that do not fill a last batch are left out; another epoch's order leaves out others.
        """
        order = SubsetSampler(range(len(self)), torch.Generator().manual_seed(seed)).order()
        size = min(self.batch_size, len(self))
        batches = order[: self.steps * size].reshape(self.steps, size)
        return self._load(batches[first:, self.ranks.rank :: self.ranks.size])

    def _load(self, batches: "Iterable[np.ndarray]") -> Iterator[Batch]:
        if self.resident is not None:
            parts = list(batches)
            if not parts:
                return
            order = torch.from_numpy(np.concatenate(parts)).to(self.device)  # once: each copy makes the host wait
            for index in order.split([len(part) for part in parts]):
                yield Batch(self.resident[index].permute(0, 3, 1, 2), self.labels[index])
            return
        for images, labels in prefetch(map(self._gather, batches), AHEAD):
            # Only CUDA copies from pinned memory; elsewhere the source may be freed before the copy has happened.
            asynchronous = self.device.type == "cuda"
            moved = [part.to(self.device, non_blocking=asynchronous) for part in (images, labels)]
            yield Batch(*moved)

    def _gather(self, positions: "np.ndarray") -> Batch:
        images = torch.from_numpy(self.store[self.rows[positions]]).permute(0, 3, 1, 2)
        labels = self.labels[torch.from_numpy(positions)]
        return Batch(images.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else Batch(images, labels)

    def _upload(self) -> Tensor:
        """Copy the whole subset to the device, a block at a time, so that the host's memory does not grow with it."""
        there = torch.empty((len(self), *self.store.shape[1:]), dtype=torch.uint8, device=self.device)
        starts = range(0, len(self), _BLOCK)
        with ThreadPoolExecutor(thread_count(), "histo-upload") as pool:
            blocks = ordered(pool, lambda start: self.store[self.rows[start : start + _BLOCK]], starts, thread_count())
            for start, block in zip(starts, blocks, strict=True):
                there[start : start + _BLOCK] = torch.from_numpy(block)
        return there

    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return len(self) * int(np.prod(self.store.shape[1:])) < free // 2


def prefetch(items: Iterable[T], ahead: int) -> Iterator[T]:
    """Yield `items`, computed on a thread of their own at most `ahead` before they are taken; errors come through."""
    queue: Queue[tuple[bool, T | BaseException | None]] = Queue(ahead)
    stopped = Event()

    def produce() -> None:
        try:
            for item in items:
                queue.put((True, item))
                if stopped.is_set():
                    return
            queue.put((False, None))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that takes, which raises it
            queue.put((False, error))

    thread = Thread(target=produce, name="histo-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, item = queue.get()
            if more:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room in the queue
            with suppress(Empty):
                queue.get(timeout=0.01)
