"""Packages that `pip install histocli` does not install: whether they are there, and the error if not."""

from importlib.util import find_spec

from histocli.errors import HistoError


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; it is not imported."""
    return find_spec(package) is not None


def require_packages(what: str, *packages: str, extra: str) -> None:
    """Raise `HistoError` if one of the packages that `what` needs is not installed; `histocli[extra]` installs them."""
    absent = [package for package in packages if not is_installed(package)]
    if absent:
        words = "the package" if len(absent) == 1 else "the packages"
        raise HistoError(f"{what} needs {words} {' and '.join(absent)}", f"pip install 'histocli[{extra}]'")
