"""SIGINT, SIGTERM and SIGHUP: stop at the next safe moment (`catch_signals`), or at once with an exception.

Both context managers restore the previous signal handlers at their end.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread, Timer, current_thread, main_thread
from types import FrameType

_RESEND_AFTER = 0.05  # seconds until a signal whose exception was dropped is sent again
_is_unwinding = False  # whether `raise_on_termination` is active
Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """The signal that was received, if any; a second signal raises an exception at once."""

    signal: int | None = None

    def __init__(self, on_signal: Callable[[], None]) -> None:
        # Python may run the handler while this thread writes to stderr, or holds a lock of the progress bar.
        self._thread = Thread(target=on_signal)

    def __bool__(self) -> bool:
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Store the first signal, and call `on_signal` in another thread; raise an exception at the second."""
        if self.signal is not None:
            raise _Signalled(number)
        self.signal = number
        self._thread.start()

    def wait(self) -> None:
        """Wait until `on_signal` has returned, if it was called."""
        if self._thread.is_alive():
            self._thread.join()


class Stopped(KeyboardInterrupt):
    """A signal stopped the command. The exit code is 128 + its number; the message says how to continue.

    `after` is the last step that is saved, such as "step 3 of 12", if there are steps.
    """

    def __init__(self, number: int, message: str = "", after: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.after = after
        self.exit_code = 128 + number


class _Signalled(Stopped):
    """Raised by a signal handler; if other code drops this exception, the signal is sent again.

    Python drops an exception that is raised while it frees an object or finishes an import, and NumPy drops one that is
    raised while it converts an object to an array. If this exception is freed before the block of
    `raise_on_termination` has ended, it was dropped.
    """

    def __del__(self) -> None:
        if _is_unwinding and not sys.is_finalizing():
            again = Timer(_RESEND_AFTER, _resend_while_unwinding, (self.number,))
            again.daemon = True
            again.start()


def _resend_while_unwinding(number: int) -> None:
    """Send signal `number` to this process again, if the block of `raise_on_termination` has not ended."""
    if _is_unwinding:
        os.kill(os.getpid(), number)


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise `Stopped` at SIGINT, SIGTERM and SIGHUP in this block, so that `finally` removes temporary files."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Signalled(number)

    def ignore_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, _Signalled):
            hook(dropped)

    global _is_unwinding
    _is_unwinding, hook = True, sys.unraisablehook
    sys.unraisablehook = ignore_dropped
    try:
        with _set_handlers(handle):
            yield
    finally:
        _is_unwinding, sys.unraisablehook = False, hook


@contextmanager
def catch_signals(on_signal: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Store SIGINT, SIGTERM and SIGHUP in this block instead of ending the process.

    At the first signal, `on_signal` is called in another thread, so that it can print a message.
    """
    request = StopRequest(on_signal)
    if current_thread() is not main_thread():
        yield request  # only the main thread can set signal handlers
        return
    with _set_handlers(request.handle):
        try:
            yield request
        finally:
            request.wait()  # so that its message is not printed after that of the error


@contextmanager
def _set_handlers(handler: Handler) -> Iterator[None]:
    """Set the handler of each signal that is not ignored (`nohup` ignores SIGHUP); restore the old ones at the end."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
