"""Synthetic patches drawn by processes of their own.

A drawing is hundreds of short steps, between which Python lets one thread go on at a time: two threads draw fewer
patches than one alone, two processes twice as many.
"""

import pickle
import subprocess
import sys
import weakref
from queue import SimpleQueue
from threading import Lock

import numpy as np

from histocli.data.sources import Pixels
from histocli.data.sources.synthetic.drawing import Drawing, render
from histocli.data.sources.synthetic.tissue import SIZE
from histocli.errors import HistoError

_BYTES = SIZE * SIZE * 3
_Process = subprocess.Popen[bytes]


class Artists:
    """Draws as `render` does, on up to `count` processes that start when they are needed and end when it is gone."""

    def __init__(self, count: int) -> None:
        self._to_start = count
        self._all: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._lock = Lock()
        weakref.finalize(self, _dismiss, self._all)

    def render(self, drawing: Drawing) -> Pixels:
        """Draw one patch (96,96,3) uint8 RGB; any number of threads may ask at once.

        Raises:
            HistoError: a process was killed.
        """
        artist = self._take()
        assert artist.stdin is not None
        assert artist.stdout is not None
        try:
            pickle.dump(drawing, artist.stdin)
            artist.stdin.flush()
            data = artist.stdout.read(_BYTES)
        except BrokenPipeError:
            data = b""
        finally:
            self._idle.put(artist)
        if len(data) < _BYTES:
            raise HistoError("a process that drew synthetic patches was ended from outside", "try again")
        return np.frombuffer(data, np.uint8).reshape(SIZE, SIZE, 3)

    def _take(self) -> _Process:
        with self._lock:
            if self._to_start and self._idle.empty():
                self._to_start -= 1
                self._all.append(_start())
                return self._all[-1]
        return self._idle.get()


def _start() -> _Process:
    """A process in a session of its own, so that Ctrl-C is its parent's alone; it ends when its input does."""
    line = [sys.executable, "-m", __spec__.name]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603


def _dismiss(artists: list[_Process]) -> None:
    for artist in artists:
        artist.communicate()  # closes its input, and waits


def main() -> None:
    """Draw what comes on stdin until that ends."""
    try:
        while True:
            drawing = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
            sys.stdout.buffer.write(render(drawing).tobytes())
            sys.stdout.buffer.flush()
    except (EOFError, BrokenPipeError):
        sys.stdout = None  # type: ignore[assignment]  # Python would flush it, into a pipe that may have gone


if __name__ == "__main__":
    main()
