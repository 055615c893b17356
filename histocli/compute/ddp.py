"""Several processes of one job, as torchrun starts them, and the values that they exchange.

Only this module, `rendezvous` and `launch` use torch.distributed. They import torch inside functions: every command
reads its rank at its start, and importing torch would make commands slow that do not need it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from histocli.compute.rendezvous import (
    find_backend,
    find_processes,
    find_torchrun_agent,
    is_distributed,
    report_to_torchrun,
)
from histocli.errors import EXIT_FAILURE, HistoError
from histocli.signals import catch_signals

if TYPE_CHECKING:
    from torch import Tensor, nn

LONG_TIMEOUT = timedelta(days=7)  # for processes that only wait for each other at the end, after unequal work
_DELAY = 2  # calls of `all_max_async` until its result is returned, which has arrived by then
_EXIT_DELAY = 20.0  # seconds that a process waits after another one has failed, so that torchrun names that one
T = TypeVar("T")


class Ranks:
    """The processes of a job. This base class is a job of one process: its methods return at once."""

    rank = 0
    size = 1  # the number of processes

    @property
    def is_rank0(self) -> bool:
        """Whether this is process 0, the only one that writes files and prints results."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Return the `value` of every process, ordered by rank."""
        return [value]

    def on_rank0(self, function: Callable[[], T]) -> T:
        """Call `function` on process 0 only; return its result on every process."""
        return function()

    def on_all_ranks(self, function: Callable[[], T]) -> T:
        """Call `function` on every process; return its result if no process failed, else raise one error for all."""
        return function()

    def check_equal(self, value: object, what: str, hint: str = "do not change the files while a job starts") -> None:
        """Check that `value` is the same on every process; `what` names it in the error.

        Raises:
            HistoError: the values differ.
        """
        if any(other != value for other in self.all_gather(value)):
            self._stop(HistoError(f"the processes of this job have different {what}", hint))

    def all_max(self, value: int) -> int:
        """Return the maximum of `value` over the processes."""
        return value

    def all_max_async(self, *values: int) -> tuple[int, ...]:
        """Return the maximum over the processes of each value that was given a few calls ago, without waiting."""
        return values

    def all_mean(self, values: "Tensor") -> "Tensor":
        """Return the mean over the processes of a floating-point tensor."""
        return values

    def wrap_model(self, model: "nn.Module") -> "nn.Module":
        """Return a module with the weights of process 0 whose gradients are averaged over the processes."""
        return model

    def _stop(self, error: BaseException) -> NoReturn:
        """Raise an error at a call where every other process raises one too."""
        raise error


SINGLE_PROCESS = Ranks()


class ProcessGroup(Ranks):
    """The connected processes of a job. All of them must call the same methods in the same order."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.is_finished = False  # whether all processes have stopped at the same call
        self._pending: deque[tuple[Any, Tensor]] = deque()

    def all_gather(self, value: T) -> list[T]:
        """Return the `value` of every process, ordered by rank; it must be possible to pickle it."""
        import torch.distributed as dist

        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def on_rank0(self, function: Callable[[], T]) -> T:
        """Call `function` on process 0 only; return its result on every process, or stop all with its error."""
        import torch.distributed as dist

        message = [self.on_all_ranks(lambda: function() if self.is_rank0 else None)]
        dist.broadcast_object_list(message, src=0)
        return cast(T, message[0])

    def on_all_ranks(self, function: Callable[[], T]) -> T:
        """Call `function` on every process; if some fail, the first of them raises its error and the others exit."""
        result: T | None = None
        error: HistoError | None = None
        try:
            result = function()
        except HistoError as raised:
            error = raised
        has_failed = self.all_gather(error is not None)
        if any(has_failed):
            is_first = has_failed.index(True) == self.rank
            self._stop(error if error and is_first else SystemExit(EXIT_FAILURE))
        return cast(T, result)

    def all_max(self, value: int) -> int:
        """Return the maximum of `value` over the processes."""
        self._pending.append(_start_max_all_reduce([value]))
        while len(self._pending) > 1:
            self._pending.popleft()[0].wait()
        return self._take_oldest_result()[0]

    def all_max_async(self, *values: int) -> tuple[int, ...]:
        """Return the result for the values of `_DELAY` calls ago, or zeros before that: the same on every process."""
        self._pending.append(_start_max_all_reduce(values))
        return self._take_oldest_result() if len(self._pending) > _DELAY else (0,) * len(values)

    def all_mean(self, values: "Tensor") -> "Tensor":
        """Return the mean over the processes of a floating-point tensor."""
        import torch.distributed as dist

        total = values.clone()
        dist.all_reduce(total)
        return total.div_(self.size)

    def wrap_model(self, model: "nn.Module") -> "nn.Module":
        """Return the model as `DistributedDataParallel`; each process keeps its own batch norm statistics.

        The graph is static, so that a network may have weights that it does not use. One process has no gradients to
        exchange: it gets the model as it is.
        """
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)
        wrapped.broadcast_buffers = False  # newer versions of PyTorch rename the argument, but not the attribute
        return wrapped

    def finish(self) -> None:
        """Wait for all exchanges that are still running; no more may follow."""
        while self._pending:
            self._take_oldest_result()
        self.is_finished = True

    def _stop(self, error: BaseException) -> NoReturn:
        """Raise an error at a call where every other process raises one too."""
        self.finish()
        raise error

    def _take_oldest_result(self) -> tuple[int, ...]:
        """Wait for the oldest reduction that was started, and return its result."""
        work, values = self._pending.popleft()
        work.wait()
        return tuple(values.tolist())


def _start_max_all_reduce(values: Sequence[int]) -> "tuple[Any, Tensor]":
    """Start to compute the maximum of each value; return the work handle and the tensor that will hold the result.

    The tensor is on the CPU, so that gloo reduces it and no GPU has to wait.
    """
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(values, dtype=torch.int64)
    return dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor


@contextmanager
def connect_processes(timeout: timedelta = timedelta(minutes=30)) -> Iterator[Ranks]:
    """Connect the processes of this job in this block; a process that fails inside it reports its error to torchrun.

    `timeout` is how long a process waits for the others before it gives up.

    Raises:
        HistoError: the processes cannot connect, or another process has ended.
    """
    if not is_distributed():
        yield SINGLE_PROCESS
        return
    group = _connect(timeout)
    try:
        yield group
        group.finish()
    except Exception as error:
        if isinstance(error, RuntimeError) and _is_connection_error(error):
            _exit_after_the_failed_process(error)
        report_to_torchrun(error)
        raise
    finally:
        if group.is_finished:  # otherwise another process may be waiting for this one, and this call would wait for it
            import torch.distributed as dist

            dist.destroy_process_group()


def _connect(timeout: timedelta) -> ProcessGroup:
    """Find the other processes of this job and connect to them."""
    import torch.distributed as dist

    # Import this before the group exists: on import, default arguments of its functions keep a reference to the group
    # until Python ends, and a thread of gloo that still frees a tensor then aborts the process.
    # `DistributedDataParallel` imports it too.
    import torch.distributed.nn  # noqa: F401

    try:
        store, rank, size = find_processes()
        with _stdout_to_stderr():  # gloo in PyTorch 2.9 prints its connections on stdout
            dist.init_process_group(find_backend(), store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        report_to_torchrun(error)
        raise HistoError(
            f"the processes of this job cannot connect: {(str(error) or repr(error)).splitlines()[0]}",
            "if there are several network interfaces, name one: GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
        ) from error
    return ProcessGroup(rank, size)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what libraries print on stdout in this block, because stdout is for results only."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _is_connection_error(error: RuntimeError) -> bool:
    """Return whether a collective call failed; gloo raises plain RuntimeErrors that begin with its source file."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def _exit_after_the_failed_process(error: RuntimeError) -> NoReturn:
    """Wait for a signal, then raise: torchrun reports the process that ends first, which must be the failed one."""
    with catch_signals() as stop:
        deadline = time.monotonic() + _EXIT_DELAY
        while not stop and time.monotonic() < deadline:
            time.sleep(0.05)
    _, _, nccl_error = str(error).partition("Last error:")
    reason = f", or NCCL failed: {nccl_error.strip().splitlines()[0]}" if nccl_error.strip() else ""
    raise HistoError(
        f"another process of this job has ended{reason}",
        "torchrun names it below; torchrun --max-restarts 3 continues from the saved state",
    ) from error


def gather_torchrun_agents(ranks: Ranks) -> set[str]:
    """Return the torchrun agent of each machine; two jobs with a common agent are one job that was restarted."""
    return set(filter(None, ranks.all_gather(find_torchrun_agent())))
