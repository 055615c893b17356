"""A network that `histo export` wrote, run by ONNX Runtime: the faster way on a processor without bf16 units."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from histocli.errors import HistoError
from histocli.models.export import INPUT, OUTPUTS, onnx_session


class OnnxNetwork:
    """What a `Classifier` is to who scores with it: float images (N,3,96,96) in [0, 1] -> logits (N,2).

    It computes on the thread that calls it, and any number of threads may.

    Raises:
        HistoError: the file is broken, or was made from another checkpoint than that with this SHA-256.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        try:
            self._session = onnx_session(path, threads=1)
        except Exception as error:  # ONNX Runtime's have no class in common
            raise HistoError(f"{path} cannot be used: {str(error).splitlines()[0]}", "remove it") from error
        made_from = self._session.get_modelmeta().custom_metadata_map.get("checkpoint_sha256")
        if made_from != sha256:
            raise HistoError(f"{path} was not made from this checkpoint", "remove it")

    def __call__(self, images: Tensor) -> Tensor:
        """The log odds, and beside them zeros."""
        [odds] = self._session.run(OUTPUTS[1:], {INPUT: images.contiguous().numpy()})
        log_odds = torch.from_numpy(odds)
        return torch.stack([torch.zeros_like(log_odds), log_odds], 1)


def can_run() -> bool:
    """Whether ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None
