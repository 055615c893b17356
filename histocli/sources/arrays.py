"""Arrays of patches and their labels in .npz and Parquet files, listed as if they were image files and a table."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from histocli.data import MAX_PIXELS, tiff_tags
from histocli.errors import HistoError
from histocli.sources.class_names import split_of
from histocli.sources.files import MAX_FILE_BYTES, File, MadeTable
from histocli.sources.streams import Open, StreamMember, StreamReader

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_IMAGES = ("x", "images", "image", "data", "patches")  # words in the names of arrays, as in x_train or val_images
_LABELS = ("y", "labels", "label", "targets", "target")
_LABEL_COLUMNS = ("label", "labels", "target", "class", "tumor", "y")
_SHARD = re.compile(r"(?:^|/)(\w+?)[-_]\d+[-_]of[-_]\d+\.parquet$")  # as in Hugging Face's data sets
_MAX_RATIO = 1100  # the largest ratio to which deflate can compress
_MAX_ROWS = 50_000_000
_MAX_GROUP_BYTES = 1 << 30  # the largest group of rows of a Parquet file, which is read into memory


def list_npz(name: str, open_file: Open) -> list[File]:
    """List the patches (N,H,W,3) of an .npz as files, and labels (N,) of 0 and 1 as the file labels.csv.

    Patches of uint8 are listed as PPM files, those of other integers and of fractions as TIFF files. Arrays with names
    such as `x_train` and `train_images` are in the folder of their split.

    Raises:
        HistoError: there is no such array, or two arrays of one split.
    """
    archive = zipfile.ZipFile(open_file())
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
    listed: list[File] = []
    seen = []
    key_of_folder: dict[str, str] = {}
    for key, info in members.items():
        with archive.open(info) as stream:
            shape, dtype, is_fortran = _read_header(stream)
            start = stream.tell()
        seen.append(f"{key} {dtype} {shape}")
        if len(shape) != 4 or shape[3] != 3 or dtype.kind not in "uif" or dtype.itemsize > 8 or is_fortran:
            continue
        height, width = shape[1:3]
        size = height * width * 3 * dtype.itemsize
        if not 0 < height * width <= MAX_PIXELS:
            raise HistoError(f"{name}: {key} holds patches of shape {shape}", f"1 to {MAX_PIXELS:,} pixels each")
        if start + shape[0] * size != info.file_size or info.file_size > _MAX_RATIO * _find_size(archive):
            raise EOFError(f"{key} is not as large as its header says")
        positions = [(start + row * size, size) for row in range(shape[0])]
        reader = StreamReader(lambda info=info: archive.open(info), positions)  # type: ignore[misc]
        is_uint8 = dtype == np.uint8
        header = b"P6\n%d %d\n255\n" % (width, height) if is_uint8 else _make_tiff_header(height, width, dtype)
        folder, suffix = _find_split_folder(key), "ppm" if is_uint8 else "tif"  # image formats without compression
        if (other := key_of_folder.setdefault(folder, key)) != key:
            raise HistoError(
                f"{name} has several arrays of patches: {other} and {key}", "save each of them in a file of its own"
            )
        listed += [
            File(f"{folder}{row}.{suffix}", StreamMember(reader, *position, header))
            for row, position in enumerate(positions)
        ]
        labels = next((members[other] for other in _guess_label_names(key) if other in members), None)
        if labels is not None:
            table = _make_label_table(archive, labels, shape[0], name, folder, suffix)
            listed.append(File(f"{folder}labels.csv", MadeTable(table)))
    if not listed:
        raise HistoError(
            f"{name} has no patches: {', '.join(seen) or 'it is empty'}",
            "patches are (N,H,W,3) in RGB order, of uint8, other integers or fractions",
        )
    return listed


def _find_size(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None
    return archive.fp.seek(0, io.SEEK_END)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], "np.dtype[Any]", bool]:
    """Return the shape, the type and the order of an array in a .npy file."""
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
    except (SyntaxError, TokenError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"the header of an array is damaged: {error}") from error
    return shape, dtype, is_fortran


def _find_split_folder(key: str) -> str:
    """Return a folder named after the split in an array's name, such as `train/` for `train_images`."""
    split = next((word for word in re.split(r"[_\W]+", key.lower()) if split_of(word)), "")
    return f"{split}/" if split else ""


def _guess_label_names(key: str) -> Iterator[str]:
    """Yield the names that the array of labels may have: `y_train` for `x_train`."""
    words = re.split(r"([_\W]+)", key)
    for at, word in enumerate(words):
        if word.lower() in _IMAGES:
            for label in _LABELS:
                yield "".join([*words[:at], label, *words[at + 1 :]])


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


def _make_label_table(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, rows: int, name: str, folder: str, suffix: str
) -> bytes:
    """Return an array of labels as a CSV table."""
    with archive.open(info) as stream:
        shape, dtype, _ = _read_header(stream)
        is_possible = shape in ((rows,), (rows, 1)) and dtype.kind in "uib" and rows * dtype.itemsize <= MAX_FILE_BYTES
        if not is_possible:
            raise HistoError(f"{name}: {info.filename} holds {dtype} {shape}", f"labels are integers ({rows},)")
        values = np.frombuffer(stream.read(rows * dtype.itemsize), dtype)
    lines = (f"{folder}{row}.{suffix},{value}\n" for row, value in enumerate(values.astype(int).tolist()))
    return ("id,label\n" + "".join(lines)).encode()


def list_parquet(name: str, open_file: Open) -> list[File]:
    """List the images in a column of a Parquet file as files, and its column of labels as the file labels.csv.

    Raises:
        HistoError: pyarrow is not installed, or there is no column of images.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise HistoError(f"reading {name} needs pyarrow", "pip install pyarrow") from error
    try:
        table = pq.ParquetFile(open_file())
        schema = table.schema_arrow
        column = next((field.name for field in schema if _is_image_column(field.type, pa)), None)
        if table.metadata.num_rows > _MAX_ROWS:
            raise HistoError(f"{name} has {table.metadata.num_rows:,} rows, over {_MAX_ROWS:,}", "split it")
        if column is None:
            names = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise HistoError(f"{name} has no column of images: {names}", "images are bytes, as in Hugging Face's sets")
        shard = _SHARD.search(name)
        folder = f"{shard[1]}/" if shard and split_of(shard[1]) else ""
        rows = _ParquetRows(table, column, Lock())
        width = len(str(table.metadata.num_rows))
        stem = name.rpartition("/")[2].removesuffix(".parquet")
        ids = [f"{folder}{stem}-{row:0{width}}" for row in range(table.metadata.num_rows)]
        listed = [File(key, _ParquetImage(rows, row)) for row, key in enumerate(ids)]
        label = next((key for key in _LABEL_COLUMNS if key in schema.names), None)
        if label is not None:
            labels = _format_labels(table.read([label])[label].to_pylist(), label, schema.metadata or {})
            lines = "".join(f"{key},{label_text}\n" for key, label_text in zip(ids, labels, strict=True) if label_text)
            listed.append(File(f"{folder}{stem}-labels.csv", MadeTable(f"id,label\n{lines}".encode())))
    except (pa.ArrowException, AttributeError, KeyError, TypeError) as error:
        raise HistoError(f"cannot read {name}: {error}", "check that the download is complete") from error
    return listed


def _is_image_column(kind: Any, pa: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and pa.types.is_binary(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _format_labels(values: list[Any], column: str, metadata: dict[bytes, bytes]) -> list[str]:
    """Return labels as text; the names of classes in the file's metadata replace numbers, because 0 may be tumour."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(column, {}).get("names") if isinstance(features.get(column), dict) else None
    numbers = [int(value) if isinstance(value, bool) else value for value in values]
    if names:
        numbers = [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in numbers]
    return ["" if value is None else str(value) for value in numbers]


@dataclass
class _ParquetRows:
    """Reads the images of a Parquet file, one group of rows after the other; two groups stay in memory."""

    table: "pq.ParquetFile"
    column: str
    lock: Any

    def __post_init__(self) -> None:
        sizes = [self.table.metadata.row_group(i).num_rows for i in range(self.table.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self.kept: dict[int, Any] = {}

    def read(self, row: int) -> bytes:
        """Return the bytes of the image in a row."""
        with self.lock:
            group = int(np.searchsorted(self.starts, row, "right")) - 1
            if group not in self.kept:
                size = self.table.metadata.row_group(group).total_byte_size
                if size > _MAX_GROUP_BYTES:
                    raise OSError(f"a group of rows of {size >> 20:,} MiB, over {_MAX_GROUP_BYTES >> 20}")
                while len(self.kept) > 1:
                    del self.kept[next(iter(self.kept))]
                self.kept[group] = self.table.read_row_group(group, [self.column]).column(0)
            value = self.kept[group][row - int(self.starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError(f"row {row} has no image")
        return data


@dataclass(slots=True)
class _ParquetImage:
    """Reads the image file in one row of a Parquet file."""

    rows: _ParquetRows
    row: int

    def __call__(self) -> bytes:
        return self.rows.read(self.row)
