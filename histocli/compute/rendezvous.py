"""Let the processes of a job find each other, and read what torchrun knows about them."""

import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from histocli.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

RENDEZVOUS_FILE = "HISTO_RENDEZVOUS"  # variable: the file through which processes that `histo` started find each other
_TIMEOUT = timedelta(minutes=30)  # torchrun has started all processes, but perhaps on a busy machine
_FILE_TIMEOUT = timedelta(minutes=5)  # `histo` has started all processes, on this machine
_STORE_BEGIN = (9).to_bytes(4, sys.byteorder) + b"refcount/"  # of a file of torch's FileStore: the first key
_MAX_PROCESSES, _MAX_PORT = 1_000_000, 65_535
_NAME_SECONDS, _CONNECT_SECONDS, _CONNECT_INTERVAL = 20.0, 5.0, 0.2
_POLL_INTERVAL = 0.02  # seconds between two checks of the store


def is_distributed() -> bool:
    """Return whether torchrun, or a tool that sets the same variables, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def find_backend() -> str:
    """Return the libraries through which the processes exchange tensors: gloo, and on a GPU NCCL.

    NCCL refuses two processes on one GPU.
    """
    import torch

    usual = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    return os.environ.get("HISTO_DISTRIBUTED_BACKEND", usual)


def read_rank() -> int:
    """Return the rank of this process in its job; 0 for a single process.

    Raises:
        UsageError: a variable that torchrun sets has another value than torchrun gives it.
    """
    if not is_distributed():
        return 0
    size = _read_variable("WORLD_SIZE", 1, _MAX_PROCESSES)
    _read_variable("MASTER_PORT", 0, _MAX_PORT)
    if "LOCAL_RANK" in os.environ:
        _read_variable("LOCAL_RANK", 0, size - 1)
    return _read_variable("RANK", 0, size - 1)


def _read_variable(name: str, low: int, high: int) -> int:
    """Return an environment variable as a whole number."""
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise UsageError(
            f"the environment variable {name} is {text[:40]!r}, not a whole number from {low} to {high:,}",
            "start several processes with torchrun; for one process: unset RANK",
        )
    return int(text)


def find_processes() -> "tuple[Store, int, int]":
    """Wait for all processes of this job in the store that torchrun, or `histo` itself, created for them.

    Return the store, through which the processes exchange their addresses, this process's rank, and their number.

    Raises:
        UsageError: `HISTO_RENDEZVOUS` names a file that is no store.
        RuntimeError: the store cannot be reached, or a process does not appear in time.
    """
    from torch.distributed import FileStore, PrefixStore, TCPStore  # type: ignore[attr-defined]

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if RENDEZVOUS_FILE in os.environ:
        path = Path(os.environ[RENDEZVOUS_FILE])
        _check_store_file(path)
        store: Store = FileStore(str(path), size)
        prefix = agree_on_prefix(store, rank, size, _FILE_TIMEOUT)
    else:
        # torchrun's agent has the store, or process 0 creates it. TCPStore does not wait for the other processes here:
        # `agree_on_prefix` does, and Ctrl-C can interrupt it.
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        is_own = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        _wait_for_store(host, port, is_own=is_own)
        store = TCPStore(host, port, size, is_own, _TIMEOUT, wait_for_workers=False, multi_tenant=True)
        prefix = agree_on_prefix(store, rank, size)
    return PrefixStore(f"histo/{prefix}", store), rank, size


def _check_store_file(path: Path) -> None:
    """Check that `path` is a store of torch, or that torch can create a store there.

    Torch would write into any other file, or wait for ever for the rest of it. A store whose end is cut off is not
    recognised.

    Raises:
        UsageError: there is a file that does not begin like a store, or a link, or the folder does not exist.
    """
    if path.is_symlink():
        is_store = False
    elif path.is_file():
        with path.open("rb") as file:
            is_store = _STORE_BEGIN.startswith(file.read(len(_STORE_BEGIN)))  # another process may be writing it
    else:
        is_store = path.parent.is_dir() and not path.exists()
    if not is_store:
        raise UsageError(
            f"the environment variable {RENDEZVOUS_FILE} is {str(path)[:200]!r}, which is no file of a job",
            f"histo sets it for the processes that it starts: unset {RENDEZVOUS_FILE}; for one process: unset RANK",
        )


def _wait_for_store(host: str, port: int, *, is_own: bool) -> None:
    """Wait until the store accepts connections.

    If this process creates it (`is_own`), wait only until the name of its machine is known. torch would wait too, but
    Ctrl-C could not interrupt it.

    Raises:
        RuntimeError: MASTER_ADDR is the name of no machine, or nothing listens there within 30 minutes.
    """
    start = time.monotonic()
    while True:
        try:
            socket.getaddrinfo(host, port)
            if not is_own:
                socket.create_connection((host, port), _CONNECT_SECONDS).close()
        except socket.gaierror as error:
            if time.monotonic() > start + _NAME_SECONDS:
                raise RuntimeError(
                    f"MASTER_ADDR is {host!r}, and there is no machine of this name: {error.strerror}"
                ) from error
        except OSError as error:
            if time.monotonic() > start + _TIMEOUT.total_seconds():
                raise RuntimeError(f"nothing listens on port {port} of {host}: {error.strerror or error}") from error
        else:
            return
        time.sleep(_CONNECT_INTERVAL)


def agree_on_prefix(store: "Store", rank: int, size: int, timeout: timedelta = _TIMEOUT) -> str:
    """Return a key prefix that is the same for all processes of this attempt, and differs from earlier attempts.

    torchrun keeps its store when it restarts processes, with the addresses of the ended processes in it, and it gives
    no attempt number that is the same on all machines (https://github.com/pytorch/pytorch/issues/135712). Therefore
    process 0 chooses a random prefix. Every other process writes its own random key and waits for the answer
    under this key, so that it cannot read the answer to an earlier attempt.

    Raises:
        RuntimeError: a process does not appear before `timeout`.
    """
    name, deadline = uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank:
        store.set(f"histo/here/{rank}", name)
        while not store.check([f"histo/answer/{name}"]):
            _sleep_until(deadline, 0)
        prefix = store.get(f"histo/answer/{name}").decode()
        store.set(f"histo/heard/{prefix}/{rank}", "")
        return prefix
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            # The key may be of an earlier attempt: then no process reads the answer, and a later pass answers again.
            if store.check([f"histo/here/{other}"]):
                store.set(f"histo/answer/{store.get(f'histo/here/{other}').decode()}", name)
            if store.check([f"histo/heard/{name}/{other}"]):
                missing.remove(other)
        if missing:
            _sleep_until(deadline, min(missing))
    return name


def _sleep_until(deadline: float, missing: int) -> None:
    """Wait a moment, which Ctrl-C can interrupt; raise `RuntimeError` after the deadline."""
    if time.monotonic() > deadline:
        raise RuntimeError(f"rank {missing} has not connected")
    time.sleep(_POLL_INTERVAL)


def find_torchrun_agent() -> str | None:
    """Return an identifier of the torchrun that started this process, or None.

    A machine has one torchrun for each job; it keeps its identifier when it restarts its processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    # The path ends in <folder of this torchrun>/attempt_0/0/error.json.
    folder = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parts[:-3]
    return "/".join((socket.gethostname(), *folder[-2:])) if len(folder) > 1 else None


def report_to_torchrun(error: Exception) -> None:
    """Write the error to the file that torchrun reads; call this while the error is handled."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        get_error_handler().record_exception(error)
