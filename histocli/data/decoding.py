"""Image files decoded in processes of their own.

Threads share Python's interpreter lock, so that some 10,000 patches are decoded in a second whatever the number of
cores; that is too slow for a GPU. Processes have a lock each. They receive the files' names through a pipe, and send
the pixels back through another one.
"""

import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, NamedTuple

import numpy as np

from histocli.child import arguments
from histocli.config import Resize
from histocli.data.images import PATCH_SIZE, decode_patch
from histocli.errors import HistoError
from histocli.sources import Pixels
from histocli.sources.files import File, read_bytes

_PIPE_BYTES = 1 << 20  # what a pipe holds: with more than the usual 64 KB there are fewer calls for a chunk
_PATCH_SHAPE = (PATCH_SIZE, PATCH_SIZE, 3)
_Process = subprocess.Popen[bytes]
Loader = Callable[[], Pixels]


class ImageFile(NamedTuple):
    """Reads an image file and returns it as a patch (96,96,3); can be sent to another process if `read` can."""

    name: str
    read: Callable[[], bytes]
    resize: Resize

    def __call__(self) -> Pixels:
        """Read and decode the file.

        Raises:
            HistoError: it cannot be read, or is not an image.
        """
        return decode_patch(read_bytes(File(self.name, self.read)), self.name, self.resize)


class Decoded(NamedTuple):
    """Pixels (k,96,96,3) of the files that could be decoded, in order, and the errors of the others by position."""

    pixels: Pixels
    errors: dict[int, HistoError]


def decode_all(loaders: list[Loader]) -> Decoded:
    """Load each patch; the errors of those that cannot be read stand beside the others."""
    pixels: list[Pixels] = []
    errors: dict[int, HistoError] = {}
    for position, load in enumerate(loaders):
        try:
            pixels.append(load())
        except HistoError as error:
            errors[position] = error
    return Decoded(np.stack(pixels) if pixels else np.empty((0, *_PATCH_SHAPE), np.uint8), errors)


class DecodingProcesses:
    """Up to `count` processes that decode image files; they start when they are needed, and end with `close`.

    Any number of threads may call `decode`; each call waits for an idle process. This process decodes itself what
    cannot be sent (a member of an archive, a row of an array), and in the place of a process that was killed.
    """

    def __init__(self, count: int) -> None:
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()  # None for a process that is not started yet
        for _ in range(count):
            self._idle.put(None)
        self._started: list[_Process] = []
        self._close = weakref.finalize(self, _end_all, self._started)

    def decode(self, loaders: list[Loader]) -> Decoded:
        """Do what `decode_all` does, in another process."""
        request = _serialise(loaders)
        if request is None:
            return decode_all(loaders)
        process = self._idle.get()
        decoded = None
        try:
            process = process or self._start()
            decoded = _ask(process, request, len(loaders))
        except OSError:  # it was killed, or cannot be started
            pass
        finally:
            if process is not None and decoded is None:  # it may be in the middle of an answer
                process.kill()
                process = None
            self._idle.put(process)
        return decoded or decode_all(loaders)

    def close(self) -> None:
        """End the processes at once."""
        self._close()

    def _start(self) -> _Process:
        process = subprocess.Popen(  # noqa: S603 - in a session of its own: Ctrl-C is for this process alone
            [sys.executable, *arguments(__spec__.name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.append(process)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            _enlarge(pipe)
        return process


def _end_all(processes: list[_Process]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what the process did not read cannot be flushed any more
                pipe.close()


def _serialise(loaders: list[Loader]) -> bytes | None:
    """Serialise image files for another process; None where one of them cannot be sent."""
    if not all(isinstance(load, ImageFile) for load in loaders):
        return None
    try:
        return pickle.dumps(loaders, pickle.HIGHEST_PROTOCOL)
    except (TypeError, pickle.PicklingError):  # it holds an open archive
        return None


def _enlarge(pipe: IO[bytes]) -> None:
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # the user's pipes are too large together: it stays as it is
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _ask(process: _Process, request: bytes, count: int) -> Decoded | None:
    """Send a request, and return the answer; None if the process had a bug, which this process will then raise."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    try:
        messages: dict[int, tuple[str, str]] | None = pickle.load(process.stdout)  # noqa: S301 - from our own process
    except EOFError:
        return None
    if messages is None:
        return None
    pixels = np.empty((count - len(messages), *_PATCH_SHAPE), np.uint8)
    if process.stdout.readinto(pixels.reshape(-1).data) != pixels.nbytes:  # type: ignore[attr-defined]
        return None
    return Decoded(pixels, {position: HistoError(*message) for position, message in messages.items()})


def main() -> None:
    """Decode the files that are named on stdin until it ends."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    try:
        while True:
            loaders = pickle.load(source)  # noqa: S301 - from the process that started this one
            try:
                pixels, errors = decode_all(loaders)
            except Exception:  # noqa: BLE001 - a bug: the other process decodes these files too, and meets it
                pickle.dump(None, target)
            else:
                pickle.dump({position: (str(error), error.hint) for position, error in errors.items()}, target)
                target.write(pixels.data)
            target.flush()
    except (EOFError, OSError):
        sys.stdout = None  # type: ignore[assignment]  # Python would flush it at exit, into a pipe that is closed


if __name__ == "__main__":
    main()
