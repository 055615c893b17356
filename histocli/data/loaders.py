"""Load batches of patches from a packed store onto a device, with a background thread that reads ahead."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SubsetRandomSampler

from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.images.stream import count_workers, map_on_pool
from histocli.patch import Pixels

_BLOCK = 4096  # patches copied to a GPU at a time while the whole subset is uploaded
BATCHES_AHEAD = 3  # batches that the background thread reads ahead


class Batch(NamedTuple):
    """uint8 RGB `images` (N,3,96,96), channels last in memory, and int64 `labels` (N,), both on the device."""

    images: Tensor
    labels: Tensor


class SubsetSampler(SubsetRandomSampler):
    """PyTorch's SubsetRandomSampler, which can also give its whole order at once, in a twentieth of the time."""

    def draw_order(self) -> "np.ndarray":
        """Draw the order of the next epoch: int64 (N,), the same as one iteration would yield.

        Like an iteration, it advances the generator: the next call returns another order.
        """
        positions = torch.randperm(len(self.indices), generator=self.generator)
        order: np.ndarray = np.asarray(self.indices, np.int64)[positions.numpy()]
        return order


class PatchLoader:
    """Loads some rows of a packed store as batches on `device`.

    If the rows take less than half of a GPU's free memory, all of them are copied there once (`resident_images`) and
    the GPU selects each batch. Otherwise a background thread reads each batch from the store, for CUDA into pinned
    memory.

    With several processes (`ranks`), each loads its share: some patches of every training batch, and every
    `ranks.size`-th batch of `eval_batches`. The batches themselves are the same for any number of processes.

    Args:
        store: uint8 RGB patches (M,96,96,3).
        rows: (N,) the rows of the store to load.
        labels: (N,) their labels, 0 or 1.
        batch_size: patches per batch, over all processes.
        device: where the batches are needed.
        is_resident: whether to keep all rows on the device; None: if they take less than half of its free memory.
        ranks: the processes of the job.
    """

    def __init__(
        self,
        store: Pixels,
        rows: "np.ndarray",
        labels: "np.ndarray",
        batch_size: int,
        device: torch.device,
        *,
        is_resident: bool | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        self.store = store
        self.rows = np.asarray(rows, np.int64)
        self.labels = torch.from_numpy(np.asarray(labels, np.int64))
        self.batch_size = batch_size
        self.device = device
        self.ranks = ranks
        self.resident_images: Tensor | None = None
        if self._can_be_resident() if is_resident is None else is_resident:
            self.resident_images = self._upload()
            self.labels = self.labels.to(device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        """The number of batches of a training epoch.

        The rows that are left over after the last full batch are not used in that epoch. If there are fewer rows than
        a batch has, they are one smaller batch.
        """
        return max(1, len(self) // self.batch_size)

    @property
    def loss_weight(self) -> float:
        """The weight of this process's loss, so that the mean gradient of all is the gradient of the whole batch.

        It is the number of this process's patches in a training batch, over the mean of that number.
        """
        size = min(self.batch_size, len(self))
        return len(range(self.ranks.rank, size, self.ranks.size)) * self.ranks.size / size

    def eval_batches(self) -> Iterator[Batch]:
        """Yield this process's share of the batches that have every patch once, in the order of the rows.

        The last batch may be smaller.
        """
        positions = np.arange(len(self))
        batches = np.split(positions, range(self.batch_size, len(self), self.batch_size))
        return self.load_positions(batches[self.ranks.rank :: self.ranks.size])

    def gather_shares(self, values: Tensor) -> Tensor:
        """Return the values (N,) of all patches, in the order of the rows, on the CPU.

        Takes one value for each patch of this process's share of `eval_batches`, on the CPU.
        """
        if self.ranks.size == 1:
            return values
        shares = [share.split(self.batch_size) for share in self.ranks.all_gather(values)]
        batches = range(math.ceil(len(self) / self.batch_size))
        return torch.cat([shares[i % len(shares)][i // len(shares)] for i in batches])

    def train_batches(self, seed: int, first: int = 0) -> Iterator[Batch]:
        """Yield this process's share of one epoch of full batches, from batch number `first` on.

        The random order depends only on `seed`. Patches that do not fill a last batch are skipped; which patches these
        are depends on the seed.
        """
        order = SubsetSampler(range(len(self)), torch.Generator().manual_seed(seed)).draw_order()
        size = min(self.batch_size, len(self))
        batches = order[: self.steps * size].reshape(self.steps, size)
        return self.load_positions(batches[first:, self.ranks.rank :: self.ranks.size])

    def load_positions(self, batches: "Iterable[np.ndarray]") -> Iterator[Batch]:
        """Yield batches on the device: the patches at given positions in the subset, int64 (N,) for each batch."""
        if self.resident_images is not None:
            position_lists = list(batches)
            if not position_lists:
                return
            # All positions are copied at once, because the host waits for each copy.
            order = torch.from_numpy(np.concatenate(position_lists)).to(self.device)
            for index in order.split([len(positions) for positions in position_lists]):
                yield Batch(self.resident_images[index].permute(0, 3, 1, 2), self.labels[index])
            return
        # Only CUDA can copy in the background, from pinned memory; on MPS the source could be freed too early.
        is_cuda = self.device.type == "cuda"
        with (
            ThreadPoolExecutor(1, "histo-prefetch") as pool,
            closing(map_on_pool(pool, self._gather, batches, BATCHES_AHEAD)) as prefetched,
        ):
            for batch in prefetched:
                yield Batch(*(tensor.to(self.device, non_blocking=is_cuda) for tensor in batch))

    def _gather(self, positions: "np.ndarray") -> Batch:
        """Read one batch into the memory of the CPU, which is pinned for a GPU."""
        images = torch.from_numpy(self.store[self.rows[positions]]).permute(0, 3, 1, 2)
        labels = self.labels[torch.from_numpy(positions)]
        return Batch(images.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else Batch(images, labels)

    def _upload(self) -> Tensor:
        """Return a copy of all rows on the device; they are copied in blocks, so that the host needs little memory."""
        images = torch.empty((len(self), *self.store.shape[1:]), dtype=torch.uint8, device=self.device)
        starts = range(0, len(self), _BLOCK)
        workers = count_workers()  # not all threads of the machine, because each holds a block of 113 MB
        with ThreadPoolExecutor(workers, "histo-upload") as pool:
            blocks = map_on_pool(pool, lambda start: self.store[self.rows[start : start + _BLOCK]], starts, workers)
            for start, block in zip(starts, blocks, strict=True):
                images[start : start + _BLOCK] = torch.from_numpy(block)
        return images

    def _can_be_resident(self) -> bool:
        """Return whether all patches fit into half of the GPU's free memory; on a CPU they stay in the store."""
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return len(self) * int(np.prod(self.store.shape[1:])) < free // 2
