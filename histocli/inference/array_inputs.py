"""Arrays of patches as input of `histo predict`: NumPy and HDF5 files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from histocli.data.store import map_array
from histocli.errors import HistoError
from histocli.files.file import GZIPPED_HDF5_SUFFIXES, HDF5_SUFFIXES
from histocli.files.hdf5_array import Hdf5Array, convert_damage_errors, find_array
from histocli.files.streams import unpack_gzip
from histocli.images import MAX_PIXELS
from histocli.images.decode import Preparation, refuse_slide
from histocli.images.image_files import ImageArray
from histocli.images.intensity import Ranges, infer_ranges, pick_sample
from histocli.images.sizes import ImageError, Size
from histocli.patch import Patch
from histocli.unchanged import State, check_unchanged, find_state

_SLICE_BYTES = 1 << 24  # how much of a mapped array is passed on at once


def open_array(path: Path) -> "np.memmap | Hdf5Array":
    """Open an array of patches (N,H,W,3), without reading the patches yet.

    Raises:
        HistoError: the file is damaged, or has no such array.
    """
    name = path.name.lower()
    if name.endswith(GZIPPED_HDF5_SUFFIXES):
        with unpack_gzip(path) as unpacked:  # the block removes its name, but the file stays open until it is read
            return _open_h5(Path(unpacked.name), path)
    if name.endswith(HDF5_SUFFIXES):
        return _open_h5(path, path)
    array: np.memmap = _check_array(map_array(path), path)
    return array


def read_array_patches(
    array: "np.memmap | Hdf5Array", path: Path, preparation: Preparation
) -> tuple[Ranges, Iterator[Patch]]:
    """Return which value of an array is white, and its patches; the id of a patch is the number of its row.

    Raises:
        HistoError: it is not clear which value of the array is white.
    """
    state = find_state(path)
    ranges = _infer_array_ranges(array, path)
    preparation = replace(preparation, ranges=ranges)
    blocks = array.read_blocks() if isinstance(array, Hdf5Array) else _iterate_slices(array, path, state)
    return ranges, (
        Patch(str(row), ImageArray(f"{path}, row {row}", image, preparation), path=f"{path}[{row}]")
        for start, block in blocks
        for row, image in enumerate(block, start)
    )


def _iterate_slices(array: "np.memmap", path: Path, state: State) -> Iterator[tuple[int, "np.ndarray"]]:
    """Yield slices of an array: the number of the first row, and the rows.

    They are read and not mapped: if the file became shorter, the system would end the process.

    Raises:
        HistoError: the file cannot be read, or its state is not `state` any more.
    """
    step = max(1, _SLICE_BYTES // int(np.prod(array.shape[1:], dtype=np.int64) * array.dtype.itemsize))
    start = 0
    try:
        with path.open("rb") as file:
            for start in range(0, len(array), step):
                rows = _read_rows(file, array, start, min(start + step, len(array)))
                check_unchanged(file.fileno(), state)
                yield start, rows
    except OSError as error:
        raise HistoError(f"cannot read {path} from row {start} on: {error.strerror or error}") from error


def _read_rows(file: IO[bytes], array: "np.memmap", start: int, stop: int) -> "np.ndarray":
    """Read the rows from `start` to `stop` of a mapped array from its file."""
    if not array.flags.c_contiguous:  # the rows are spread over the file
        return np.array(array[start:stop])
    row = int(np.prod(array.shape[1:], dtype=np.int64) * array.dtype.itemsize)
    file.seek(array.offset + start * row)
    data = file.read((stop - start) * row)
    if len(data) < (stop - start) * row:
        raise OSError("the file was truncated while it was read")
    return np.frombuffer(data, array.dtype).reshape(stop - start, *array.shape[1:])


def _infer_array_ranges(array: "np.ndarray | Hdf5Array", path: Path) -> Ranges:
    """Return which value is white, from up to 256 images; refuse an array where this is ambiguous."""
    if array.dtype == np.uint8:
        return {}
    try:
        ranges = infer_ranges(np.asarray(array[i]) for i in pick_sample(range(array.shape[0])))
    except OSError as error:
        raise HistoError(f"cannot read {path}: {error}") from error
    for found in ranges.values():
        if isinstance(found, ImageError):
            raise HistoError(f"{path} contains {array.dtype} {tuple(array.shape)}: {found}", found.hint)
    return ranges


def _open_h5(unpacked: Path, path: Path) -> Hdf5Array:
    """Open the array of an HDF5 file, and check its shape and how it is stored; messages name `path`."""
    import h5py

    with convert_damage_errors(path):
        file = h5py.File(unpacked, "r")
    try:
        array: Hdf5Array = _check_array(find_array(file, path, "x", is_name_optional=True), path)
    except HistoError:
        file.close()
        raise
    return array


def _check_array(array: Any, path: Path) -> Any:
    """Return the array, or raise `HistoError` if it does not have the shape and type of patches."""
    shape, hint = tuple(array.shape), "patches are (N,H,W,3) in RGB order, of uint8, other integers or fractions"
    if len(shape) != 4 or shape[3] != 3 or 3 in shape[1:3] or array.dtype.kind not in "uif":
        if len(shape) == 4 and shape[1] == 3:
            hint = "its channels come first: move them to the end, numpy.moveaxis(array, 1, 3)"
        elif len(shape) == 4 and shape[2] == 3:  # three images (H,W,3,3) look like patches that are 3 pixels wide
            hint = "its images are on the last axis: move them to the front, numpy.moveaxis(array, 3, 0)"
        elif len(shape) == 4 and shape[3] == 4:
            hint = "drop its fourth channel: array[..., :3]"
        elif shape[-1:] == (3,) and len(shape) == 3:
            hint = "a single image needs a first axis: array[None]"
        raise HistoError(f"{path} contains {array.dtype} {shape}", hint)
    if min(shape) < 1 or shape[1] * shape[2] > MAX_PIXELS:
        raise HistoError(f"{path} contains patches of shape {shape}", f"a patch has 1 to {MAX_PIXELS:,} pixels")
    try:
        refuse_slide(Size(shape[2], shape[1]), 1)
    except ImageError as error:
        raise HistoError(f"{path} contains {error}", error.hint) from error
    return array
