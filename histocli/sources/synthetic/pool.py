"""Draw patches in several processes, because only one thread of a process runs Python code at a time.

The pool is that of `concurrent.futures`. Its processes also work if the main script has no
`if __name__ == "__main__"`, import nothing from the working directory, and end when their parent process ends.

Results are passed in files, and only the names of these through the pool's pipe: the pool would wait for ever for the
rest of a long message if its sender was killed. A message of up to 4,096 bytes (PIPE_BUF on Linux) is written as a
whole.
"""

import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from threading import Thread
from types import ModuleType
from typing import TypeVar

from histocli.signals import catch_signals

_MAX_PROCESSES = 61  # Windows cannot wait for more
_PARENT_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]

T = TypeVar("T")
R = TypeVar("R")


def map_in_processes(function: Callable[[T], R], tasks: Iterable[T], processes: int) -> Generator[R, None, None]:
    """Yield `function(task)` for each task, in order; at most two tasks for each process are pending.

    If a process cannot be started, or is killed, this process does the work; the results are the same.
    """
    processes = min(processes, _MAX_PROCESSES)
    with _block_imports():  # multiprocessing's resource tracker is a process too: it starts with the first lock
        pool = ProcessPoolExecutor(processes, mp_context=_Context(), initializer=_prepare_process)
    pending: deque[tuple[T, Future[str] | None]] = deque()
    with TemporaryDirectory(prefix="histo-") as folder:
        save_result = partial(_save_result, function, folder)
        try:
            for task in tasks:
                pending.append((task, _submit(pool, save_result, task)))
                if len(pending) > 2 * processes:
                    yield _wait_for_result(function, *pending.popleft())
            while pending:
                yield _wait_for_result(function, *pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _save_result(function: Callable[[T], R], folder: str, task: T) -> str:
    """Write the result of a task to a new file in `folder`, and return the file's path."""
    with NamedTemporaryFile(dir=folder, delete=False) as file:
        pickle.dump(function(task), file, pickle.HIGHEST_PROTOCOL)
    return file.name


def _submit(pool: ProcessPoolExecutor, function: Callable[[T], str], task: T) -> "Future[str] | None":
    """Submit a task to the pool; return None if the pool cannot take it.

    Ctrl-C is delayed during this call: the pool would not know a process if its start was interrupted.
    """
    with catch_signals() as request:
        try:
            future = pool.submit(function, task)
        except (OSError, BrokenProcessPool):  # no process can be started, or one was killed
            future = None
    if request.signal is not None:
        signal.raise_signal(request.signal)
    return future


def _wait_for_result(function: Callable[[T], R], task: T, future: "Future[str] | None") -> R:
    """Wait for the result of a task; compute it here if the pool did not take it, or lost it with a killed process."""
    if future is None:
        return function(task)
    try:
        path = Path(future.result())
    except BrokenProcessPool:
        return function(task)
    result: R = pickle.loads(path.read_bytes())  # noqa: S301 - from a process that this one started
    path.unlink()
    return result


class _Process(SpawnProcess):
    """A process that does not import the main module again."""

    def start(self) -> None:
        """Start the process."""
        with _block_signals(), _block_imports():
            super().start()


class _Context(SpawnContext):
    """Starts new processes; a copy of this one (`fork`) could inherit locked locks."""

    Process = _Process


@contextmanager
def _block_imports() -> Iterator[None]:
    """Let processes that start in this block import nothing from the working directory, and no main module."""
    main, safe_path = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
    sys.modules["__main__"] = ModuleType("__main__")  # multiprocessing would run the file of the real one
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if safe_path is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe_path


@contextmanager
def _block_signals() -> Iterator[None]:
    """Block Ctrl-C and SIGHUP in processes that start in this block; only their parent handles these signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_process() -> None:
    """Make this process use one thread, and end when its parent ends or is killed."""
    import cv2

    cv2.setNumThreads(1)  # there are as many processes as cores
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Wait for the end of the parent process, and end this process too."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
