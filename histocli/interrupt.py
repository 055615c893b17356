"""Ctrl-C and SIGTERM as a wish to stop, heard at the next safe moment."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Timer, current_thread, main_thread
from types import FrameType

_AGAIN = 0.05  # seconds until a signal that was dropped is sent again
_unwound = Event()


class StopRequest:
    """Whether a signal came, and which; a second one interrupts at once."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; at the second, give up waiting."""
        if self.signal is not None:
            raise _Heard(number)
        self.signal = number


class Stopped(KeyboardInterrupt):
    """A signal ended the work, after its state was saved; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number


class _Heard(Stopped):
    """Raised where a signal found the program; if it is freed before the program has unwound, the signal is sent again.

    For not everything lets it pass: Python drops what is raised while it frees an object or ends an import, and so
    does numpy while it looks at what it shall make an array of.
    """

    def __del__(self) -> None:
        if not _unwound.is_set():
            again = Timer(_AGAIN, os.kill, (os.getpid(), self.number))
            again.daemon = True
            again.start()


def unwind_on_termination() -> None:
    """Let SIGINT, SIGTERM and SIGHUP unwind the program, so that no temporary file stays behind."""

    def hear(number: int, frame: FrameType | None) -> None:
        raise _Heard(number)

    def drop(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, _Heard):
            sys.__unraisablehook__(dropped)

    _unwound.clear()
    for number in _heeded("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(number, hear)
    sys.unraisablehook = drop


def unwound() -> None:
    """Say that the program has unwound: nothing is left that a signal could have missed."""
    _unwound.set()


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Hear SIGINT, SIGTERM and SIGHUP in this block instead of dying of them."""
    request = StopRequest()
    if current_thread() is not main_thread():
        yield request  # only the main thread can hear signals
        return
    before = {number: signal.signal(number, request.hear) for number in _heeded("SIGINT", "SIGTERM", "SIGHUP")}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded(*names: str) -> list[signal.Signals]:
    """Those of the signals that this platform has and that are not ignored, as SIGHUP is under `nohup`."""
    numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
