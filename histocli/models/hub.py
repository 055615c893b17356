"""The Hugging Face hub: its errors with hints, and whether it can be reached."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from histocli.errors import HistoError, read_first_line
from histocli.packages import require_packages

_LOGIN = "hf auth login"  # huggingface-cli login in older versions of huggingface_hub
_CONNECT_SECONDS = 5


def require_timm(arch: str) -> None:
    """Raise `HistoError` if timm is not installed, which builds the network `arch`."""
    require_packages(arch, "timm", extra="timm")


@contextmanager
def use_cache_if_unreachable() -> Iterator[None]:
    """In this block, let huggingface_hub use only its cache if no server answers.

    It would try for half a minute for each file, with two lines for each try, before it looks into its cache.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_reachable(url: str) -> bool:
    """Return whether the server of an address, or the proxy for it, accepts a connection."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = None if proxy_bypass(parts.netloc) else proxies.get(parts.scheme) or proxies.get("all")
    server = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        with socket.create_connection((server.hostname or "", port), _CONNECT_SECONDS):
            return True
    except OSError:
        return False


def describe_hub_error(error: Exception) -> str:
    """Return why weights cannot be loaded, in one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not isinstance(error, LocalEntryNotFoundError):
        return read_first_line(error)
    why = (
        "HF_HUB_OFFLINE is set"
        if constants.HF_HUB_OFFLINE
        else f"{urlsplit(constants.ENDPOINT).netloc} does not answer"
    )
    return f"they are not on this computer, and {why}"


def make_hub_error(arch: str, repository: str, error: Exception) -> HistoError:
    """Return the error for weights on the hub that cannot be loaded, with a hint how to get them."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        if error.response.status_code == 401:
            reason, hint = "you are not logged in", f"ask for access on {page}, then log in: {_LOGIN}"
        else:
            reason, hint = "your account has no access yet", f"ask for access on {page}, and wait for the answer"
        return HistoError(f"the weights of {arch} are only for users with access, and {reason}", hint)
    if isinstance(error, RepositoryNotFoundError):
        return HistoError(
            f"there is no {repository} on the Hugging Face hub, or your account may not see it",
            f"check {page}, then log in: {_LOGIN}",
        )
    return HistoError(
        f"the pretrained weights of {arch} cannot be loaded: {describe_hub_error(error)}",
        f"try again with a network connection, or copy {HF_HUB_CACHE}/models--{repository.replace('/', '--')} from a "
        "computer that has the weights",
    )
