"""End the processes of a job when the program that launched them ends: they save, and end in bounded time."""

import os
import signal
import time
from threading import Thread

SECONDS_TO_SAVE = 120  # how long a process may take to save its state and end after SIGTERM
LAUNCHER = "HISTO_LAUNCHER"  # variable: the number of the process that started this one for `--processes`
_POLL_SECONDS = 0.5


def watch_launcher() -> None:
    """If torchrun or `histo --processes` started this process, end it when its launcher has ended.

    Otherwise the processes of a launcher that was killed with SIGKILL would never end. They get SIGTERM, so that
    they save their state, and end after `SECONDS_TO_SAVE` in any case. A suspended process ends when it is continued.
    """
    if os.name == "nt" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    number = os.environ.get(LAUNCHER, "")
    launcher = int(number) if number.isascii() and number.isdecimal() else os.getppid()
    Thread(target=_end_with_launcher, args=(launcher,), name="watch-launcher", daemon=True).start()


def _end_with_launcher(launcher: int) -> None:
    """Wait until another process is the parent of this one, and end it."""
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(128 + signal.SIGTERM)  # it waits for a process that cannot answer
