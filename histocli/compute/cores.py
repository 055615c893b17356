"""Compute on all cores of a processor at once, with different patches on each core.

Two cores that share one convolution must wait for each other at its end, hundreds of times in a batch. If each core has
its own patches, they wait only once, at the end of the batch. Training does not work like this: batch norm needs the
whole batch.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

PIECE = 64  # patches that one core scores at a time: more do not fit its caches, fewer need more calls
MIN_PIECE = 32  # with fewer patches per core, the threads cost more time than they save

T = TypeVar("T")
R = TypeVar("R")


class Cores:
    """Threads that compute in parallel; PyTorch's threads are divided among them."""

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count, "histo-core", _set_thread_count, (threads // count,))
        started = Barrier(count)
        try:
            list(self.pool.map(lambda _: started.wait(), range(count)))  # now every thread has set its own number
        except RuntimeError:  # a thread cannot be started, and the other threads wait for it
            started.abort()
            raise
        torch.set_num_threads(threads)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return `function(item)` for each item, in the order of the items."""
        return list(self.pool.map(function, items))


_cores = cache(Cores)  # one set of threads for each `count` and `threads`


def start_cores() -> Cores:
    """Return one thread for each of PyTorch's threads; each computes alone."""
    threads = torch.get_num_threads()
    return _cores(threads, threads)


def map_pieces(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a function to a batch, on a CPU in pieces on all cores, and join what it returns.

    Takes images (N,...), and a function that returns (...,k) for k images; returns (...,N).
    """
    if images.device.type != "cpu":
        return function(images)
    count = max(1, min(torch.get_num_threads(), len(images) // MIN_PIECE))
    pieces = images.split(max(1, min(PIECE, math.ceil(len(images) / count))))
    results = map(function, pieces) if count == 1 else _cores(count, torch.get_num_threads()).map(function, pieces)
    return torch.cat(list(results), -1)


def _set_thread_count(count: int) -> None:
    """Let the calling thread compute with `count` threads, even if other threads set another number later."""
    torch.set_num_threads(count)
    torch.get_num_threads()  # a thread reads the number of the process once, at its first call, so call it now
