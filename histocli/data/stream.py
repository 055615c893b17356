"""Decode patches in parallel and in order, at most a few chunks ahead of the one that is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from histocli.data.decoding import Decoded, DecodingProcesses, Loader, decode_all
from histocli.errors import HistoError
from histocli.sources import Patch, Pixels
from histocli.threads import thread_count

CHUNK = 64  # patches in a task: enough to make the cost of a task itself negligible, few enough to need little memory
_FEW = 4096  # patches that threads have loaded before processes have started
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


def load_chunk(patches: list[Patch], decode: Callable[[list[Loader]], Decoded] = decode_all) -> Chunk:
    """Load every patch of the list; those that cannot be read are listed as failures."""
    pixels, errors = decode([patch.load for patch in patches])
    good = [patch for i, patch in enumerate(patches) if i not in errors]
    return Chunk(good, pixels, [(patches[i].id, error) for i, error in errors.items()])


def load_chunks(
    patches: Iterable[Patch], size: int = CHUNK, workers: int | None = None, *, processes: int = 0
) -> Generator[Chunk, None, None]:
    """Load patches and yield them in order, `size` at a time.

    They are loaded on `workers` threads, or with `processes` in that many processes, which pay for many image files
    where a GPU waits for them: see `decoding`.
    """
    chunks, workers = chunked(patches, size), workers or worker_count()
    if not processes:
        return map_ordered(load_chunk, chunks, workers)
    return _load_in_processes(chunks, islice(chunks, _FEW // size), workers, processes)


def _load_in_processes(
    chunks: Iterator[list[Patch]], first: Iterator[list[Patch]], workers: int, processes: int
) -> Generator[Chunk, None, None]:
    """Load the first chunks on threads, since few files do not pay for starting processes, and all others in these."""
    yield from map_ordered(load_chunk, first, workers)
    pool = DecodingProcesses(processes)
    try:
        yield from map_ordered(partial(load_chunk, decode=pool.decode), chunks, processes)
    finally:
        pool.close()
