"""The processes of one job, and what they tell one another.

torch is imported where it is used: the command line knows of processes before anything heavy is loaded.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from histocli.errors import EXIT_FAILURE, HistoError

if TYPE_CHECKING:
    from torch import Tensor, nn

_LAG = 2  # steps until every process knows what one of them wished for: by then the answer is there already
T = TypeVar("T")


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
