"""Decode patches in parallel and in order, at most a few chunks in advance."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, TypeVar

from histocli.errors import HistoError
from histocli.images.processes import MIN_FILES_FOR_PROCESSES, Decoded, DecodingProcesses, Loader, decode_all
from histocli.images.remarks import Remarks
from histocli.patch import Patch, Pixels, PortableLoader
from histocli.threads import count_threads

CHUNK = 64  # patches in a task: with fewer, the cost of each task matters; with more, memory does
_THREADED_PATCHES = MIN_FILES_FOR_PROCESSES  # patches that threads load before processes are started
_MAX_WORKERS = 8

T = TypeVar("T")
R = TypeVar("R")


class Chunk(NamedTuple):
    """Consecutive patches: the readable ones with their pixels (k,96,96,3), the others with their errors, remarks."""

    patches: list[Patch]
    pixels: Pixels
    failures: list[tuple[Patch, HistoError]]
    remarks: Remarks


def count_workers() -> int:
    """Return how many decoding threads are useful: as many as `count_threads` allows, at most eight."""
    return min(_MAX_WORKERS, count_threads())


def iterate_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `items` in lists of `size`; the last list may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def map_ordered(function: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of `items`, computed on threads, at most a few items ahead."""
    with ThreadPoolExecutor(workers, thread_name_prefix="histo-decode") as pool:
        yield from map_on_pool(pool, function, items, 2 * workers)


def map_on_pool(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of `items`; `pool` computes at most `ahead` results in advance."""
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


def load_chunk(patches: list[Patch], decode: Callable[[list[Loader]], Decoded] = decode_all) -> Chunk:
    """Load every patch of the list; those that cannot be read are listed as failures."""
    pixels, errors, remarks = decode([patch.load for patch in patches])
    good = [patch for i, patch in enumerate(patches) if i not in errors]
    return Chunk(good, pixels, [(patches[i], error) for i, error in errors.items()], remarks)


def load_chunks(
    patches: Iterable[Patch], size: int = CHUNK, pool: DecodingProcesses | None = None
) -> Generator[Chunk, None, None]:
    """Load patches and yield them in order, `size` at a time: on threads, or in the processes of `pool`.

    Processes are faster than threads if there are many image files and a GPU waits for them. If no process of `pool`
    has started yet, threads load the first patches, and the processes start only if there are more. They end when all
    patches are loaded, or when the caller stops.
    """
    chunks = iterate_chunks(patches, size)
    if pool is None:
        yield from map_ordered(load_chunk, chunks, count_workers())
        return
    try:
        if not pool.has_started:
            yield from map_ordered(load_chunk, islice(chunks, _THREADED_PATCHES // size), count_workers())
        if (more := next(chunks, None)) is not None:
            if any(isinstance(patch.load, PortableLoader) for patch in more):  # only these are sent
                pool.start()
            yield from map_ordered(partial(load_chunk, decode=pool.decode), chain([more], chunks), pool.count)
    finally:
        pool.close()
