"""Several processes of one job, as torchrun starts them: who is who, and what they tell one another.

torch is imported where it is used: the command line asks for `rank` before anything heavy is loaded.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from histocli.compute.meeting import meet
from histocli.errors import EXIT_FAILURE, HistoError
from histocli.interrupt import stop_request

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WAITING = timedelta(days=7)  # for processes that meet only at the end: one may have much more to do than another
_LAG = 2  # steps until every process knows what one of them wished for: by then the answer is there already
_PATIENCE = 20.0  # seconds a process outlives another, so that torchrun sees first which one is gone
T = TypeVar("T")


def launched() -> bool:
    """Whether torchrun, or an operator that does the same, started this process as one of a job."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def rank() -> int:
    """The number of this process in its job: 0 is the leading one, and one that is alone."""
    return int(os.environ["RANK"]) if launched() else 0


class World:
    """The processes of a job; this one is alone, so that nothing here costs it anything."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, by rank."""
        return [value]

    def lead(self, make: Callable[[], T]) -> T:
        """What `make` gives on the leading process, which alone calls it; the others wait for it."""
        return make()

    def each(self, make: Callable[[], T]) -> T:
        """What `make` gives here, once it has worked everywhere; of several errors one alone is raised."""
        return make()

    def agree(self, value: T, on: str) -> T:
        """`value`, which every process must have alike.

        Raises:
            HistoError: they see different things where `on` says.
        """
        if any(other != value for other in self.gather(value)):
            raise HistoError(f"the processes of this job see different {on}", "leave them alone while a job starts")
        return value

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest that any process gives of each value."""
        return values

    def largest_lately(self, *values: int) -> tuple[int, ...]:
        """`largest` of some calls ago: the same everywhere, and nobody waits for it."""
        return values

    def mean(self, values: "Tensor") -> "Tensor":
        """The mean over the processes of a tensor that each of them has."""
        return values

    def replicate(self, model: "nn.Module") -> "nn.Module":
        """A module that computes as `model` with the leading process's weights, and averages gradients over all."""
        return model


ALONE = World()


class Group(World):
    """The processes of a job that are connected; every method is a meeting that all of them come to, in one order."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.over = False  # whether all processes have left off at one place
        self._pending: deque[tuple[Any, Tensor]] = deque()

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, by rank; it is pickled on its way."""
        import torch.distributed as dist

        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def lead(self, make: Callable[[], T]) -> T:
        """What `make` gives on the leading process, which alone calls it; its error ends all."""
        import torch.distributed as dist

        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome = [make(), None]
            except HistoError as error:
                outcome = [None, error]
        told = [outcome[0], outcome[1] is not None]
        dist.broadcast_object_list(told, src=0)
        if told[1]:
            self._end(outcome[1] or SystemExit(EXIT_FAILURE))
        return cast(T, told[0])

    def each(self, make: Callable[[], T]) -> T:
        """What `make` gives here, once it has worked everywhere; the first process that failed says why."""
        value = failure = None
        try:
            value = make()
        except HistoError as error:
            failure = error
        failed = self.gather(failure is not None)
        if any(failed):
            self._end(failure if failure and failed.index(True) == self.rank else SystemExit(EXIT_FAILURE))
        return cast(T, value)

    def agree(self, value: T, on: str) -> T:
        """`value`, which every process must have alike, or all of them raise a HistoError."""
        try:
            return super().agree(value, on)
        except HistoError as error:
            self._end(error)

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest that any process gives of each value."""
        self._pending.append(_reduce_largest(values))
        while len(self._pending) > 1:
            self._pending.popleft()[0].wait()
        return self._oldest()

    def largest_lately(self, *values: int) -> tuple[int, ...]:
        """`largest` of `_LAG` calls ago, or zeros: a wish is heard at the same step everywhere, without waiting."""
        self._pending.append(_reduce_largest(values))
        return self._oldest() if len(self._pending) > _LAG else (0,) * len(values)

    def mean(self, values: "Tensor") -> "Tensor":
        """The mean over the processes of a floating-point tensor that each of them has."""
        import torch.distributed as dist

        total = values.clone()
        dist.all_reduce(total)
        return total.div_(self.size)

    def replicate(self, model: "nn.Module") -> "nn.Module":
        """`DistributedDataParallel`, each process with batch norm statistics of its own.

        The graph is the same at every step, so that weights which a network has and does not use are no error.
        """
        from torch.nn.parallel import DistributedDataParallel

        replica = DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)
        replica.broadcast_buffers = False  # an attribute has no two names, as the argument has in newer versions
        return replica

    def settle(self) -> None:
        """Wait for what is still under way, for the last time."""
        while self._pending:
            self._oldest()
        self.over = True

    def _end(self, error: BaseException) -> NoReturn:
        """Raise where every process does."""
        self.settle()
        raise error

    def _oldest(self) -> tuple[int, ...]:
        work, values = self._pending.popleft()
        work.wait()
        return tuple(values.tolist())


def _reduce_largest(values: Sequence[int]) -> "tuple[Any, Tensor]":
    """Begin to find the largest of each value over gloo, which asks nothing of a GPU."""
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(values, dtype=torch.int64)
    return dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor


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
