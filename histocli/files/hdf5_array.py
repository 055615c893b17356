"""Read arrays of HDF5 files that may be hostile: nothing outside the file is read, and memory is bounded.

HDF5 can store an array in other files (external storage, links, virtual data sets), and it unpacks chunks of
any size. Therefore links are not followed, only arrays in the file itself are read, and chunks are unpacked here.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histocli.errors import HistoError
from histocli.files.hdf5_filters import check_fletcher32, inflate, unpack_lzf
from histocli.text import join_first
from histocli.unchanged import check_unchanged, find_state

if TYPE_CHECKING:
    import h5py

    Filter = tuple[int, int, tuple[int, ...], bytes]  # its number, flags, parameters and name

MAX_CHUNK = 4096 * 96 * 96 * 3  # bytes of one unpacked chunk, and of the rows that are read at once
_MAX_LZF_CHUNK = 1 << 22  # LZF is unpacked in Python, some megabytes in a second
_BLOCK = 1 << 24  # bytes of the rows that are read at once, where the chunks allow it
_MAX_CHUNKS = 1 << 26  # of an array: HDF5 counts them one by one
_MAX_REREADS = 64  # times that a chunk may be unpacked, if its rows are too large to be read at once
_MAX_NAMES_SHOWN = 5
_MAX_FLOAT = 8  # bytes of a fraction
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_KNOWN_FILTERS = (_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF)
_ERRORS = (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, zlib.error)


class Hdf5Array:
    """An array of N rows that is stored in an HDF5 file itself; see `find_array`."""

    def __init__(self, dataset: "h5py.Dataset", path: Path, hint: str = "") -> None:
        self.path, self.hint = path, hint
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype
        self._dataset, self._chunks, self._filters = dataset, dataset.chunks, _list_filters(dataset)
        self._chunk_bytes = prod(self._chunks or ()) * self.dtype.itemsize
        self._buffer = np.empty(0, np.uint8)  # for one stored chunk
        self._descriptor = int(dataset.file.id.get_vfd_handle())
        self._state = find_state(self._descriptor)

    @property
    def block_rows(self) -> int:
        """The number of rows to read at a time: whole chunks where that is possible."""
        row = max(1, prod(self.shape[1:]) * self.dtype.itemsize)
        most, wanted = max(1, MAX_CHUNK // row), max(1, _BLOCK // row)
        chunk = self._chunks[0] if self._chunks else 1
        return most if chunk > most else max(chunk, wanted // chunk * chunk)

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """Return one row.

        Raises:
            HistoError: the file is truncated or damaged.
        """
        with convert_damage_errors(self.path, self.hint, f" in row {row}"):
            return np.asarray(self._read(row, row + 1)[0])

    def read_blocks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield blocks of rows: the number of the first row, and the rows.

        Raises:
            HistoError: the file is truncated or damaged.
        """
        step = self.block_rows
        for start in range(0, self.shape[0], step):
            with convert_damage_errors(self.path, self.hint, f" from row {start} on"):
                rows = self._read(start, min(start + step, self.shape[0]))
            yield start, rows

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows from `start` to `stop`; raise `OSError` if the file has changed since it was opened."""
        rows = np.asarray(self._dataset[start:stop]) if self._chunks is None else self._read_chunks(start, stop)
        check_unchanged(self._descriptor, self._state)
        return rows

    def _read_chunks(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows from `start` to `stop`, from every chunk that has some of them."""
        assert self._chunks is not None
        if not len(self._buffer):
            self._buffer = np.empty(_compute_stored_limit(self._chunk_bytes), np.uint8)
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for part in self._dataset.iter_chunks((slice(start, stop), *map(slice, self.shape[1:]))):
            corner = tuple(side.start - side.start % size for side, size in zip(part, self._chunks, strict=True))
            within = tuple(slice(side.start - at, side.stop - at) for side, at in zip(part, corner, strict=True))
            rows[slice(part[0].start - start, part[0].stop - start), *part[1:]] = self._read_chunk(corner, within)
        return rows

    def _read_chunk(self, corner: tuple[int, ...], within: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a part of the chunk that begins at `corner`; no more memory is used than a chunk should take."""
        mask, stored = self._dataset.id.read_direct_chunk(corner, out=self._buffer)
        data: bytes | memoryview = stored
        for i, (number, *_) in reversed(list(enumerate(self._filters))):
            if mask >> i & 1:  # this chunk is stored without the filter
                continue
            if number == _DEFLATE:
                data = inflate(data, self._chunk_bytes + 4)
            elif number == _FLETCHER32:
                data = check_fletcher32(data)
            elif number == _LZF:
                data = unpack_lzf(bytes(data), _compute_stored_limit(self._chunk_bytes))
            elif self.dtype.itemsize > 1:
                data = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(data) != self._chunk_bytes:
            raise ValueError(f"a chunk has {len(data):,} bytes, not {self._chunk_bytes:,}")
        return np.frombuffer(data, self.dtype).reshape(self._chunks)[within]


def find_array(
    file: "h5py.File", path: Path, name: str, *, is_name_optional: bool = False, hint: str = ""
) -> Hdf5Array:
    """Return the array `name` of a file.

    With `is_name_optional`, a file without this array may have one other array, or one array of images (N,H,W,3).

    Raises:
        HistoError: it is not in the file itself, does not hold numbers, or is incomplete; or its chunks are too large,
            or have a compression that is not read.
    """
    with convert_damage_errors(path, hint):
        names = [key for key in file if _is_array(file, key)]
        images = [key for key in names if _is_image_array(file, key)] if is_name_optional and len(names) > 1 else []
        only = images if len(images) == 1 else names
        if name not in names and not (is_name_optional and len(only) == 1):
            shown = join_first([key[:40] for key in names], _MAX_NAMES_SHOWN)
            raise HistoError(
                f"{path} has no array {name!r}: it contains {shown or 'no arrays'}",
                f"the array must be named {name!r}, and be in the file itself: links are not followed",
            )
        dataset = file[name if name in names else only[0]]
        if problem := _find_content_problem(dataset) or _find_storage_problem(dataset):
            raise HistoError(f"{path}: the array {dataset.name.lstrip('/')!r} {problem[0]}", problem[1])
        return Hdf5Array(dataset, path, hint)


def _is_array(file: "h5py.File", name: str) -> bool:
    """Return whether `name` is an array in this file; links are never followed, because they may lead to any file."""
    import h5py

    is_in_file = isinstance(file.get(name, getlink=True), h5py.HardLink)
    return is_in_file and file.get(name, getclass=True) is h5py.Dataset


def _is_image_array(file: "h5py.File", name: str) -> bool:
    """Return whether an array is stored in this file and has the shape (N,H,W,3)."""
    dataset = file[name]
    return _find_content_problem(dataset) is None and len(dataset.shape) == 4 and dataset.shape[3] == 3


def _find_content_problem(dataset: "h5py.Dataset") -> tuple[str, str] | None:
    """Return why an array cannot be read, and a hint; the shape is read last, because HDF5 opens files for it."""
    from h5py import h5d, h5t

    properties = dataset.id.get_create_plist()
    copy = "copy the data into the file itself: h5repack, or h5py"
    if properties.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED) or properties.get_external_count():
        return "is stored in other files, which histo does not read", copy
    if dataset.shape is None or not dataset.shape or dataset.dtype.kind not in "uibf":
        return f"holds {str(dataset.dtype)[:40]} {dataset.shape}, not numbers in rows", "store uint8 (N,H,W,3)"
    kind = dataset.id.get_type()
    if isinstance(kind, h5t.TypeEnumID):
        if dataset.dtype.kind != "b":  # h5py stores booleans as the names FALSE and TRUE of 0 and 1
            return "holds names (an enumeration), not numbers", "store the numbers themselves, as uint8"
        kind = kind.get_super()
    if isinstance(kind, h5t.TypeFloatID):  # as NumPy stores the fraction of this width
        is_plain = kind.get_size() <= _MAX_FLOAT and kind == h5t.py_create(kind.dtype)
    else:
        is_plain = isinstance(kind, h5t.TypeIntegerID) and kind.get_precision() == 8 * kind.get_size()
    if not is_plain:
        return "has numbers of an unusual width", "store uint8"
    return None


def _find_storage_problem(dataset: "h5py.Dataset") -> tuple[str, str] | None:
    """Return why the values of an array cannot be read, and a hint."""
    chunks, itemsize = dataset.chunks, dataset.dtype.itemsize
    if chunks is None:
        is_stored = dataset.id.get_storage_size() >= prod(dataset.shape) * itemsize
        return None if is_stored else ("was never completely stored in the file", "write the file again")
    size, row = prod(chunks) * itemsize, max(1, prod(dataset.shape[1:]) * itemsize)
    filters = _list_filters(dataset)
    numbers = [number for number, *_ in filters]
    are_shuffles_known = [parameters[:1] == (itemsize,) for number, _, parameters, _ in filters if number == _SHUFFLE]
    repack = "store it in smaller chunks, of one row for example: h5repack -l CHUNK=..."
    if size > MAX_CHUNK or (_LZF in numbers and size > _MAX_LZF_CHUNK):
        return f"has chunks of {chunks}, which are too large to read", repack
    if chunks[0] > _MAX_REREADS * max(1, MAX_CHUNK // row):
        return f"has chunks of {chunks[0]:,} rows, which are too many to read at once", repack
    if set(numbers) - set(_KNOWN_FILTERS) or len(numbers) != len(set(numbers)) or not all(are_shuffles_known):
        names = ", ".join(name.decode(errors="replace")[:20] or str(number) for number, _, _, name in filters[:4])
        return f"is compressed with {names}, which histo does not read", "compress it with gzip: h5repack -f GZIP=4"
    expected = prod(-(-length // chunk) for length, chunk in zip(dataset.shape, chunks, strict=True))
    if expected > _MAX_CHUNKS:
        return f"has {expected:,} chunks, which are too many to read", "use larger chunks: h5repack -l CHUNK=..."
    if (stored := dataset.id.get_num_chunks()) != expected:
        return f"has {stored:,} of {expected:,} chunks: it was never completely stored", "write the file again"
    return None


def _list_filters(dataset: "h5py.Dataset") -> "list[Filter]":
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i) for i in range(properties.get_nfilters())]


def _compute_stored_limit(size: int) -> int:
    """Return the most bytes that a chunk of `size` bytes may take in the file: compression may add a little."""
    return size + size // 100 + 64


@contextmanager
def convert_damage_errors(path: Path, hint: str = "", where: str = "") -> Iterator[None]:
    """Convert errors of HDF5 and of unpacking in this block to a `HistoError` that names the file."""
    try:
        yield
    except _ERRORS as error:
        reason = next(islice(str(error).splitlines(), 1), "") or type(error).__name__
        raise HistoError(f"cannot read {path}{where}: it is truncated or damaged: {reason[:200]}", hint) from error
