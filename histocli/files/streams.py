"""Streams of archives: compressed archives, which are read from the start to the end, and archives in archives."""

import gzip
import io
import tempfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any

from histocli.errors import HistoError
from histocli.files import file as files_module  # read through the module, so that tests can lower the limit
from histocli.files.file import check_declared_size
from histocli.unchanged import State, check_unchanged, find_state

Open = Callable[[], IO[bytes]]

MAX_RATIO = 20  # of unpacked to packed bytes: it limits bombs, and allows tars of images with one colour
_KEPT_BYTES = 64 << 20  # memory for members that were passed while another one was read


class ArchiveFile(io.BufferedReader):
    """An open archive, which is closed when none of its members is used any more."""

    def __del__(self) -> None:
        self.close()


class _CheckedFile(io.FileIO):
    """A file; reading it raises `OSError` if its state is not `state`: most archives have no checksums."""

    def __init__(self, path: Path, state: State | None) -> None:
        super().__init__(path)
        self.state = state or find_state(self.fileno())

    def __del__(self) -> None:
        self.close()

    def readinto(self, buffer: Any) -> int | None:
        """Read into a buffer, and return the number of bytes."""
        size = super().readinto(buffer)
        check_unchanged(self.fileno(), self.state)
        return size

    def readall(self) -> bytes:
        """Read to the end."""
        data = super().readall()
        check_unchanged(self.fileno(), self.state)
        return data


class ArchiveOpener:
    """Opens an archive, as often as it is needed; reading it fails if it was changed since it was first opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: State | None = None

    def __call__(self) -> ArchiveFile:
        """Open the archive."""
        file = _CheckedFile(self._path, self._state)
        self._state = file.state
        return ArchiveFile(file)


class UnpackedArchive(tempfile.SpooledTemporaryFile[bytes]):
    """An archive that was unpacked from another one; it is removed when none of its members is used any more."""

    def __del__(self) -> None:
        self.close()


def unpack_gzip(path: Path) -> IO[bytes]:
    """Unpack a gzip file to a temporary file, which is removed when it is closed; its `name` is its path.

    Raises:
        HistoError: it is damaged, unpacks to more than twenty times its size, or the disk is full.
    """
    suffix = path.with_suffix("").suffix
    target = tempfile.NamedTemporaryFile(prefix=f"{path.stem}-", suffix=suffix)  # noqa: SIM115 - the caller closes it
    try:
        with gzip.open(path) as packed:
            copy_limited(packed, target, MAX_RATIO * path.stat().st_size + (64 << 20), "it")
        target.flush()
    except BaseException as error:
        target.close()
        if not isinstance(error, (OSError, EOFError, zlib.error)):
            raise
        hint = "check the file and the space in TMPDIR, or unpack it yourself"
        raise HistoError(f"cannot unpack {path}: {error}", hint) from error
    return target


def copy_limited(source: IO[bytes] | gzip.GzipFile, target: IO[bytes], limit: int, name: str) -> None:
    """Unpack a file; raise `OSError` if it has more than `limit` bytes; `name` is for the error."""
    while chunk := source.read(1 << 20):
        limit -= len(chunk)
        if limit < 0:
            raise OSError(f"{name} unpacks to more than {MAX_RATIO} times its size")
        target.write(chunk)


class LimitedStream:
    """A file for `tarfile`, which would read a header of any size that the archive declares into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; raise `OSError` if this is negative or above `MAX_FILE_BYTES`."""
        if not 0 <= size <= files_module.MAX_FILE_BYTES:
            raise OSError(f"a header of {size:,} bytes")
        return self._file.read(size)


class StreamReader:
    """Reads ranges of bytes of a stream that may be compressed, which is fast only from its start to its end.

    Threads may read the `ranges` in about the order of the stream: ranges that are passed are kept for a while, and so
    are those that are listed several times, such as a file and the links to it. Any other order is possible, but the
    stream is opened again. Without `ranges`, nothing is kept: any order is fast if the stream is not compressed.
    """

    def __init__(self, open_stream: Open, ranges: Sequence[tuple[int, int]]) -> None:
        self._open_stream = open_stream
        self._ranges = sorted(set(ranges))
        self._repeated = {offset for (offset, _), count in Counter(ranges).items() if count > 1}
        self._lock = Lock()
        self._stream: IO[bytes] | None = None
        self._position = 0
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on."""
        check_declared_size(size)
        with self._lock:
            if offset in self._kept:
                data = self._kept.pop(offset)
                self._kept_bytes -= len(data)
            else:
                try:
                    data = self._read_forward(offset, size)
                except BaseException:
                    self._stream = None
                    raise
            if offset in self._repeated:
                self._keep(offset, data)
            return data

    def _read_forward(self, offset: int, size: int) -> bytes:
        """Read a range. If the stream is past it, open it again; keep the small ranges that are read on the way."""
        if self._stream is None or (self._ranges and self._position > offset):
            self._stream, self._position = self._open_stream(), 0
        first, last = (bisect_left(self._ranges, (place, 0)) for place in (self._position, offset))
        for start, length in self._ranges[first:last]:
            if length <= _KEPT_BYTES // 64 and start not in self._kept:
                self._keep(start, self._read_at(start, length))
        return self._read_at(offset, size)

    def _read_at(self, offset: int, size: int) -> bytes:
        """Read from the open stream; raise `EOFError` if it ends too early."""
        assert self._stream is not None
        self._stream.seek(offset)
        data = self._stream.read(size)
        self._position = offset + len(data)
        if len(data) < size:
            raise EOFError("the archive is truncated")
        return data

    def _keep(self, offset: int, data: bytes) -> None:
        """Keep a range in memory, and drop the oldest ones if they need too much."""
        self._kept[offset] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > _KEPT_BYTES:
            oldest = next(iter(self._kept))
            self._kept_bytes -= len(self._kept.pop(oldest))


@dataclass(slots=True)
class StreamMember:
    """Reads one range of a stream."""

    reader: StreamReader
    offset: int
    size: int
    prefix: bytes = b""

    def __call__(self) -> bytes:
        """Return `prefix` and the bytes of the range."""
        return self.prefix + self.reader.read(self.offset, self.size)
