"""Train and evaluate classifiers of metastatic cancer in H&E patches of lymph nodes.

The Python API, described in docs/python.md:

    import histocli as histo

    histo.download(source="synthetic", n=2000)
    histo.balance(n=1000)
    histo.train(epochs=3)
    histo.load("best.pt").predict("patches/")

Importing this package is cheap: PyTorch and pandas are imported by the functions that need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histocli.api import balance, download, evaluate, load, train, tune
    from histocli.api_predictor import Predictor
    from histocli.errors import HistoError
    from histocli.workspace import Workspace

__version__ = "0.2.0.dev0"
__all__ = ["HistoError", "Predictor", "Workspace", "balance", "download", "evaluate", "load", "train", "tune"]

_MODULES = {
    "HistoError": "histocli.errors",
    "Predictor": "histocli.api_predictor",
    "Workspace": "histocli.workspace",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULES.get(name, "histocli.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
