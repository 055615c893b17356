"""HTTP(S) requests with `requests`: follow redirects safely, and separate errors that may be retried from others.

A redirect must lead to http or https, and not from https to http. Credentials in an address
(`https://user:password@host/`) are sent only to this host and never shown.
"""

import email.utils
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import requote_uri

from histocli import __version__
from histocli.errors import HistoError
from histocli.sources.retry import RETRIED_STATUS, RetryableError

_MAX_REDIRECTS = 10
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_HEADERS = {
    "User-Agent": f"histo/{__version__}",
    "Accept-Encoding": "identity",  # sizes, ranges and checksums are those of the file itself
}


class MissingFileError(HistoError):
    """The server has no such file."""


class RangeError(Exception):
    """The server has no bytes in the requested range (416); `total` is the size of the file in bytes, if known."""

    def __init__(self, total: int | None) -> None:
        super().__init__("range not satisfiable")
        self.total = total


def check_url(url: str) -> None:
    """Check that `url` is an http(s) address with a host.

    Raises:
        HistoError: it is not.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or re.search(r"[\x00-\x20\x7f]", url):
        raise HistoError(f"{redact_url(url)!r} is not an http or https address", "give one that begins with https://")


def redact_url(url: str) -> str:
    """Return the address without credentials and query, which can contain a token."""
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}/{path}"


@contextmanager
def open_url(url: str, timeout: float, headers: dict[str, str]) -> Iterator[requests.Response]:
    """Send a request, follow redirects, and yield the response (2xx) before its body is read.

    Raises:
        MissingFileError: 404 or 410.
        RangeError: 416.
        RetryableError: 408, 425, 429, 5xx, or a connection that fails, ends or stalls, also while the body is read.
        HistoError: any other status, an unsafe redirect, or a certificate that is not valid.
    """
    try:
        with _Session() as session, closing(_send(session, url, headers, timeout)) as response:
            _check_status(url, response)
            yield response
    except (OSError, urllib3.exceptions.HTTPError) as error:  # what requests raises are OSErrors
        _raise_connection_error(url, error)


def parse_content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the start of a partial response and the size of the whole file, in bytes; None if not known."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    start, total = match.groups() if match else (None, None)
    return (None if start is None else int(start)), (None if total in (None, "*") else int(total))


def parse_content_length(response: requests.Response) -> int | None:
    """Return the size of the body in bytes, None if the server does not send it."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and "Transfer-Encoding" not in response.headers else None


def refuse_web_page(url: str, response: requests.Response, start: bytes = b"") -> None:
    """Check that a response is a file and not a web page; `start` has the first bytes of the body, if known.

    Raises:
        HistoError: it is a web page. Servers send one if a quota is used up or a login is needed.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_page = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
    if is_page or kind in ("text/html", "application/xhtml+xml"):
        raise HistoError(
            f"{redact_url(url)} sends a web page instead of the file",
            "its quota may be used up, or it may need a login: download the file in a browser, and give its folder "
            "to --from",
        )


class _Session(requests.Session):
    """A session that also trusts the certificates of the system; `_send` follows its redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update(_HEADERS)
        self.mount("https://", _SystemCertificates())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None, so that requests follows no redirect: it would first read the whole body of each."""
        return None


class _SystemCertificates(HTTPAdapter):
    """An adapter that also trusts the certificates of the system and of SSL_CERT_FILE."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Use the certificates of the system for direct connections."""
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Use the certificates of the system for connections through a proxy."""
        return super().proxy_manager_for(proxy, ssl_context=ssl.create_default_context(), **options)


def _send(session: requests.Session, url: str, headers: dict[str, str], timeout: float) -> requests.Response:
    """Send a request, follow its redirects, and return the first response that is not a redirect."""
    check_url(url)
    parts = urlsplit(url)
    host = (parts.scheme, parts.netloc.rpartition("@")[2])
    credentials = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    target = parts._replace(netloc=host[1]).geturl()
    for _ in range(_MAX_REDIRECTS):
        is_same_host = urlsplit(target)[:2] == host
        auth = HTTPBasicAuth(*credentials) if credentials and is_same_host else _send_as_it_is
        response = session.get(target, headers=headers, auth=auth, timeout=timeout, stream=True)
        if not response.is_redirect:
            return response
        response.close()
        target = _resolve_redirect(target, response.headers["Location"])
    raise HistoError(f"{redact_url(url)} redirects too often", "give the https address of the file itself")


def _send_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return the request unchanged. Without this `auth`, requests would add credentials from a .netrc file."""
    return request


def _resolve_redirect(url: str, location: str) -> str:
    """Return the address of a redirect.

    Raises:
        HistoError: the address is not http(s), or the redirect is from https to http.
    """
    try:
        target = requote_uri(urljoin(url, location))
    except (ValueError, requests.exceptions.InvalidURL):
        target = location
    scheme = target.partition(":")[0].lower()
    if scheme not in ("http", "https") or (url.startswith("https:") and scheme == "http"):
        hint = "give the https address of the file itself"
        raise HistoError(f"{redact_url(url)} redirects to {scheme}:, which is not followed", hint)
    check_url(target)
    return target


def _check_status(url: str, response: requests.Response) -> None:
    """Raise the error that belongs to an HTTP status, unless it is one of success."""
    name, code = redact_url(url), response.status_code
    if 200 <= code < 300:
        return
    if code == 416:
        raise RangeError(parse_content_range(response)[1])
    if code in RETRIED_STATUS:
        raise RetryableError(f"HTTP {code} {response.reason}", _parse_retry_after(response))
    if code in (404, 410):
        raise MissingFileError(f"there is no {name} (HTTP {code})", "check the address given to --from")
    if code in (401, 403):
        hint = "download it in a browser and give the folder to --from"
        raise HistoError(f"the server refuses {name} (HTTP {code})", hint)
    raise HistoError(
        f"the server does not send {name}: HTTP {code} {response.reason}", "check the address given to --from"
    )


def _parse_retry_after(response: requests.Response) -> float | None:
    """Return the wait in seconds that the server requests, as a number or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None


def _raise_connection_error(url: str, error: Exception) -> NoReturn:
    """Raise an error for a failed connection, without the error of requests, which quotes the whole address."""
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise HistoError(
            f"the certificate of {redact_url(url)} is not valid: {cause.verify_message}",
            "check the clock and the installed certificates (SSL_CERT_FILE); histo never connects without this check",
        ) from None
    if isinstance(cause, TimeoutError):
        raise RetryableError("the server did not answer in time") from None
    if isinstance(cause, urllib3.exceptions.IncompleteRead):
        raise RetryableError("the connection ended too early") from None
    is_safe = isinstance(cause, OSError) and not isinstance(cause, requests.RequestException)
    raise RetryableError(str(cause) if is_safe else type(cause).__name__) from None
