"""Synthetic patches drawn by processes of their own.

A drawing is hundreds of short steps, between which Python lets one thread go on at a time: two threads draw fewer
patches than one alone, two processes twice as many.
"""

import pickle
import subprocess
import sys
import weakref
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock

import cv2
import numpy as np

from histocli.child import arguments
from histocli.sources import Pixels
from histocli.sources.synthetic.drawing import Drawing, render
from histocli.sources.synthetic.tissue import SIZE

_BYTES = SIZE * SIZE * 3
_Process = subprocess.Popen[bytes]


class Artists:
    """Draws as `render` does, on up to `count` processes that start when they are needed and end when it is gone.

    In the place of one that cannot be started, or was killed, this process draws itself: the bytes are the same.
    """

    def __init__(self, count: int) -> None:
        self._to_start = count
        self._all: list[_Process] = []
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()  # None for one that is no more
        self._lock = Lock()
        weakref.finalize(self, _dismiss, self._all)

    def render(self, drawing: Drawing) -> Pixels:
        """Draw one patch (96,96,3) uint8 RGB; any number of threads may ask at once."""
        artist = self._take()
        data = b""
        try:
            if artist is not None:
                data = _asked(artist, drawing)
        finally:  # one that was left in the middle would answer the next with this patch
            whole = len(data) == _BYTES
            if artist is not None and not whole:
                artist.kill()
            self._idle.put(artist if whole else None)
        return np.frombuffer(data, np.uint8).reshape(SIZE, SIZE, 3) if whole else render(drawing)

    def _take(self) -> _Process | None:
        with self._lock:
            if self._to_start and self._idle.empty():
                self._to_start -= 1
                artist = _start()
                self._all += [artist] if artist else []
                return artist
        return self._idle.get()


def _start() -> _Process | None:
    """A process in a session of its own, so that Ctrl-C is its parent's alone; it ends when its input does."""
    line = [sys.executable, *arguments(__spec__.name)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.Popen(line, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]  # noqa: S603
    except OSError:  # there is no room for another process
        return None


def _asked(artist: _Process, drawing: Drawing) -> bytes:
    """What a process answers, and less than a patch where it has gone."""
    assert artist.stdin is not None
    assert artist.stdout is not None
    try:
        pickle.dump(drawing, artist.stdin)
        artist.stdin.flush()
    except OSError:
        return b""
    return artist.stdout.read(_BYTES)


def _dismiss(artists: list[_Process]) -> None:
    for artist in artists:
        with suppress(OSError):  # what was not sent cannot be flushed to one that has gone
            artist.stdin.close()  # type: ignore[union-attr]
    for artist in artists:
        artist.wait()
        artist.stdout.close()  # type: ignore[union-attr]


def main() -> None:
    """Draw what comes on stdin until that ends."""
    cv2.setNumThreads(1)  # as many processes as there are cores
    try:
        while True:
            drawing = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
            sys.stdout.buffer.write(render(drawing).tobytes())
            sys.stdout.buffer.flush()
    except (EOFError, OSError):
        sys.stdout = None  # type: ignore[assignment]  # Python would flush it, into a pipe that may have gone


if __name__ == "__main__":
    main()
