"""The predictor of the Python API, for arrays, files and folders."""

import os
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from histocli.enums import Device, Precision, Resize
from histocli.errors import UsageError
from histocli.listeners import WarningListener
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PathLike = str | os.PathLike[str]


class Predictor:
    """Predicts tumour probabilities of arrays, files and folders with loaded checkpoints; `load` makes one."""

    def __init__(
        self,
        workspace: Workspace,
        ckpt: list[str],
        *,
        device: Device,
        precision: Precision,
        tta: bool,
        uncalibrated: bool,
        prevalence: float | None,
        batch_size: int,
    ) -> None:
        from histocli.inference.checkpoints import check_prevalence, load_predictor

        check_prevalence(prevalence)
        self._workspace, self._batch_size = workspace, batch_size
        self._predictor = load_predictor(
            workspace, ckpt, device, precision, tta=tta, uncalibrated=uncalibrated, prevalence=prevalence
        )
        self.threshold = self._predictor.threshold()

    def __repr__(self) -> str:
        return f"<histocli.Predictor: {'; '.join(m.checkpoint.describe() for m in self._predictor.members)}>"

    def predict_proba(self, patches: "np.ndarray") -> "np.ndarray":
        """Return the tumour probabilities, float64 (N,), of patches, uint8 (N,96,96,3) in RGB order.

        Raises:
            UsageError: the array has another shape or type.
        """
        import numpy as np

        from histocli.compute.device import compute_settings

        _check_patches(patches)
        with compute_settings():
            batches = (patches[i : i + self._batch_size] for i in range(0, len(patches), self._batch_size))
            scores = [self._predictor.predict_array(np.ascontiguousarray(batch)).probs for batch in batches]
        return np.concatenate(scores) if scores else np.empty(0)

    def explain(self, patches: "np.ndarray") -> "np.ndarray":
        """Return how much each place of patches raises (above 0) or lowers (below 0) the log odds of tumour.

        Takes uint8 (N,96,96,3) in RGB order, and gives float32 (N,96,96), in a unit of each patch's own. It computes on
        the CPU.

        Raises:
            UsageError: the array has another shape or type.
            HistoError: the network has no feature map, as vision transformers.
        """
        from histocli.inference.explain import explain
        from histocli.inference.explain_scored import load_for_explaining

        _check_patches(patches)
        paths = [str(member.path.absolute()) for member in self._predictor.members]
        return explain([one.network for one in load_for_explaining(self._workspace, paths).networks], patches)

    def predict(
        self, patches: "np.ndarray | PathLike | Iterable[PathLike]", *, resize: Resize | str = Resize.CROP
    ) -> "pd.DataFrame":
        """Return a table with a row for each patch: `id`, `label` (the tumour probability) and `class` (0 or 1).

        `patches` is an array as for `predict_proba`; its ids are 0 to N-1. Or it is an input of `histo predict`: a
        folder, an image, a zip file, an .npy or .h5 array, the name of a packed data set, or a list of these. Files
        that cannot be read are skipped with a warning; another warning names the first image that was cut, padded or
        read with an inferred range. `class` is 1 if `label` is at or above the checkpoint's threshold.
        """
        import numpy as np
        import pandas as pd

        if isinstance(patches, np.ndarray):
            probs = self.predict_proba(patches)
            return self._table([str(i) for i in range(len(probs))], probs)
        inputs = [patches] if isinstance(patches, str | os.PathLike) else patches
        chunks = list(self._predict_files([os.fspath(path) for path in inputs], Resize(resize)))
        return pd.concat(chunks, ignore_index=True) if chunks else self._table([], np.empty(0))

    def _predict_files(self, inputs: list[str], resize: Resize) -> "Iterable[pd.DataFrame]":
        """Yield a table for each chunk of the patches in `inputs`; warn of unreadable files and of changed images."""
        from histocli.compute.device import compute_settings
        from histocli.data.inputs import open_inputs

        listener, seen = WarningListener(), set[str]()
        size = self._predictor.chunk_size(self._batch_size)
        patches = open_inputs(inputs, self._workspace, resize).patches
        with compute_settings(), closing(self._predictor.predict_patches(patches, size, listener)) as chunks:
            for chunk in chunks:
                for what in chunk.remarks.keys() - seen:
                    listener.on_remark(what, chunk.remarks[what].example)
                seen |= chunk.remarks.keys()
                if chunk.patches:
                    yield self._table([patch.id for patch in chunk.patches], chunk.scores.probs)

    def _table(self, ids: list[str], probs: "np.ndarray") -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame({"id": ids, "label": probs, "class": (probs >= self.threshold).astype(int)})


def _check_patches(patches: "np.ndarray") -> None:
    import numpy as np

    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != (96, 96, 3):
        reason = f"an array of {patches.dtype} {patches.shape} cannot be scored"
        raise UsageError(reason, "give patches as uint8 (N,96,96,3) in RGB order")
