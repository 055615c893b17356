"""Decode patches in parallel and in order, at most a few chunks ahead of the one that is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from histocli.errors import HistoError
from histocli.sources import Patch, Pixels
from histocli.threads import thread_count

CHUNK = 64  # patches in a task: enough to make the cost of a task itself negligible, few enough to need little memory
_MAX_WORKERS = 8

T = TypeVar("T")
R = TypeVar("R")


class Chunk(NamedTuple):
    """Consecutive patches: the readable ones with their pixels (k,96,96,3), and the ids and errors of the others."""

    patches: list[Patch]
    pixels: Pixels
    failures: list[tuple[str, HistoError]]


def worker_count() -> int:
    """Return how many decoding threads are useful: as many as `thread_count` allows, at most eight."""
    return min(_MAX_WORKERS, thread_count())


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut `items` into lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def map_ordered(function: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of `items`, computed on threads, at most a few items ahead."""
    with ThreadPoolExecutor(workers, thread_name_prefix="histo-decode") as pool:
        yield from ordered(pool, function, items, 2 * workers)


def ordered(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of `items`, computed by `pool`, at most `ahead` items ahead."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)


def load_chunk(patches: list[Patch]) -> Chunk:
    """Load every patch of the list; those that cannot be read are listed as failures."""
    good: list[Patch] = []
    pixels: list[Pixels] = []
    failures: list[tuple[str, HistoError]] = []
    for patch in patches:
        try:
            pixels.append(patch.load())
            good.append(patch)
        except HistoError as error:
            failures.append((patch.id, error))
    stacked = np.stack(pixels) if pixels else np.empty((0, 96, 96, 3), np.uint8)
    return Chunk(good, stacked, failures)


def load_chunks(
    patches: Iterable[Patch], size: int = CHUNK, workers: int | None = None
) -> Generator[Chunk, None, None]:
    """Load patches on worker threads and yield them in order, `size` at a time."""
    return map_ordered(load_chunk, chunked(patches, size), workers or worker_count())
