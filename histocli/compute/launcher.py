"""End the processes of a job when the program that launched them ends: they save, and end in bounded time."""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

SECONDS_TO_SAVE = 120  # how long a process may take to save its state and end after SIGTERM
LAUNCHER = "HISTO_LAUNCHER"  # variable: the number of the process that started this one for `--processes`
_POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1  # prctl(2)


def watch_launcher() -> None:
    """If torchrun or `histo --processes` started this process, end it when its launcher has ended.

    Otherwise the processes of a launcher that was killed with SIGKILL would never end. They get SIGTERM, so that
    they save their state, and end after `SECONDS_TO_SAVE` in any case.
    """
    if os.name == "nt" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    number = os.environ.get(LAUNCHER, "")
    launcher = int(number) if number.isascii() and number.isdecimal() else os.getppid()
    _continue_when_launcher_ends()
    Thread(target=_end_with_launcher, args=(launcher,), name="watch-launcher", daemon=True).start()


def _end_with_launcher(launcher: int) -> None:
    """Wait until another process is the parent of this one, and end it."""
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(128 + signal.SIGTERM)  # it waits for a process that cannot answer


def _continue_when_launcher_ends() -> None:
    """Let the system wake this process when its launcher ends: it may be suspended (Ctrl-Z, SIGSTOP)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


@contextmanager
def wake_suspended_children() -> Iterator[None]:
    """Wake the suspended children of this process when they receive SIGTERM, on Linux.

    A suspended process handles SIGTERM only after it continues, and the others of its job wait for it. Call this in
    the main thread.
    """
    if sys.platform != "linux":
        yield
        return
    is_over = Event()
    read_end, write_end = os.pipe()  # Python writes each signal that this process handles to `write_end`
    os.set_blocking(write_end, False)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    thread = Thread(target=_wake_children_until, args=(is_over, read_end), name="wake-children", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        signal.set_wakeup_fd(previous)
        os.close(read_end)
        os.close(write_end)


def _wake_children_until(is_over: Event, read_end: int) -> None:
    """Continue suspended child processes until the event is set, so that they receive their signals."""
    while not is_over.wait(_POLL_SECONDS):
        is_ending = bool(select.select([read_end], [], [], 0)[0])
        for path in Path("/proc/self/task").glob("*/children"):
            with suppress(OSError):  # a thread, or a child, that has just ended
                for child in map(int, path.read_text().split()):
                    if _is_suspended_and_ending(child, is_ending):
                        os.kill(child, signal.SIGCONT)


def _is_suspended_and_ending(pid: int, is_ending: bool) -> bool:
    """Return whether a process is suspended and has received SIGTERM; proc(5) names the fields.

    A SIGTERM that is still pending shows this. When SIGSTOP and SIGTERM arrive together, Linux delivers
    SIGTERM first and suspends the process before it can react, so where this process ends (`is_ending`), all its
    suspended children count.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return status["State"].split()[0] == "T" and (is_ending or bool(pending & 1 << (signal.SIGTERM - 1)))
