"""A file that is written in parts, so that a job that was killed continues from the parts that are finished.

The parts lie in a hidden folder beside the file. Each is written by one process of the job, and has a JSON file with
what is known of it: its size and checksum, by which a damaged part is recognised, and the counts of its patches.
"""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from histocli.compute.ddp import Ranks
from histocli.errors import HistoError
from histocli.fs import make_folder, write_error
from histocli.workspace import read_json

T = TypeVar("T")
_MOST_PARTS = 1024  # of one file
_CHUNKS_OF_A_PART = 32  # where the file is large enough: 2,048 patches on a CPU, 32,768 on a GPU
_FEWEST_PARTS = 64  # of a file that has so many chunks: for several processes to share
_LONGEST_NAME = 200  # characters of the file's name in the folder's: file systems allow some 255
_READ = 1 << 20  # bytes


class Parts:
    """The parts of the file `target`; each has the rows of the same number of chunks of patches.

    `made_of` holds everything that decides what the parts contain, as values that JSON can hold. A folder of parts that
    were made of something else is removed. `unfinished` are the numbers of the parts that were not finished before,
    and `own` are those that this process is to make.

    Raises:
        HistoError: the folder cannot be written.
    """

    def __init__(self, target: Path, made_of: dict[str, Any], chunks: int, ranks: Ranks) -> None:
        key = sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        self.target = target
        # The folder is hidden because the file may lie in a folder that is an input itself.
        self.folder = target.with_name(f".{target.name[:_LONGEST_NAME]}.{key}.parts")
        few = min(_CHUNKS_OF_A_PART, math.ceil(chunks / _FEWEST_PARTS))
        self.chunks = max(1, few, math.ceil(chunks / _MOST_PARTS))  # of each part
        self.count = math.ceil(chunks / self.chunks)
        self.unfinished = ranks.on_rank0(self._prepare)
        self.own = self.unfinished[ranks.rank :: ranks.size]

    def _prepare(self) -> list[int]:
        """Remove the parts of other jobs, and return the numbers of the unfinished parts of this one."""
        try:
            for other in self.target.parent.glob(f".{escape(self.target.name[:_LONGEST_NAME])}.*.parts"):
                if other != self.folder:
                    shutil.rmtree(other)
            make_folder(self.folder)
            return [number for number in range(self.count) if not self._is_finished(number)]
        except OSError as error:
            raise write_error(self.target, error) from error

    def path(self, number: int) -> Path:
        """Return where a part is written."""
        return self.folder / f"{number:04}"

    def _facts_path(self, number: int) -> Path:
        return self.folder / f"{number:04}.json"

    def _is_finished(self, number: int) -> bool:
        """Whether a part is there as it was written: after a loss of power it may not be."""
        try:
            facts = read_json(self._facts_path(number))
            return bool(facts["bytes"] == self.path(number).stat().st_size and facts["crc32"] == self._crc32(number))
        except (HistoError, OSError, KeyError, TypeError):
            return False

    def _crc32(self, number: int) -> int:
        checksum = 0
        with self.path(number).open("rb") as file:
            while block := file.read(_READ):
                checksum = zlib.crc32(block, checksum)
        return checksum

    def share(self, items: Iterable[T], chunk_size: int) -> Iterator[T]:
        """Yield those of the inputs that this process's parts are made from."""
        own, size = set(self.own), self.chunks * chunk_size
        return (item for i, item in enumerate(items) if i // size in own)

    def share_size(self, total: int, chunk_size: int) -> int:
        """Return how many of `total` inputs `share` yields."""
        return self._patches(self.own, total, chunk_size)

    def unfinished_size(self, total: int, chunk_size: int) -> int:
        """Return how many of `total` inputs belong to unfinished parts, of all processes."""
        return self._patches(self.unfinished, total, chunk_size)

    def _patches(self, numbers: list[int], total: int, chunk_size: int) -> int:
        size = self.chunks * chunk_size
        return sum(min(size, total - number * size) for number in numbers)

    @contextmanager
    def write(self, number: int, counts: Callable[[], dict[str, Any]]) -> Iterator[Path]:
        """Give the path to write a part to; at the end of the block, mark the part as finished.

        `counts` is called at the end of the block; `read_counts` will return what it returns.

        Raises:
            HistoError: the part cannot be written.
        """
        try:
            yield self.path(number)
            facts = {"bytes": self.path(number).stat().st_size, "crc32": self._crc32(number), "counts": counts()}
            temporary = self.folder / f"{number:04}.tmp"
            temporary.write_text(json.dumps(facts), encoding="utf-8")
            temporary.replace(self._facts_path(number))
        except OSError as error:
            raise write_error(self.target, error) from error

    def read_counts(self, number: int) -> Any:
        """Return the counts of a finished part."""
        return read_json(self._facts_path(number))["counts"]

    def remove_unless_begun(self) -> None:
        """Remove the folder if no part in it is finished, so that a job that failed at once leaves nothing."""
        if not any(self.folder.glob("*.json")):
            self.remove()

    def remove(self) -> None:
        """Remove the folder with all parts."""
        shutil.rmtree(self.folder)
