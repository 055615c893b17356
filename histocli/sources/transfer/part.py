"""A file that is arriving: what is there of it, what it is a part of, and its final name once it is whole.

The part lies beside the target as `<name>.part`; `<name>.part.json` says of which version of which address.
A finished file has `<name>.json` with its size and MD5. Addresses are kept as a hash: they may hold a token.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from histocli.errors import HistoError
from histocli.fs import fsync, human_bytes, require_space
from histocli.workspace import read_json, write_json

_CHUNK = 1 << 20
_SPACE_HINT = "free some space or choose another --workspace; the same command then goes on where it stopped"


class Part:
    """The first `size` bytes of a file of `total` (None: unknown), hashed as they come.

    `validator` is the strong ETag or the date of the version they belong to, "" where the server gave none.
    """

    def __init__(self, url: str, target: Path) -> None:
        """Take up what an earlier run left of the same address."""
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._record = _record_path(self.path)
        self._url = _url_key(url)
        self._forget()
        record = _read_record(self._record)
        if self.path.is_file() and record.get("url") == self._url:
            self._take_up(record)

    def _forget(self) -> None:
        self.size = 0
        self.total: int | None = None
        self.validator = ""
        self._hasher = _md5()

    def _take_up(self, record: dict[str, Any]) -> None:
        total = record.get("total")
        self.total = total if isinstance(total, int) else None
        self.validator = str(record.get("validator", ""))
        with self.path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                self._hasher.update(chunk)
                self.size += len(chunk)
        if self.total is not None and self.size > self.total:
            self.restart()

    @property
    def whole(self) -> bool:
        """Whether every promised byte is there."""
        return self.total is not None and 0 < self.size == self.total

    @property
    def md5(self) -> str:
        """The MD5 (hex) of what is there."""
        return str(self._hasher.hexdigest())

    def restart(self) -> None:
        """Throw away what is there."""
        with self._disk_errors():
            self.path.unlink(missing_ok=True)
            self._record.unlink(missing_ok=True)
        self._forget()

    def promise(self, total: int | None, validator: str) -> None:
        """Note what the server says of the file, and check that the rest of it fits on the disk."""
        self.total = self.total if total is None else total
        self.validator = validator
        if self.total is not None:
            require_space(self.path.parent, self.total - self.size, f"the rest of {self.target.name}")
        write_json(self._record, {"url": self._url, "total": self.total, "validator": validator})

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the part for `append`; unbuffered, so that closing has nothing left to fail on."""
        with self._disk_errors():
            stream = self.path.open("ab", buffering=0)
        with stream:
            yield stream

    def append(self, stream: IO[bytes], chunk: bytes) -> None:
        """Write what came, but never more than was promised."""
        if self.total is not None:
            chunk = chunk[: self.total - self.size]
        with self._disk_errors():
            write_all(stream, chunk)
        self._hasher.update(chunk)
        self.size += len(chunk)

    def commit(self, url: str) -> Path:
        """Flush the part to disk and give it its final name; what is noted of the file is there before it is."""
        with self._disk_errors():
            fsync(self.path)
            _write_record(url, self.path, self.target, self.md5)
            self.path.replace(self.target)
            fsync(self.target.parent)
        self._record.unlink(missing_ok=True)
        return self.target

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            rest = "" if self.total is None else f" ({human_bytes(self.total - self.size)} were still to come)"
            raise HistoError(f"cannot write {self.path}: {error.strerror or error}{rest}", _SPACE_HINT) from error


def write_all(stream: IO[bytes], data: bytes) -> None:
    """Write every byte to an unbuffered file, which may take fewer at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def is_complete(url: str, target: Path, md5: str | None = None) -> bool:
    """Tell without the network whether `target` is whole: by its record, else by its MD5 if that is known."""
    if not target.is_file():
        return False
    record = _read_record(_record_path(target))
    found = target.stat()
    unchanged = record.get("size") == found.st_size and record.get("mtime_ns") == found.st_mtime_ns
    if md5 is None:
        return unchanged and record.get("url") == _url_key(url)
    if unchanged and "md5" in record:
        return bool(record["md5"] == md5)
    if file_md5(target) != md5:
        return False
    _write_record(url, target, target, md5)
    return True


def recorded_md5(target: Path) -> str | None:
    """Give the MD5 (hex) that was noted when `target` was finished, None where none was."""
    md5 = _read_record(_record_path(target)).get("md5")
    return md5 if isinstance(md5, str) else None


def remove_part(target: Path) -> None:
    """Remove what a killed process left of a file that has come since."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    _record_path(part).unlink(missing_ok=True)


def _write_record(url: str, file: Path, target: Path, md5: str) -> None:
    """Note of `file`, which is or becomes `target`, that it is whole, where it came from, and its MD5 (hex)."""
    found = file.stat()
    record = {"url": _url_key(url), "md5": md5, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
    write_json(_record_path(target), record)


def file_md5(path: Path) -> str:
    """Compute the MD5 (hex) of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _md5).hexdigest()


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _url_key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> dict[str, Any]:
    """Read what is noted about a file: nothing without a sound note, so that the file counts as unknown."""
    if not path.is_file():
        return {}
    try:
        record = read_json(path)
    except HistoError:
        return {}
    return record if isinstance(record, dict) else {}
