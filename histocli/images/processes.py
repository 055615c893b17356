"""Decode image files, or draw synthetic patches, in separate processes.

Threads share Python's interpreter lock. With any number of cores they decode only about 10,000 patches per second,
which is too slow for a GPU. Each process has its own lock. Processes receive the loaders through a pipe, and write the
pixels into memory that they share with this process. A pipe for the pixels would be slower: this process would read
it in many small steps, and wait for the lock in each.
"""

import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from histocli.child import make_arguments
from histocli.errors import HistoError
from histocli.images.image_files import ImageArray, ImageFile, PackedPatch
from histocli.images.remarks import Remarks
from histocli.patch import PATCH_SHAPE, Pixels, PortableLoader

MIN_FILES_FOR_PROCESSES = 4096  # fewer files are decoded faster without starting processes
_SHARED_PATCHES = 256  # patches in the memory that is shared with a process, 7 MB
Loader = Callable[[], Pixels]
# The answer to a request: the messages and hints of errors by position in the request, and the remarks.
_Answer = tuple[dict[int, tuple[str, str]], Remarks]


class Decoded(NamedTuple):
    """Pixels (k,96,96,3) of the files that could be decoded, in order; errors of the others by position; remarks."""

    pixels: Pixels
    errors: dict[int, HistoError]
    remarks: Remarks


def decode_all(loaders: list[Loader], into: "Pixels | None" = None) -> Decoded:
    """Load each patch; return the pixels of those that can be read, and the errors of the others.

    The pixels are written to the beginning of `into` (at least N,96,96,3), or to a new array.
    """
    pixels = np.empty((len(loaders), *PATCH_SHAPE), np.uint8) if into is None else into
    packed = [load for load in loaders if isinstance(load, PackedPatch)]
    if packed and len(packed) == len(loaders) and all(load.store is packed[0].store for load in packed):
        # One copy of all rows: with a copy of each, threads would wait for the interpreter lock after each. The rows
        # exist; `clip` only spares NumPy a second copy.
        np.take(packed[0].store, [load.row for load in packed], 0, out=pixels[: len(packed)], mode="clip")
        return Decoded(pixels[: len(packed)], {}, Remarks())
    errors: dict[int, HistoError] = {}
    remarks = Remarks()
    for position, load in enumerate(loaders):
        try:
            image = load(remarks) if isinstance(load, ImageFile | ImageArray) else load()
            pixels[position - len(errors)] = image
        except HistoError as error:
            errors[position] = error
    return Decoded(pixels[: len(loaders) - len(errors)], errors, remarks)


class DecodingProcesses:
    """Up to `count` processes that decode image files; each starts with `start` or when it is needed.

    Any number of threads may call `decode`; each call waits for an idle process. Loaders that cannot be sent to another
    process (of a member of an archive, of a row of an array), and those of a process that was killed, are called by
    this process. `close` ends the processes. They also end when this process ends, even by a signal.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()  # None for a process that is not started yet
        for _ in range(count):
            self._idle.put(None)
        self._started: list[_Worker] = []
        # Call it to end the processes at once; it also runs when this object is deleted.
        self.close = weakref.finalize(self, _end_all, self._started)

    @property
    def has_started(self) -> bool:
        """Whether a process has been started."""
        return bool(self._started)

    def start(self) -> None:
        """Start all processes now, without waiting for them, so that they are ready when they are needed."""
        for _ in range(self.count):
            worker = self._idle.get()
            try:
                worker = worker or self._start()
            except OSError:  # there are too many processes: `decode` will try again
                pass
            finally:
                self._idle.put(worker)

    def decode(self, loaders: list[Loader]) -> Decoded:
        """Do what `decode_all` does, in another process."""
        requests = _serialise(loaders)
        if requests is None:
            return decode_all(loaders)
        worker = self._idle.get()
        decoded = None
        try:
            worker = worker or self._start()
            decoded = worker.decode(requests, len(loaders))
        except (OSError, EOFError, pickle.UnpicklingError):  # the process was killed, or cannot be started
            pass
        finally:
            if worker is not None and decoded is None:  # the process may be in the middle of an answer
                worker.process.kill()
                worker = None
            self._idle.put(worker)
        return decoded or decode_all(loaders)

    def _start(self) -> "_Worker":
        """Start one more process."""
        worker = _Worker()
        self._started.append(worker)
        return worker


class _Worker:
    """A process that decodes, and the memory (256,96,96,3) that it shares with this process."""

    def __init__(self) -> None:
        descriptor = _create_shared_memory()
        try:
            self.pixels = _map_shared_memory(descriptor)
            self.process = subprocess.Popen(  # noqa: S603 - in a session of its own: Ctrl-C is for this process alone
                [sys.executable, *make_arguments(__spec__.name), str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[descriptor],
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # NumPy would start a thread for each core
            )
        finally:
            os.close(descriptor)

    def decode(self, requests: list[bytes], count: int) -> Decoded | None:
        """Decode `count` files; return None if a bug stopped the process; the caller then decodes them itself.

        Raises:
            OSError, EOFError, pickle.UnpicklingError: the process has ended, perhaps in the middle of its answer.
        """
        pixels, done = np.empty((count, *PATCH_SHAPE), np.uint8), 0
        errors: dict[int, HistoError] = {}
        remarks = Remarks()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for number, request in enumerate(requests):
            self.process.stdin.write(request)
            self.process.stdin.flush()
            answer: _Answer | None = pickle.load(self.process.stdout)  # noqa: S301 - our process
            if answer is None:
                return None
            messages, new_remarks = answer
            remarks.merge(new_remarks)
            first = number * _SHARED_PATCHES
            errors |= {first + position: HistoError(*message) for position, message in messages.items()}
            decoded = min(_SHARED_PATCHES, count - first) - len(messages)
            pixels[done : done + decoded] = self.pixels[:decoded]
            done += decoded
        return Decoded(pixels[:done], errors, remarks)


def _end_all(workers: list[_Worker]) -> None:
    """Kill the processes, wait for their ends, and close their pipes."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # a request that the process did not read cannot be flushed
                pipe.close()


def _create_shared_memory() -> int:
    """Return the descriptor of memory without a name: it is freed when the last process has ended.

    It does not use /dev/shm, which has only 64 MB in a Docker container.
    """
    size = _SHARED_PATCHES * int(np.prod(PATCH_SHAPE))
    if sys.platform == "linux":
        descriptor = os.memfd_create("histo-patches")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _map_shared_memory(descriptor: int) -> Pixels:
    return np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(-1, *PATCH_SHAPE)


def _serialise(loaders: list[Loader]) -> list[bytes] | None:
    """Serialise loaders for another process, 256 in each request; return None if one cannot be sent."""
    if not all(isinstance(load, PortableLoader) for load in loaders):
        return None
    pieces = [loaders[first : first + _SHARED_PATCHES] for first in range(0, len(loaders), _SHARED_PATCHES)]
    try:
        return [pickle.dumps(piece, pickle.HIGHEST_PROTOCOL) for piece in pieces]
    except (TypeError, pickle.PicklingError):  # a file is in an open archive
        return None


def main() -> None:
    """Decode the files in the requests on stdin until it ends, into the memory whose descriptor is the argument."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    shared = _map_shared_memory(int(sys.argv[1]))
    try:
        while True:
            loaders = pickle.load(source)  # noqa: S301 - from the process that started this one
            try:
                decoded = decode_all(loaders, shared)
            except Exception:  # noqa: BLE001 - a bug: the main process decodes these files itself, and raises it
                pickle.dump(None, target)
            else:
                messages = {position: (str(error), error.hint) for position, error in decoded.errors.items()}
                pickle.dump((messages, decoded.remarks), target)
            target.flush()
    except (EOFError, OSError):
        sys.stdout = None  # type: ignore[assignment]  # Python would flush it at exit, into a pipe that is closed


if __name__ == "__main__":
    main()
