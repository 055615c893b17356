"""Download with Kaggle's client, and turn its exceptions into errors with hints.

The messages of the client can contain the token. So they are not shown, and its exceptions are not chained.
"""

import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from histocli.errors import HistoError
from histocli.fs import require_space
from histocli.locks import hold
from histocli.sources import SourceContext
from histocli.sources.retry import RETRIED_STATUS, RetryableError

COMPETITION = "histopathologic-cancer-detection"
PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}"
ARCHIVE_BYTES = 7_000_000_000  # approximately: the client learns its size during the download
_UNPACKED_BYTES = 7_800_000_000  # 277,483 images of 27.9 KB
_CACHE_VARIABLE = "KAGGLEHUB_CACHE"
_LOGIN_HINT = (
    "make a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or "
    "~/.kaggle/access_token (a kaggle.json into ~/.kaggle/), or give a downloaded archive to --from"
)
_RULES_HINT = f"log in, accept the rules in the browser at {PAGE}/rules, and run the same command again"
_LATER_HINT = (
    "run the same command again later: the client continues where it stopped; or download the archive in a browser, "
    "and give it to --from"
)


def find_competition_dir(downloads_dir: Path) -> Path:
    """Return the folder to which the client unpacks the archive, in KAGGLEHUB_CACHE or else in `downloads_dir`."""
    return Path(os.environ.get(_CACHE_VARIABLE, downloads_dir)) / "competitions" / COMPETITION


def download_competition(context: SourceContext) -> Path:
    """Download and unpack the competition's archive, unless it is there; return its folder.

    Raises:
        HeldError: another process is downloading it.
        HistoError: credentials are missing or refused, the rules are not accepted, Kaggle cannot be reached, the
            archive is damaged, or the disk has not enough space.
    """
    target = find_competition_dir(context.downloads_dir)
    archive = target.with_name(f"{COMPETITION}.archive")
    attempts = 0

    def attempt() -> Path:
        nonlocal attempts
        attempts += 1
        with _set_client_folder(context.downloads_dir), redirect_stdout(sys.stderr):  # the client prints to stdout
            return _download(archive, force=context.force and attempts == 1)  # the next attempts continue the first

    with hold(target.parent / f".{COMPETITION}.lock", f"Kaggle's archive in {target.parent}"):
        if context.force or not target.is_dir():
            done = 0 if context.force else _find_size(archive)  # without `force`, an incomplete archive is continued
            needed = ARCHIVE_BYTES + _UNPACKED_BYTES - done
            require_space(target.parent, needed, "Kaggle's archive, packed and unpacked,")
        return context.policy.run(attempt, "cannot download Kaggle's archive", _LATER_HINT, lambda: _find_size(archive))


def _find_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _set_client_folder(downloads_dir: Path) -> Iterator[None]:
    """Make the client use `downloads_dir`, unless the user has set KAGGLEHUB_CACHE."""
    if _CACHE_VARIABLE in os.environ:
        yield
        return
    os.environ[_CACHE_VARIABLE] = str(downloads_dir)
    try:
        yield
    finally:
        del os.environ[_CACHE_VARIABLE]


def _download(archive: Path, force: bool) -> Path:
    """Call Kaggle's client once, and turn its errors into those of histo."""
    import kagglehub
    import requests
    from kagglehub import exceptions as client

    try:
        return Path(kagglehub.competition_download(COMPETITION, force_download=force))
    except (client.UnauthenticatedError, client.CredentialError):
        raise _make_http_error(401) from None
    except requests.HTTPError as error:
        raise _make_http_error(0 if error.response is None else error.response.status_code) from None
    except (client.DataCorruptionError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError):
        raise _remove_damaged(archive) from None
    except ValueError as error:
        if str(error).startswith("Unsupported archive"):
            raise _remove_damaged(archive) from None
        # An unreadable kaggle.json, or a token that no header can hold.
        raise HistoError("the Kaggle credentials are malformed", _LOGIN_HINT) from None
    except requests.RequestException as error:
        raise RetryableError(f"no connection ({type(error).__name__})") from None
    except OSError as error:
        hint = f"free some space or set {_CACHE_VARIABLE} to a folder elsewhere"
        raise HistoError(f"cannot write Kaggle's archive: {error.strerror}", hint) from None


def _remove_damaged(archive: Path) -> HistoError:
    """Remove the archive, and return the error to raise."""
    archive.unlink(missing_ok=True)  # otherwise the client would treat it as complete
    return HistoError("the download of Kaggle's archive is damaged", "run the same command again to download it again")


def _make_http_error(status: int) -> Exception:
    """Return the error to raise for an HTTP status of Kaggle."""
    if status == 401:
        return HistoError("Kaggle credentials are missing or wrong (HTTP 401)", _LOGIN_HINT)
    if status == 403:
        return HistoError("Kaggle requires that you accept the competition's rules first (HTTP 403)", _RULES_HINT)
    if status in RETRIED_STATUS:
        return RetryableError(f"HTTP {status}")
    return HistoError(f"Kaggle does not serve the archive (HTTP {status})", _LATER_HINT)
