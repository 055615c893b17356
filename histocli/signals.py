"""SIGINT, SIGTERM and SIGHUP: as a wish to stop, heard at the next safe moment, or else by unwinding at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from types import FrameType

_AGAIN = 0.05  # seconds until a signal that was dropped is sent again
_unwinding = False  # whether signals unwind the program: see `unwinding_on_termination`


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
    """A signal ended the work: exit code 128 + its number; a message says how to go on from what is saved."""

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
        if _unwinding and not sys.is_finalizing():
            again = Timer(_AGAIN, _send_again, (self.number,))
            again.daemon = True
            again.start()


def _send_again(number: int) -> None:
    if _unwinding:
        os.kill(os.getpid(), number)


@contextmanager
def unwinding_on_termination() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP unwind what runs in this block, so that no temporary file stays behind."""

    def hear(number: int, frame: FrameType | None) -> None:
        raise _Heard(number)

    def drop(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, _Heard):
            sys.__unraisablehook__(dropped)

    global _unwinding
    _unwinding = True
    sys.unraisablehook = drop
    for number in _heeded("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(number, hear)
    try:
        yield
    finally:
        _unwinding = False


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
