"""Ctrl-C and SIGTERM as a wish to stop, heard at the next safe moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


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
        self.exit_code = 128 + number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Hear SIGINT, SIGTERM and SIGHUP in this block instead of dying of them."""
    request = StopRequest()
    if current_thread() is not main_thread():
        yield request  # only the main thread can hear signals
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, request.hear) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
