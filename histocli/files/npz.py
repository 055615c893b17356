"""Arrays of patches and their labels in an .npz file, listed as if they were image files and a table."""

import io
import re
import struct
import zipfile
from collections.abc import Sequence
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from histocli.class_names import find_split
from histocli.errors import HistoError
from histocli.files.array_tables import LABEL_TITLES, make_array_table
from histocli.files.file import MAX_FILE_BYTES, File, SkippedMember
from histocli.files.streams import Open, StreamMember, StreamReader
from histocli.images import MAX_PIXELS, tiff_tags

_MAX_RATIO = 1100  # the largest ratio to which deflate can compress
_BLOCK = 1 << 20  # bytes that are read at a time
_MAX_COLUMNS = 32  # arrays (N,) that become columns of the table; others are skipped


class _Array(NamedTuple):
    """An array in an .npz: its name, its file in the archive, its shape and type, and where its values begin."""

    key: str
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    is_fortran: bool
    start: int

    @property
    def folder(self) -> str:
        """A folder named after the split in the array's name, such as `train/` for `train_images`; else ""."""
        split = next((word for word in re.split(r"[_\W]+", self.key.lower()) if find_split(word)), "")
        return f"{split}/" if split else ""

    @property
    def title(self) -> str:
        """The array's name in lower case, without the split: `y` for `Y_train`."""
        words = [word for word in re.split(r"[_\W]+", self.key.lower()) if word and not find_split(word)]
        return "_".join(words)

    @property
    def is_patches(self) -> bool:
        """Whether it has the shape and type of patches."""
        is_number = self.dtype.kind in "uif" and self.dtype.itemsize <= 8
        return len(self.shape) == 4 and self.shape[3] == 3 and is_number and not self.is_fortran

    def is_column(self, rows: int) -> bool:
        """Return whether it has one number or text for each of `rows` patches."""
        size = rows * self.dtype.itemsize
        return self.shape in ((rows,), (rows, 1)) and self.dtype.kind in "uibfUS" and size <= MAX_FILE_BYTES

    def __str__(self) -> str:
        return f"{self.key} {self.dtype} {self.shape}"


def list_npz(name: str, open_file: Open) -> list[File]:
    """List the patches (N,H,W,3) of an .npz as files, and its arrays (N,) as the columns of a table.

    The table is the file labels.csv if one of the arrays has a usual name of labels, else arrays.csv. Patches of uint8
    are listed as PPM files, those of other integers and of fractions as TIFF files. Arrays with names such as `x_train`
    and `train_images` are in the folder of their split. Other arrays are listed as files that are skipped.

    Raises:
        HistoError: there is no array of patches, or two of one split; or the labels are no array (N,).
    """
    archive = zipfile.ZipFile(open_file())
    arrays = [_read_header(archive, info) for info in archive.infolist() if not info.is_dir()]
    patches = [array for array in arrays if array.is_patches]
    if not patches:
        raise HistoError(
            f"{name} has no patches: {', '.join(map(str, arrays)) or 'it is empty'}",
            f"patches are (N,H,W,3) in RGB order, of uint8, other integers or fractions{_explain_shapes(arrays)}",
        )
    listed: list[File] = []
    used: set[str] = set()
    of_folder: dict[str, _Array] = {}
    for array in patches:
        if (other := of_folder.setdefault(array.folder, array)) is not array:
            raise HistoError(
                f"{name} has several arrays of patches: {other.key} and {array.key}",
                f"save the one to use: z = numpy.load({name.rpartition('/')[2]!r}); numpy.savez('patches.npz', "
                f"x=z[{other.key!r}]), with y=z[...] for its labels",
            )
        listed += _list_patches(name, archive, array)
        rows = array.shape[0]
        columns = [column for column in arrays if column.folder == array.folder and column.is_column(rows)][
            :_MAX_COLUMNS
        ]
        _check_labels(name, arrays, array, columns)
        if columns:
            values = [
                (column.title or column.key, column.key, _read_column(archive, column, rows)) for column in columns
            ]
            ids = [_name_patch(array, row) for row in range(rows)]
            listed.append(make_array_table(name, array.folder, "array", ids, values))
        used |= {array.key, *(column.key for column in columns)}
    return listed + [File(f"{array.key}.npy", SkippedMember(".npy")) for array in arrays if array.key not in used]


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Array:
    """Read the shape, the type and the order of an array."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, is_fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
        except (SyntaxError, TokenError, RecursionError, MemoryError, OverflowError) as error:
            raise ValueError(f"the header of an array is damaged: {error}") from error
        return _Array(info.filename.removesuffix(".npy"), info, shape, dtype, is_fortran, stream.tell())


def _explain_shapes(arrays: Sequence[_Array]) -> str:
    """Return what to do with the first array that is nearly one of patches; "" if there is none."""
    for array in arrays:
        shape = array.shape
        if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3, 4):
            return f"; the channels of {array.key} come first: numpy.moveaxis(array, 1, 3)"
        if len(shape) == 4 and shape[3] == 4:
            return f"; drop the fourth channel of {array.key}: array[..., :3]"
        if len(shape) == 4 and shape[3] == 3 and array.is_fortran:
            return f"; the values of {array.key} are in Fortran's order: numpy.ascontiguousarray(array)"
        if len(shape) == 3 and min(shape) > 3:
            return f"; {array.key} is grey: numpy.stack([array] * 3, axis=-1)"
    return ""


def _list_patches(name: str, archive: zipfile.ZipFile, array: _Array) -> list[File]:
    """List the patches of an array as image files without compression.

    Raises:
        HistoError: the patches are empty or too large.
        BadZipFile: the array is damaged.
    """
    rows, height, width = array.shape[:3]
    size = height * width * 3 * array.dtype.itemsize
    if not 0 < height * width <= MAX_PIXELS:
        raise HistoError(
            f"{name}: {array.key} holds patches of shape {array.shape}", f"a patch has 1 to {MAX_PIXELS:,} pixels"
        )
    assert archive.fp is not None
    largest = _MAX_RATIO * archive.fp.seek(0, io.SEEK_END)
    if array.start + rows * size != array.info.file_size or array.info.file_size > largest:
        raise EOFError(f"{array.key} is not as large as its header says")
    with archive.open(array.info) as stream:  # its end is where zipfile compares the checksum, which covers all patches
        while stream.read(_BLOCK):
            pass
    positions = [(array.start + row * size, size) for row in range(rows)]
    reader = StreamReader(lambda: archive.open(array.info), positions)
    is_uint8 = array.dtype == np.uint8
    header = b"P6\n%d %d\n255\n" % (width, height) if is_uint8 else _make_tiff_header(height, width, array.dtype)
    return [
        File(_name_patch(array, row), StreamMember(reader, *position, header)) for row, position in enumerate(positions)
    ]


def _name_patch(array: _Array, row: int) -> str:
    return f"{array.folder}{row}.{'ppm' if array.dtype == np.uint8 else 'tif'}"


def _check_labels(name: str, arrays: Sequence[_Array], patches: _Array, columns: Sequence[_Array]) -> None:
    """Check that an array with a usual name of labels has one label for each patch.

    Raises:
        HistoError: it has not.
    """
    for array in arrays:
        if array.folder == patches.folder and array.title in LABEL_TITLES and array not in columns:
            hint = f"labels are numbers or words ({patches.shape[0]},)"
            if len(array.shape) == 2 and array.shape[1] > 1:
                hint += f"; of one column for each class: {array.key}.argmax(axis=1)"
            elif array.dtype.kind == "O":
                hint += f"; save them as numbers or text: {array.key}.astype(int) or .astype(str)"
            raise HistoError(f"{name}: {array.info.filename} holds {array.dtype} {array.shape}", hint)


def _read_column(archive: zipfile.ZipFile, column: _Array, rows: int) -> list[Any]:
    """Return the values of an array (N,) or (N,1)."""
    with archive.open(column.info) as stream:
        stream.read(column.start)
        data = stream.read(rows * column.dtype.itemsize)
    if len(data) < rows * column.dtype.itemsize:
        raise EOFError(f"{column.key} is not as large as its header says")
    values: list[Any] = np.frombuffer(data, column.dtype).tolist()
    return values


def _make_tiff_header(height: int, width: int, dtype: "np.dtype[Any]") -> bytes:
    """Return the bytes that make a TIFF file of the samples (H,W,3) that follow them."""
    order = ">" if dtype.str[0] == ">" else "<"
    start = 8 + 2 + 10 * 12 + 4  # the head of the file, and ten tags
    data = start + 2 * 6
    tags = [
        (tiff_tags.WIDTH, 4, 1, width),
        (tiff_tags.HEIGHT, 4, 1, height),
        (tiff_tags.BITS_PER_SAMPLE, 3, 3, start),
        (tiff_tags.COMPRESSION, 4, 1, 1),
        (tiff_tags.PHOTOMETRIC, 4, 1, 2),  # RGB
        (tiff_tags.STRIP_OFFSETS, 4, 1, data),
        (tiff_tags.SAMPLES_PER_PIXEL, 4, 1, 3),
        (tiff_tags.ROWS_PER_STRIP, 4, 1, height),
        (tiff_tags.STRIP_BYTES, 4, 1, height * width * 3 * dtype.itemsize),
        (tiff_tags.SAMPLE_FORMAT, 3, 3, start + 6),
    ]
    head = struct.pack(f"{order}2sHIH", b"MM" if order == ">" else b"II", 42, 8, len(tags))
    listed = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    sample_format = {"u": 1, "i": 2, "f": 3}[dtype.kind]
    return head + listed + struct.pack(f"{order}I6H", 0, *[dtype.itemsize * 8] * 3, *[sample_format] * 3)
