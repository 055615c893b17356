"""The predictor of the Python API, for arrays, files and folders."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from histocli.api_options import convert_enum
from histocli.config import STORED_THRESHOLD, PredictConfig
from histocli.enums import Columns, Resize
from histocli.errors import UsageError
from histocli.listeners import WarningListener
from histocli.patch import PATCH_SHAPE
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from histocli.inference.checkpoints import CheckpointPredictor
    from histocli.inference.predictor import ScoredChunk, Scores
    from histocli.inference.writers import Table

PathLike = str | os.PathLike[str]


class Predictor:
    """Predicts tumour probabilities of arrays, files and folders with loaded checkpoints; `load` makes one."""

    def __init__(self, workspace: Workspace, predictor: "CheckpointPredictor", batch_size: int) -> None:
        self._workspace, self._predictor, self._batch_size = workspace, predictor, batch_size
        self._predictor.report_device(WarningListener())
        self.threshold = self._predictor.find_threshold()

    def __repr__(self) -> str:
        return f"<histocli.Predictor: {'; '.join(c.describe() for c in self._predictor.checkpoints)}>"

    def predict_proba(self, patches: "np.ndarray") -> "np.ndarray":
        """Return the tumour probabilities, float64 (N,), of patches, uint8 (N,96,96,3) in RGB order.

        Raises:
            UsageError: the array has another shape or type.
        """
        import numpy as np

        scores = [scores.probs for _, _, scores in self._score_batches(patches)]
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
        return explain([member.network for member in load_for_explaining(self._workspace, paths).networks], patches)

    def predict(
        self,
        patches: "np.ndarray | PathLike | Iterable[PathLike]",
        *,
        resize: Resize | str = PredictConfig.resize,
        columns: Columns | str = PredictConfig.columns,
    ) -> "pd.DataFrame":
        """Return a table with a row for each patch: `id`, `label` (the tumour probability) and `class` (0 or 1).

        `patches` is an array as for `predict_proba`; its ids are 0 to N-1. Or it is an input of `histo predict`: a
        folder, an image, a zip file, an .npy or .h5 array, the name of a packed data set, or a list of these. Files
        that cannot be read are skipped with a warning; another warning names the first image that was changed or
        read with an inferred range. `class` is 1 if the probability is at or above the checkpoint's threshold. With
        `columns="full"` the columns are those of `histo predict --columns full`.
        """
        import numpy as np

        kinds, how = convert_enum("columns", columns, Columns), convert_enum("resize", resize, Resize)
        if isinstance(patches, np.ndarray):
            return self._make_table(self._predict_array(patches), kinds)
        return self._make_table(self._predict_files(_list_paths(patches), how), kinds)

    def _predict_array(self, patches: "np.ndarray") -> "Iterator[ScoredChunk]":
        """Yield the scores of each batch of an array, as those of files; the ids are the rows."""
        from histocli.images.remarks import Remarks
        from histocli.inference.predictor import ScoredChunk
        from histocli.patch import Patch

        for first, batch, scores in self._score_batches(patches):
            rows = [Patch(str(first + i), pixels.copy) for i, pixels in enumerate(batch)]
            yield ScoredChunk(rows, batch, scores, [], Remarks())

    def _score_batches(self, patches: "np.ndarray") -> "Iterator[tuple[int, np.ndarray, Scores]]":
        """Yield the first row of each batch of an array, its patches and their scores.

        Raises:
            UsageError: the array has another shape or type.
        """
        import numpy as np

        from histocli.compute.device import apply_compute_settings

        _check_patches(patches)
        with apply_compute_settings():
            for first in range(0, len(patches), self._batch_size):
                # PyTorch warns of arrays that cannot be written, such as those of numpy.load(mmap_mode="r").
                batch = np.require(patches[first : first + self._batch_size], requirements=["C", "W"])
                yield first, batch, self._predictor.predict_array(batch)

    def _predict_files(self, inputs: list[str], resize: Resize) -> "Iterator[ScoredChunk]":
        """Yield the scores of each chunk of the patches in `inputs`; warn of unreadable files and changed images."""
        from histocli.compute.device import apply_compute_settings
        from histocli.inference.input_notes import describe_unopened
        from histocli.inference.inputs import open_inputs

        size = self._predictor.choose_chunk_size(self._batch_size)
        opened, listener = open_inputs(inputs, self._workspace, resize), WarningListener()
        for warning in describe_unopened(inputs, opened.other_files):
            listener.on_warning(warning)
        with (
            apply_compute_settings(),
            closing(self._predictor.predict_patches(opened.patches, size, listener)) as chunks,
        ):
            for chunk in chunks:
                for _, error in chunk.failures:
                    listener.on_unreadable(error)
                yield chunk

    def _make_table(self, chunks: "Iterable[ScoredChunk]", columns: Columns) -> "pd.DataFrame":
        """Return the scores of all chunks as a table; without a patch it has no rows."""
        import pandas as pd

        from histocli.inference.columns import ScoredRows, list_column_types, make_table

        config = PredictConfig((), columns=columns, threshold=STORED_THRESHOLD)
        values: Table = {name: [] for name in list_column_types(config)}
        for chunk in chunks:
            for name, column in make_table(config, ScoredRows(chunk, self.threshold)).items():
                values[name] += column
        types = {name: kind for name, kind in list_column_types(config).items() if kind is not str}
        return pd.DataFrame(values).astype(types)


def _list_paths(inputs: Any) -> list[str]:
    """Return the paths and names of one input, or of an iterable of them.

    Raises:
        UsageError: a value is neither text nor a path.
    """
    is_one = (
        isinstance(inputs, str | bytes | os.PathLike) or not isinstance(inputs, Iterable) or hasattr(inputs, "shape")
    )
    for path in (inputs := [inputs] if is_one else list(inputs)):
        if not isinstance(path, str | os.PathLike):
            raise _make_array_error(path)
    return [os.fspath(path) for path in inputs]


def _check_patches(patches: "np.ndarray") -> None:
    """Check that patches are an array uint8 (N,96,96,3).

    Raises:
        UsageError: they are something else; the hint shows how to convert what is usual.
    """
    import numpy as np

    if not isinstance(patches, np.ndarray):
        raise _make_array_error(patches)
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != PATCH_SHAPE:
        reason = f"an array of {patches.dtype} {patches.shape} cannot be scored"
        raise UsageError(reason, f"give patches as uint8 (N,96,96,3) in RGB order{_suggest_conversion(patches)}")


def _suggest_conversion(patches: "np.ndarray") -> str:
    """Return how to convert an array of another common shape or type into patches; "" if that is not clear."""
    shape = patches.shape
    if shape == PATCH_SHAPE:
        return "; one patch needs a first axis: patches[None]"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3, 4):
        return "; the channels come first: numpy.moveaxis(patches, 1, 3)"
    if len(shape) == 4 and shape[3] == 4:
        return "; drop the fourth channel: patches[..., :3]"
    if shape[1:3] == PATCH_SHAPE[:2] and (len(shape) == 3 or shape[3:] == (1,)):
        return "; grey patches: numpy.stack([grey] * 3, axis=-1) of the array (N,96,96)"
    if len(shape) == 4 and shape[3] == 3 and shape[1:] != PATCH_SHAPE:
        return "; patches of another size: save them with numpy.save, and predict the file, which has resize="
    if patches.dtype.kind == "f" and shape[1:] == PATCH_SHAPE:
        white = 1 if patches.size and float(patches.max()) <= 1 else 255
        return f"; white is {white}: " + ("(patches * 255)" if white == 1 else "patches") + ".round().astype('uint8')"
    return ""


def _make_array_error(value: object) -> UsageError:
    """Return the error for a value that is neither an array nor a path; the hint shows how to make an array of it."""
    name = type(value).__name__
    hint = "give patches as a NumPy array uint8 (N,96,96,3) in RGB order"
    if hasattr(value, "numpy"):
        hint += "; of a tensor in this order: tensor.numpy()"
    else:
        hint += "; of a list of images: numpy.stack([numpy.asarray(image) for image in images])"
    return UsageError(f"a value of type {name} cannot be scored", hint)
