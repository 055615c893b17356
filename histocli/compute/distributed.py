"""Several processes of one job, as torchrun starts them: who is who, and how they join and part.

torch is imported where it is used: the command line asks for `rank` before anything heavy is loaded.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from histocli.compute.meeting import meet
from histocli.compute.world import ALONE, Group, World
from histocli.errors import HistoError
from histocli.signals import stop_request

if TYPE_CHECKING:
    import torch

WAITING = timedelta(days=7)  # for processes that meet only at the end: one may have much more to do than another
_PATIENCE = 20.0  # seconds a process outlives another, so that torchrun sees first which one is gone


def launched() -> bool:
    """Whether torchrun, or an operator that does the same, started this process as one of a job."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def rank() -> int:
    """The number of this process in its job: 0 is the leading one, and one that is alone."""
    return int(os.environ["RANK"]) if launched() else 0


@contextmanager
def joined(patience: timedelta = timedelta(minutes=30)) -> Iterator[World]:
    """Connect the processes of this job, if it is one of several; inside, one that fails tells torchrun why.

    A process that waits for others longer than `patience` gives up.

    Raises:
        HistoError: they cannot reach one another, or another one is gone.
    """
    if not launched():
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    # Before the group is there: its functions' defaults, made on import, would hold the group to the end of Python,
    # when a thread of gloo's that still frees a tensor aborts the process. `DistributedDataParallel` imports it too.
    import torch.distributed.nn

    try:
        meeting = meet()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _stdout_to_stderr():  # torch 2.9's gloo tells there whom it is connected to
            dist.init_process_group(
                backend, store=meeting.store, rank=meeting.rank, world_size=meeting.size, timeout=patience
            )
    except (RuntimeError, ValueError) as error:
        _tell_torchrun(error)
        raise HistoError(
            f"the processes of this job cannot reach one another: {(str(error) or repr(error)).splitlines()[0]}",
            "where there are several network interfaces, name one: GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
        ) from error
    group = Group(meeting.rank, meeting.size)
    try:
        yield group
        group.settle()
    except Exception as error:
        if isinstance(error, RuntimeError) and _is_of_a_connection(error):
            _outlive(error)
        _tell_torchrun(error)
        raise
    finally:
        if group.over:  # else another process may be waiting for this one, and this one would wait for it
            dist.destroy_process_group()


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what libraries print on stdout in this block: it carries results alone."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _is_of_a_connection(error: RuntimeError) -> bool:
    """Whether a collective call failed; gloo's own errors are plain ones that begin with its source file."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def _outlive(error: RuntimeError) -> NoReturn:
    """Wait to be stopped: torchrun blames the process that ends first, and that must be the one that failed."""
    with stop_request() as stop:
        until = time.monotonic() + _PATIENCE
        while not stop and time.monotonic() < until:
            time.sleep(0.05)
    raise HistoError(
        "another process of this job is gone",
        "torchrun names it below; torchrun --max-restarts 3 goes on from what is saved",
    ) from error


def _tell_torchrun(error: Exception) -> None:
    """Leave the error where torchrun looks for it; called while it is handled."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        get_error_handler().record_exception(error)


def own_gpu() -> "torch.device":
    """The GPU that this process of several has to itself, from now on the current one.

    Raises:
        HistoError: this machine has fewer GPUs than processes.
    """
    import torch

    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if count == 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):  # a scheduler shows each process its own GPU alone
        number = 0
    if number >= count:
        raise HistoError(
            f"process {number + 1} on {socket.gethostname()} has no GPU: there are {count}",
            f"torchrun --nproc-per-node {count}, or --device cpu",
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def agents(world: World) -> set[str]:
    """The torchruns that started the processes of this job; each lives on one machine, and as long as its job.

    Any one of them that was there before a restart tells that the job is the same.
    """
    own = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        folder = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parts[:-3]  # .../attempt_0/0/error.json: its own
        own = "/".join((socket.gethostname(), *folder[-2:])) if len(folder) > 1 else None
    return set(filter(None, world.gather(own)))
