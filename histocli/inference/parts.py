"""A file that several processes write: each its own parts, beside it, and finished ones outlast a job that died."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from histocli.compute.world import World
from histocli.workspace import read_json, write_json

T = TypeVar("T")
_MOST = 1024  # parts of one file


class Parts:
    """The parts of `target`, each made from so many chunks of the inputs, and who makes which.

    `own` are those that this process has still to make. Parts that are there already are kept if they were made of
    the same things, which are `what`, as plain values; all others are removed. The folder's name says of what they
    are, so that two jobs with one target never mix.
    """

    def __init__(self, target: Path, what: dict[str, Any], chunks: int, world: World) -> None:
        key = sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        self.target = target
        self.folder = target.with_name(f".{target.name}.{key}.parts")  # hidden: the target may be among its own inputs
        self.chunks = max(1, math.ceil(chunks / _MOST))  # of each part
        self.count = math.ceil(chunks / self.chunks)
        self.own = world.lead(self._open)[world.rank :: world.size]

    def _open(self) -> list[int]:
        """The numbers of the parts that are not there yet."""
        for other in self.target.parent.glob(f".{escape(self.target.name)}.*.parts"):
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(exist_ok=True)
        return [number for number in range(self.count) if not self._facts_path(number).is_file()]

    def path(self, number: int) -> Path:
        """Where a part is written."""
        return self.folder / f"{number:04}"

    def _facts_path(self, number: int) -> Path:
        return self.folder / f"{number:04}.json"

    def share(self, items: Iterable[T], chunk_size: int) -> Iterator[T]:
        """Those of the inputs that this process's parts are made from."""
        own, size = set(self.own), self.chunks * chunk_size
        return (item for i, item in enumerate(items) if i // size in own)

    def size(self, total: int, chunk_size: int) -> int:
        """How many of `total` inputs that is."""
        size = self.chunks * chunk_size
        return sum(min(size, total - number * size) for number in self.own)

    def finish(self, number: int, facts: dict[str, Any]) -> None:
        """Note that a part is whole, and what is known of it."""
        write_json(self._facts_path(number), facts)

    def facts(self) -> list[dict[str, Any]]:
        """What is known of each part, in order; all must be finished."""
        return [read_json(self._facts_path(number)) for number in range(self.count)]

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder)
