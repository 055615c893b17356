"""Ctrl-C and SIGTERM as a wish to stop, heard at the next safe moment."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from types import FrameType

_AGAIN = 0.05  # seconds until a signal that was dropped is sent again


class StopRequest:
    """Whether a signal came, and which; a second one interrupts at once."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; at the second, give up waiting."""
        if self.signal is not None:
            raise Stopped(number)
        self.signal = number


class Stopped(KeyboardInterrupt):
    """A signal ended the work, after its state was saved; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number


def unwind_on_termination() -> None:
    """Let SIGTERM and SIGHUP unwind the program as Ctrl-C does, so that no temporary file stays behind.

    Python drops what is raised while it frees an object or ends an import; then the signal is sent again.
    """

    def hear(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    def hear_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)
            return
        number = dropped.exc_value.number if isinstance(dropped.exc_value, Stopped) else signal.SIGINT
        Timer(_AGAIN, os.kill, (os.getpid(), number)).start()

    for number in _heeded("SIGTERM", "SIGHUP"):
        signal.signal(number, hear)
    sys.unraisablehook = hear_again


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
