"""Write a file in parts: a job that was killed continues from the finished parts.

The parts are in a hidden folder next to the file. Each part is written by one process of the job. Its JSON file has
its size and checksum, which show whether the part is damaged, the counts of its patches, and the sizes and times of
the image files that it was made from.
"""

import json
import math
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TypeVar

from histocli.atomic import read_json
from histocli.compute.ddp import Ranks
from histocli.errors import HistoError
from histocli.files.file import DiskReader
from histocli.fs import make_folder, make_write_error, shorten_name
from histocli.schema import from_json, to_json
from histocli.unchanged import find_state

T = TypeVar("T")
_MAX_PARTS = 1024  # the largest number of parts of one file
_CHUNKS_PER_PART = 32  # 2,048 patches on a CPU, 32,768 on a GPU; fewer if the file is small
_MIN_PARTS = 64  # a file with enough chunks has at least this many, so that several processes have work
_ANY_FINGERPRINT = "[0-9a-f]" * 16  # a glob pattern: `*` would also match the parts of another file, `NAME.csv`


class Parts:
    """The parts of the file `target`, which has `total` rows; each part has whole chunks of `chunk_size` rows.

    `fingerprint` is a hash of everything that the content of the parts depends on. A folder of parts with another
    fingerprint is removed. `unfinished` holds the numbers of the unfinished parts, and
    `assigned` the numbers of those that this process writes.

    Raises:
        HistoError: the folder cannot be written.
    """

    def __init__(self, target: Path, fingerprint: str, total: int, chunk_size: int, ranks: Ranks) -> None:
        self.target, self.total = target, total
        # The folder is hidden because the file may lie in a folder that is an input itself.
        self.folder = target.with_name(f".{shorten_name(target.name)}.{fingerprint[:16]}.parts")
        chunks = math.ceil(total / chunk_size)
        usual = min(_CHUNKS_PER_PART, math.ceil(chunks / _MIN_PARTS))
        self.chunks_per_part = max(1, usual, math.ceil(chunks / _MAX_PARTS))
        self.patches_per_part = self.chunks_per_part * chunk_size
        self.count = math.ceil(chunks / self.chunks_per_part)
        self.unfinished = ranks.on_rank0(self._prepare)
        self.assigned = self.unfinished[ranks.rank :: ranks.size]
        self._states: defaultdict[int, dict[str, list[int] | None]] = defaultdict(dict)  # of files, by part and path

    def _prepare(self) -> list[int]:
        """Remove the parts of other jobs, and return the numbers of the unfinished parts of this one."""
        try:
            for other in self.target.parent.glob(f".{escape(shorten_name(self.target.name))}.{_ANY_FINGERPRINT}.parts"):
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)
            make_folder(self.folder)
            return sorted(set(range(self.count)) - set(self.list_finished()))
        except OSError as error:
            raise make_write_error(self.target, error) from error

    def list_finished(self) -> list[int]:
        """Return the numbers of the parts that are finished now."""
        return [number for number in range(self.count) if self._is_finished(number)]

    def part_path(self, number: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"{number:04}"

    def _metadata_path(self, number: int) -> Path:
        return self.folder / f"{number:04}.json"

    def _is_finished(self, number: int) -> bool:
        """Return whether a part is there, not damaged by a power failure, and made from the files as they are now."""
        try:
            metadata, content = read_json(self._metadata_path(number)), self.part_path(number).read_bytes()
            return bool(
                metadata["bytes"] == len(content)
                and metadata["crc32"] == zlib.crc32(content)
                and all(_find_state(path) == state for path, state in metadata["files"].items())
            )
        except (HistoError, OSError, KeyError, TypeError, AttributeError):
            return False

    def select_share(self, patches: Iterable[T]) -> Iterator[T]:
        """Yield the patches that belong to the parts of this process; note the size and time of each image file."""
        assigned = set(self.assigned)
        for i, patch in enumerate(patches):
            if (number := i // self.patches_per_part) in assigned:
                reader = getattr(getattr(patch, "load", None), "read", None)
                if isinstance(reader, DiskReader):  # not in an archive, whose time and size `fingerprint` depends on
                    self._states[number][reader.path] = _find_state(reader.path)
                yield patch

    def count_patches(self, numbers: list[int]) -> int:
        """Return the number of patches in the parts with these numbers; the last part of the file may be shorter."""
        size = self.patches_per_part
        return sum(min(size, self.total - number * size) for number in numbers)

    @contextmanager
    def write_part(self, number: int, counts: object) -> Iterator[Path]:
        """Yield the path to write a part to; at the end of the block, mark the part as finished.

        `counts` is a dataclass that is filled in the block; `read_counts` returns it later.

        Raises:
            HistoError: the part cannot be written.
        """
        try:
            yield self.part_path(number)
            content = self.part_path(number).read_bytes()
            metadata = {
                "bytes": len(content),
                "crc32": zlib.crc32(content),
                "counts": to_json(counts),
                "files": self._states.pop(number, {}),
            }
            temporary = self.folder / f"{number:04}.tmp"
            temporary.write_text(json.dumps(metadata), encoding="utf-8")
            temporary.replace(self._metadata_path(number))
        except OSError as error:
            raise make_write_error(self.target, error) from error

    def read_counts(self, number: int, kind: type[T]) -> T:
        """Return the counts of a finished part, as the dataclass `kind` whose JSON `write_part` wrote.

        Raises:
            HistoError: they are damaged.
        """
        path = self._metadata_path(number)
        return from_json(
            kind, read_json(path).get("counts"), str(path), f"remove {self.folder}, and run the command again"
        )

    def remove_if_empty(self) -> None:
        """Remove the folder if it has no finished part: a job that failed at once leaves no files."""
        if not any(self.folder.glob("*.json")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder with all parts.

        Raises:
            OSError: it cannot be removed.
        """
        shutil.rmtree(self.folder)


def _find_state(path: str) -> list[int] | None:
    """Return the size and time of a file, as JSON has them; None if there is no such file."""
    try:
        return list(find_state(path))
    except OSError:
        return None
