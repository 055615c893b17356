"""Resumable, checked downloads over HTTP, with the standard library alone."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple

from histocli.errors import HistoError
from histocli.fs import human_bytes, make_folder
from histocli.sources.transfer.part import Part, is_complete, remove_part
from histocli.sources.transfer.web import (
    RangeError,
    RefusedError,
    TransientError,
    checked_url,
    content_length,
    content_range,
    open_url,
    refuse_web_page,
    shown,
)

_CHUNK = 1 << 18
_SNIFF = 512


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a transfer is: `tries` in a row without a new byte, waits and time-outs in seconds."""

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, asked: float | None) -> None:
        """Sleep as long as asked for, else exponentially longer with jitter; never over `longest_wait`."""
        backoff = self.first_wait * 2 ** (failures - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self.sleep(min(self.longest_wait, backoff if asked is None else max(asked, 0.0)))


DEFAULT_POLICY = RetryPolicy()


class PlannedFile(NamedTuple):
    """What a download would do for one file: its size in bytes where known, whether it is there already."""

    name: str
    size: int | None
    there: bool


def fetch(
    url: str,
    target: Path,
    *,
    md5: str | None = None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    force: bool = False,
    policy: RetryPolicy = DEFAULT_POLICY,
) -> Path:
    """Bring `url` to `target`, going on where an earlier call stopped; do nothing where it is there already.

    Takes an http(s) address, the MD5 the file must have (hex), and `on_progress(bytes so far, bytes in all or
    None)`; `force` starts over. Gives `target`: whenever it exists it is whole, flushed to disk and recorded.

    Raises:
        MissingFileError: the server has no such file.
        HistoError: refused, unreachable, not what was promised, a web page, no space, or the wrong checksum.
    """
    checked_url(url)
    if not force and is_complete(url, target, md5):
        remove_part(target)
        size = target.stat().st_size
        on_progress(size, size)
        return target
    make_folder(target.parent)
    part = Part(url, target)
    if force:
        part.restart()
    found = _checksum(url, part, on_progress, policy)
    if md5 not in (None, found):
        part.restart()  # joined from two versions, or bytes gone wrong on the way: once more from scratch
        found = _checksum(url, part, on_progress, policy)
    if md5 not in (None, found):
        part.restart()
        raise HistoError(
            f"{target.name} from {shown(url)} has the MD5 {found}, not {md5}",
            "the server's file is not the published one: fetch it elsewhere and give its folder to --from",
        )
    return part.commit(url)


def remote_size(url: str, policy: RetryPolicy = DEFAULT_POLICY) -> int | None:
    """Ask for the size in bytes of the file at `url`; None where the server does not say.

    Raises:
        MissingFileError: the server has no such file.
        HistoError: refused or unreachable.
    """
    failures = 0
    while True:
        try:
            return _asked_size(checked_url(url), policy.timeout)
        except TransientError as error:
            failures += 1
            if failures >= policy.tries:
                raise HistoError(f"cannot reach {shown(url)}: {error}", "check the connection") from error
            policy.wait(failures, error.wait)


def _asked_size(url: str, timeout: float) -> int | None:
    """Ask for the head, and where that is refused, for the first byte."""
    try:
        with open_url(url, timeout, {}, method="HEAD") as response:
            refuse_web_page(url, response)
            size = content_length(response)
    except RefusedError:
        size = None
    if size is not None:
        return size
    try:
        with open_url(url, timeout, {"Range": "bytes=0-0"}) as response:
            refuse_web_page(url, response)
            return content_range(response)[1] if response.status == 206 else content_length(response)
    except RangeError as error:
        return error.total  # an empty file has no first byte


def _checksum(url: str, part: Part, on_progress: Callable[[int, int | None], None], policy: RetryPolicy) -> str:
    """Fetch until the part is whole, and give its MD5 (hex)."""
    failures, best = 0, part.size
    whole = part.whole
    while not whole:
        try:
            whole = _attempt(url, part, on_progress, policy.timeout)
        except TransientError as error:
            # Only bytes beyond the furthest point count as progress: a server that starts over each time and
            # always breaks off at the same place would otherwise be asked for ever.
            failures = 1 if part.size > best else failures + 1
            best = max(best, part.size)
            if failures >= policy.tries:
                raise HistoError(
                    f"cannot fetch {shown(url)}: {error} ({failures} tries, {human_bytes(part.size)} here)",
                    "run the same command again later: it goes on where it stopped",
                ) from error
            policy.wait(failures, error.wait)
    return part.md5


def _attempt(url: str, part: Part, on_progress: Callable[[int, int | None], None], timeout: float) -> bool:
    """Send one request and append what comes; True once the part is whole."""
    headers = {"Range": f"bytes={part.size}-"} if part.size else {}
    if part.size and part.validator:
        headers["If-Range"] = part.validator
    try:
        with open_url(url, timeout, headers) as response:
            chunk = response.read(_SNIFF)
            refuse_web_page(url, response, chunk if response.status == 200 else b"")
            _agree(url, response, part)
            with part.open() as stream:
                while chunk:
                    part.append(stream, chunk)
                    on_progress(part.size, part.total)
                    chunk = response.read1(_CHUNK)
    except RangeError as error:
        return _nothing_left(url, error, part)
    if part.total is not None and part.size != part.total:
        raise TransientError(f"the connection ended {human_bytes(part.total - part.size)} too early")
    return True


def _agree(url: str, response: HTTPResponse, part: Part) -> None:
    """Settle what the answer is: the rest of the part, or the file from its start."""
    if response.status == 206:
        start, total = content_range(response)
        if start != part.size or (None not in (total, part.total) and total != part.total):
            part.restart()
            raise TransientError("the server sent another piece than the one asked for")
    elif response.status == 200:
        part.restart()
        total = content_length(response)
    else:
        raise HistoError(f"{shown(url)} cannot be had: HTTP {response.status}", "check the address given to --from")
    # A weak ETag does not promise the same bytes, so it must not join two pieces (RFC 9110, 13.1.5).
    etag = response.headers.get("ETag", "")
    part.promise(total, etag if etag.startswith('"') else response.headers.get("Last-Modified", ""))


def _nothing_left(url: str, error: RangeError, part: Part) -> bool:
    """Judge a 416: the part is whole, or belongs to another version and is fetched anew."""
    if part.size == 0:
        raise HistoError(f"{shown(url)} cannot be had: HTTP 416", "check the address given to --from") from error
    if part.size == (part.total if error.total is None else error.total):
        return True
    part.restart()
    raise TransientError("the server would not go on in the middle of the file") from error
