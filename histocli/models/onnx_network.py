"""Run a network that `histo export` wrote with ONNX Runtime, which is faster on a CPU without bf16 units."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import histocli
from histocli.compute.memory import is_out_of_memory
from histocli.errors import HistoError, read_first_line
from histocli.models.export import INPUT, OUTPUTS, open_onnx_session

_HINT = "remove it, or write it again with histo export"


class OnnxNetwork:
    """A network with the interface of `Classifier`: float images (N,3,96,96) in [0, 1] -> logits (N,2).

    It computes on the thread that calls it; any number of threads may call it at once.

    Raises:
        HistoError: the file is damaged, or was made from a checkpoint with another SHA-256.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self._path = path
        try:
            self._session = open_onnx_session(path, threads=1)
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            if is_out_of_memory(error) or isinstance(error, ImportError):
                raise
            raise HistoError(f"{path} cannot be used: {read_first_line(error)}", _HINT) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if metadata.get("checkpoint_sha256") != sha256:
            raise HistoError(f"{path} was not made from this checkpoint", _HINT)
        if metadata.get("histo") != histocli.__version__:
            made_by = metadata.get("histo")
            raise HistoError(f"{path} was made by histo {made_by}, and this is {histocli.__version__}", _HINT)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the log odds as the second logit; the first is 0.

        Raises:
            HistoError: the file does not compute one number for each image.
        """
        try:
            [odds] = self._session.run(OUTPUTS[1:], {INPUT: images.contiguous().numpy()})
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            if is_out_of_memory(error):
                raise
            raise HistoError(f"{self._path} cannot be used: {read_first_line(error)}", _HINT) from error
        if not isinstance(odds, np.ndarray) or odds.dtype != np.float32 or odds.shape != (len(images),):
            raise HistoError(f"{self._path} does not compute one log odds for each patch", _HINT)
        log_odds = torch.from_numpy(odds)
        return torch.stack([torch.zeros_like(log_odds), log_odds], 1)
