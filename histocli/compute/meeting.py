"""Where the processes of a job meet: a place in torchrun's store that no earlier attempt of the job has used."""

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

MEETING = "HISTO_MEETING"  # the variable with the file through which processes meet that `histo` itself started
_PATIENCE = timedelta(minutes=30)  # for processes that torchrun has started, but perhaps on a machine that is busy
_PAUSE = 0.02  # seconds between looks


class Meeting(NamedTuple):
    """What processes exchange addresses through, and this one's number among so many."""

    store: "Store"
    rank: int
    size: int


def meet() -> Meeting:
    """Meet all processes of this job in the store that torchrun, or `histo`, made for them.

    Raises:
        RuntimeError: the store cannot be reached, or one of the processes does not appear.
    """
    from torch.distributed import FileStore, PrefixStore, rendezvous  # type: ignore[attr-defined]

    if MEETING in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return Meeting(FileStore(os.environ[MEETING], size), rank, size)
    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    return Meeting(PrefixStore(f"histo/{agreed_name(store, rank, size)}", store), rank, size)


def agreed_name(store: "Store", rank: int, size: int) -> str:
    """A name that all processes of this attempt give their place, and no earlier attempt did.

    torchrun keeps its store when it restarts processes, with the dead ones' addresses in it, and tells no number that
    all machines would know an attempt by (https://github.com/pytorch/pytorch/issues/135712). So process 0 invents a
    name for this attempt, and tells it to those who say that they are there: each under a name of its own, so that
    nobody takes an old answer for his.
    """
    from torch.distributed import DistError

    name = uuid4().hex
    if rank:
        store.set(f"histo/here/{rank}", name)
        name = store.get(f"histo/answer/{name}").decode()
        store.set(f"histo/heard/{name}/{rank}", "")
        return name
    missing, until = set(range(1, size)), time.monotonic() + _PATIENCE.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"histo/here/{other}"]):  # perhaps an earlier attempt's: then nobody hears the answer
                store.set(f"histo/answer/{store.get(f'histo/here/{other}').decode()}", name)
            if store.check([f"histo/heard/{name}/{other}"]):
                missing.remove(other)
        if time.monotonic() > until:
            raise DistError(f"process {min(missing)} does not appear")
        time.sleep(_PAUSE)
    return name
