"""Downloads that can be resumed and are checked.

During the download the file has the name `<name>.part`, and `<name>.part.json` records its address and version. A
finished file has a `<name>.json` with its size and MD5. Addresses are recorded as a hash, because they can contain a
token.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import requests

from histocli.atomic import read_json, write_json
from histocli.errors import HistoError
from histocli.fs import format_bytes, fsync, make_folder, make_space_hint, require_space, write_all
from histocli.sources import OnProgress
from histocli.sources.http import (
    RangeError,
    check_url,
    open_url,
    parse_content_length,
    parse_content_range,
    redact_url,
    refuse_web_page,
)
from histocli.sources.retry import DEFAULT_POLICY, RetryableError, RetryPolicy

_CHUNK = 1 << 18
_FIRST_BYTES = 512  # enough to detect a web page


def download_file(
    url: str,
    target: Path,
    *,
    md5: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
    force: bool = False,
    policy: RetryPolicy = DEFAULT_POLICY,
) -> Path:
    """Download `url` to `target` and return `target`; continue where an earlier call stopped.

    If `target` is complete already, nothing is downloaded, unless `force` is true. `url` is an http(s) address and
    `md5` the checksum (hex) that the file must have. `on_progress` is called with the bytes so far and in all (None if
    not known). If `target` exists, it is complete and flushed to the disk.

    Raises:
        MissingFileError: the server has no such file.
        HistoError: the server refuses, cannot be reached or sends a web page; the disk is full; the checksum is wrong.
    """
    check_url(url)
    partial_file = _PartialFile(url, target)
    if not force and is_complete(url, target, md5):
        partial_file.restart()  # remove a partial file of a killed process
        on_progress(target.stat().st_size, target.stat().st_size)
        return target
    make_folder(target.parent)
    if force:
        partial_file.restart()
    else:
        partial_file.resume()
    attempt = partial(_download_rest, url, partial_file, on_progress, policy.timeout)
    hint = "run the same command again later: it continues where it stopped"
    for _ in range(2):  # a partial file can be damaged or from two versions: then download the whole file again
        policy.run(attempt, f"cannot download {redact_url(url)}", hint, lambda: partial_file.size)
        found = compute_md5(partial_file.path)
        if md5 in (None, found):
            return partial_file.commit(found)
        partial_file.restart()
    raise HistoError(
        f"{target.name} from {redact_url(url)} has the MD5 {found}, not {md5}",
        "the file on the server is not the published one: download it elsewhere, and give its folder to --from",
    )


def find_remote_size(url: str, policy: RetryPolicy = DEFAULT_POLICY) -> int | None:
    """Return the size in bytes of the file at `url`; None if the server does not send it.

    Raises:
        MissingFileError: the server has no such file.
        HistoError: the server refuses or cannot be reached.
    """
    return policy.run(
        partial(_request_size, url, policy.timeout), f"cannot reach {redact_url(url)}", "check the connection"
    )


def is_complete(url: str, target: Path, md5: str | None = None) -> bool:
    """Return whether `target` is complete, from its record or from its MD5 if that is given; nothing is downloaded."""
    if not target.is_file():
        return False
    record, stat = _read_record(target), target.stat()
    is_unchanged = record.get("size") == stat.st_size and record.get("mtime_ns") == stat.st_mtime_ns
    if md5 is None:
        return is_unchanged and record.get("url") == _hash_url(url)
    if is_unchanged and "md5" in record:
        return bool(record["md5"] == md5)
    if compute_md5(target) != md5:
        return False
    _write_record(url, target, target, md5)
    return True


def read_recorded_md5(target: Path) -> str | None:
    """Return the MD5 (hex) that was recorded after the download of `target`; None if there is no record."""
    md5 = _read_record(target).get("md5")
    return md5 if isinstance(md5, str) else None


def compute_md5(path: Path) -> str:
    """Compute the MD5 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _request_size(url: str, timeout: float) -> int | None:
    """Return the size of a file on a server, None if it is not known.

    The first byte is requested, because some servers refuse a HEAD request, or do not send the size with it.
    """
    try:
        with open_url(url, timeout, {"Range": "bytes=0-0"}) as response:
            refuse_web_page(url, response)
            return parse_content_range(response)[1] if response.status_code == 206 else parse_content_length(response)
    except RangeError as error:
        return error.total  # an empty file has no first byte


def _download_rest(url: str, partial_file: "_PartialFile", on_progress: OnProgress, timeout: float) -> None:
    """Request the missing bytes of a partial file, and append them.

    Raises:
        RetryableError: some bytes did not arrive.
    """
    if partial_file.is_complete:
        return
    headers = {"Range": f"bytes={partial_file.size}-"} if partial_file.size else {}
    if partial_file.size and partial_file.validator:
        headers["If-Range"] = partial_file.validator
    try:
        with open_url(url, timeout, headers) as response:
            chunk = response.raw.read(_FIRST_BYTES)
            refuse_web_page(url, response, chunk if response.status_code == 200 else b"")
            _prepare(url, response, partial_file)
            with partial_file.open() as file:
                while chunk:
                    partial_file.append(file, chunk)
                    on_progress(partial_file.size, partial_file.total)
                    # `read1` returns the bytes that have arrived: none are lost if the connection stalls.
                    chunk = response.raw.read1(_CHUNK)
    except RangeError as error:
        if partial_file.size and partial_file.size == (partial_file.total if error.total is None else error.total):
            return
        is_first = partial_file.size == 0
        partial_file.restart()
        if is_first:
            raise HistoError(f"the server does not send {redact_url(url)}: HTTP 416", "check the address") from error
        raise RetryableError("the server does not continue in the middle of the file") from error
    if partial_file.total is not None and partial_file.size != partial_file.total:
        raise RetryableError(f"the connection ended {format_bytes(partial_file.total - partial_file.size)} too early")


def _prepare(url: str, response: requests.Response, partial_file: "_PartialFile") -> None:
    """Prepare the partial file for the response, which is the rest of it or the whole file."""
    if response.status_code == 206:
        start, total = parse_content_range(response)
        if start != partial_file.size or (None not in (total, partial_file.total) and total != partial_file.total):
            partial_file.restart()
            raise RetryableError("the server sent other bytes than the requested ones")
    elif response.status_code == 200:
        partial_file.restart()
        total = parse_content_length(response)
    else:
        code = response.status_code
        raise HistoError(f"the server does not send {redact_url(url)}: HTTP {code}", "check the address")
    # A weak ETag does not guarantee the same bytes, so it cannot be used to continue a file (RFC 9110, 13.1.5).
    etag = response.headers.get("ETag", "")
    partial_file.record_size(total, etag if etag.startswith('"') else response.headers.get("Last-Modified", ""))


class _PartialFile:
    """The first `size` bytes of a file of `total` bytes (None if not known).

    `validator` is the strong ETag or the date of this version of the file; "" if the server sent neither.
    """

    def __init__(self, url: str, target: Path) -> None:
        self.url, self.target = url, target
        self.path = target.with_name(f"{target.name}.part")
        self.size = 0
        self.total: int | None = None
        self.validator = ""

    @property
    def is_complete(self) -> bool:
        """Whether all bytes have arrived."""
        return 0 < self.size == self.total

    def resume(self) -> None:
        """Continue the partial file of an earlier call, if it is from the same address."""
        record = _read_record(self.path)
        if not self.path.is_file() or record.get("url") != _hash_url(self.url):
            return
        self.total = record["total"] if isinstance(record.get("total"), int) else None
        self.validator = str(record.get("validator", ""))
        self.size = self.path.stat().st_size
        if self.total is not None and self.size > self.total:
            self.restart()

    def restart(self) -> None:
        """Delete the partial file, to start again."""
        with self._convert_disk_errors():
            self.path.unlink(missing_ok=True)
            _record_path(self.path).unlink(missing_ok=True)
        self.size, self.total, self.validator = 0, None, ""

    def record_size(self, total: int | None, validator: str) -> None:
        """Record the size and version of the file, and check that the disk has space for the rest."""
        self.total = self.total if total is None else total
        self.validator = validator
        if self.total is not None:
            require_space(self.path.parent, self.total - self.size, f"the rest of {self.target.name}")
        write_json(_record_path(self.path), {"url": _hash_url(self.url), "total": self.total, "validator": validator})

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the partial file for `append`, without a buffer: no bytes are lost if the process is killed."""
        with self._convert_disk_errors(), self.path.open("ab", buffering=0) as file:
            yield file

    def append(self, file: IO[bytes], chunk: bytes) -> None:
        """Write a chunk, but not more than `total` bytes in all."""
        if self.total is not None:
            chunk = chunk[: self.total - self.size]
        write_all(file, chunk)
        self.size += len(chunk)

    def commit(self, md5: str) -> Path:
        """Flush the partial file to the disk, write a record with the MD5 (hex), and rename the file to `target`."""
        with self._convert_disk_errors():
            fsync(self.path)
            _write_record(self.url, self.path, self.target, md5)
            self.path.replace(self.target)
            fsync(self.target.parent)
        _record_path(self.path).unlink(missing_ok=True)
        return self.target

    @contextmanager
    def _convert_disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            rest = "" if self.total is None else f" ({format_bytes(self.total - self.size)} are missing)"
            hint = f"{make_space_hint(self.path.parent)}; the same command then continues where it stopped"
            raise HistoError(f"cannot write {self.path}: {error.strerror or error}{rest}", hint) from error


def _write_record(url: str, file: Path, target: Path, md5: str) -> None:
    """Record the address, size and MD5 (hex) of `file`, which is `target` or will be renamed to it."""
    stat = file.stat()
    record = {"url": _hash_url(url), "md5": md5, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    write_json(_record_path(target), record)


def _read_record(path: Path) -> dict[str, Any]:
    """Read the record of a file; return an empty dictionary if the record is missing or damaged."""
    try:
        record = read_json(_record_path(path))
    except HistoError:
        return {}
    return record if isinstance(record, dict) else {}


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _hash_url(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
