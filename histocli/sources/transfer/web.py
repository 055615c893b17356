"""One HTTP request, done safely, with every way it can fail sorted: try again, another range, or give up.

Only http and https are spoken; TLS is never switched off; a redirect may not leave http(s) or fall from https
to http; credentials in an address (`https://user:password@host/`) go to that very host and are never shown.
"""

import base64
import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPResponse
from typing import IO, NoReturn

from histocli import __version__
from histocli.errors import HistoError

RETRIED = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_TLS_HINT = "check the clock and the installed certificates (SSL_CERT_FILE); checking is never switched off"


class MissingFileError(HistoError):
    """The server answered, and has no such file."""


class RefusedError(HistoError):
    """The server answered, and will not serve this request."""


class TransientError(Exception):
    """Worth another try, after `wait` seconds if the server said so."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class RangeError(Exception):
    """The server has no bytes from where it was asked to go on (416); `total` is the size it gives."""

    def __init__(self, total: int | None) -> None:
        super().__init__("range not satisfiable")
        self.total = total


def checked_url(url: str) -> str:
    """Give back an http(s) address with a host.

    Raises:
        HistoError: it is something else.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or re.search(r"[\x00-\x20\x7f]", url):
        raise HistoError(f"{shown(url)!r} is not an http or https address", "give one that begins with https://")
    return url


def shown(url: str) -> str:
    """Give the address as it may be printed: without credentials and query, which can hold a token."""
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}/{path}"


@contextmanager
def open_url(url: str, timeout: float, headers: dict[str, str], method: str = "GET") -> Iterator[HTTPResponse]:
    """Send one request and give the answer (2xx), after redirects.

    Raises:
        MissingFileError: 404 or 410.
        RangeError: 416.
        TransientError: cut, refused, timed out, 408, 425, 429 or 5xx, also while the answer is read.
        RefusedError: any other error of the client.
        HistoError: an unsafe redirect, or a certificate that does not hold.
    """
    try:
        with _OPENER.open(_request(url, headers, method), timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        _refuse(url, error)
    except urllib.error.URLError as error:
        _unreachable(url, error.reason)
    except (http.client.HTTPException, OSError, UnicodeError) as error:
        _unreachable(url, error)


def content_range(response: HTTPResponse) -> tuple[int | None, int | None]:
    """Tell where a partial answer starts and how large the whole file is; None where that is not said."""
    return _parse_range(response.headers)


def content_length(response: HTTPResponse) -> int | None:
    """Tell how long the server says the body is."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and not response.chunked else None


def refuse_web_page(url: str, response: HTTPResponse, start: bytes = b"") -> None:
    """Check that a file and not a page about it is coming; `start` is the body's beginning, if at hand.

    Raises:
        HistoError: it is a page, as hosts serve one when a quota is used up or a login is asked for.
    """
    page = response.headers.get_content_type() in ("text/html", "application/xhtml+xml")
    if page or start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        raise HistoError(
            f"{shown(url)} answers with a web page instead of the file",
            "its quota may be used up, or it wants a login: open the address in a browser, download there, "
            "and give the folder to --from",
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only where that gives nothing away."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()  # urllib would read the redirect's body to its end, however long
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is None:
            return None
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise HistoError(
                f"{shown(req.full_url)} redirects to {new.scheme}:, which is not followed",
                "give the file's own https address",
            )
        following.method = req.get_method()
        # The credentials are an unredirected header: they go on only to where they were meant for.
        if (old.scheme, old.netloc) == (new.scheme, new.netloc) and "Authorization" in req.unredirected_hdrs:
            following.add_unredirected_header("Authorization", req.unredirected_hdrs["Authorization"])
        return following


def _opener() -> urllib.request.OpenerDirector:
    """Make an opener without the handlers for file:, ftp: and data: that urllib's own has."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirects,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _request(url: str, headers: dict[str, str], method: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(checked_url(url))
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(bare, method=method, headers=headers)  # noqa: S310 - checked just above
    request.add_header("User-Agent", f"histo/{__version__}")
    request.add_header("Accept-Encoding", "identity")  # sizes, ranges and checksums are those of the file itself
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _refuse(url: str, error: urllib.error.HTTPError) -> NoReturn:
    name, code = shown(url), error.code
    if code == 416:
        raise RangeError(_parse_range(error.headers)[1]) from error
    if code in RETRIED:
        raise TransientError(f"HTTP {code} {error.reason}", _retry_after(error.headers)) from error
    if code in (404, 410):
        raise MissingFileError(f"there is no {name} (HTTP {code})", "check the address given to --from") from error
    if code in (401, 403):
        raise RefusedError(
            f"{name} is refused (HTTP {code})", "download it in a browser and give the folder to --from"
        ) from error
    if 300 <= code < 400:
        raise HistoError(
            f"{name} redirects in a circle or to what is not http(s) (HTTP {code})",
            "give the file's own https address",
        ) from error
    raise RefusedError(
        f"{name} cannot be had: HTTP {code} {error.reason}", "check the address given to --from"
    ) from error


def _unreachable(url: str, reason: object) -> NoReturn:
    cause = reason if isinstance(reason, BaseException) else None
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise HistoError(
            f"the certificate of {shown(url)} does not hold: {reason.verify_message}", _TLS_HINT
        ) from cause
    if isinstance(reason, TimeoutError):
        raise TransientError("no answer in time") from cause
    raise TransientError(str(reason) or type(reason).__name__) from cause


def _retry_after(headers: Message) -> float | None:
    """Read the wait a server asks for, in seconds: a number or a date (RFC 9110, 10.2.3)."""
    value = str(headers.get("Retry-After", "")).strip()
    if value.isdecimal():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None


def _parse_range(headers: Message) -> tuple[int | None, int | None]:
    match = _CONTENT_RANGE.fullmatch(str(headers.get("Content-Range", "")).strip())
    start, total = match.groups() if match else (None, None)
    return (None if start is None else int(start)), (None if total in (None, "*") else int(total))


_OPENER = _opener()
