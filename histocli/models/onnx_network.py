"""Run a network that `histo export` wrote with ONNX Runtime, which is faster on a CPU without bf16 units."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

import histocli
from histocli.compute.memory import is_out_of_memory
from histocli.errors import HistoError
from histocli.models.export import INPUT, OUTPUTS, open_onnx_session


class OnnxNetwork:
    """A network with the interface of `Classifier`: float images (N,3,96,96) in [0, 1] -> logits (N,2).

    It computes on the thread that calls it; any number of threads may call it at once.

    Raises:
        HistoError: the file is damaged, or was made from a checkpoint with another SHA-256.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        hint = "remove it, or write it again with histo export"
        try:
            self._session = open_onnx_session(path, threads=1)
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            if is_out_of_memory(error) or isinstance(error, ImportError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise HistoError(f"{path} cannot be used: {reason}", hint) from error
        facts = self._session.get_modelmeta().custom_metadata_map
        if facts.get("checkpoint_sha256") != sha256:
            raise HistoError(f"{path} was not made from this checkpoint", hint)
        if facts.get("histo") != histocli.__version__:
            raise HistoError(f"{path} was made by histo {facts.get('histo')}", hint)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the log odds as the second logit; the first is 0."""
        [odds] = self._session.run(OUTPUTS[1:], {INPUT: images.contiguous().numpy()})
        log_odds = torch.from_numpy(odds)
        return torch.stack([torch.zeros_like(log_odds), log_odds], 1)


def can_run() -> bool:
    """Return whether ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None
