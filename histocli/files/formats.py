"""Formats that are not read, and what to do with such files."""

from collections.abc import Sequence
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import HEAD_BYTES, File, describe_others, is_image_start, split_suffix

_UNPACK_HINT = "unpack it, and give the folder"
_CONVERT_HINT = "write the patches as PNG files, or as an array in a .npy or .npz file"
_SLIDE_HINT = "histo predict SLIDE --out DIR scores it; for labelled patches: histo download --source slides"
_LIST_HINT = (
    "give images or a folder; a list of paths goes to stdin: histo predict - < FILE; a table of labels to --labels"
)
_PACKED_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".npz", ".parquet")
_UNSUPPORTED = {
    ".txt": ("text file", _LIST_HINT),
    ".csv": ("table", _LIST_HINT),
    ".tsv": ("table", _LIST_HINT),
    ".7z": ("7z archive", _UNPACK_HINT),
    ".rar": ("RAR archive", _UNPACK_HINT),
    ".zst": ("Zstandard file", _UNPACK_HINT),
    ".gz": ("gzip file", _UNPACK_HINT),
    ".bz2": ("bzip2 file", _UNPACK_HINT),
    ".xz": ("xz file", _UNPACK_HINT),
    ".lz4": ("LZ4 file", _UNPACK_HINT),
    ".tfrecord": ("TensorFlow record file", _CONVERT_HINT),
    ".tfrecords": ("TensorFlow record file", _CONVERT_HINT),
    ".lmdb": ("LMDB database", _CONVERT_HINT),
    ".mdb": ("LMDB database", _CONVERT_HINT),
    ".mat": ("MATLAB file", _CONVERT_HINT),
    ".pkl": ("Python pickle, which can run any code", _CONVERT_HINT),
    ".pickle": ("Python pickle, which can run any code", _CONVERT_HINT),
    ".pt": ("PyTorch file", _CONVERT_HINT),
    ".pth": ("PyTorch file", _CONVERT_HINT),
    ".arrow": ("Arrow file", "save it as Parquet"),
    ".feather": ("Feather file", "save it as Parquet"),
    ".jxl": ("JPEG XL image", "convert it to PNG"),
    ".svs": ("whole slide", _SLIDE_HINT),
    ".ndpi": ("whole slide", _SLIDE_HINT),
    ".mrxs": ("whole slide", _SLIDE_HINT),
    ".dcm": ("DICOM file", "export a whole slide as a tiled TIFF, or patches as PNG files"),
}


_ARRAY_HINT = "give the array itself; for labels: numpy.savez('patches.npz', x=patches, y=labels)"
_HINT_OF_SUFFIX = {  # what to do with a folder that has such files and no images
    ".npy": _ARRAY_HINT,
    ".h5": f"{_ARRAY_HINT}; PCam's files: --source pcam",
    ".hdf5": _ARRAY_HINT,
    ".heic": "convert them to PNG",
    ".pdf": "convert them to PNG",
    ".001": "join the parts of the archive first: cat NAME.zip.* > NAME.zip",
    ".cls": "the images are missing",
}


class NoImageColumnError(HistoError):
    """A Parquet file has no column of images."""


def explain_no_images(others: Sequence[File]) -> str:
    """Return a hint for a folder or archive that has the files `others`, and no images."""
    if not (skipped := describe_others(others)):
        return "give a folder or an archive that contains images"
    is_packed = any(file.name.lower().endswith(_PACKED_SUFFIXES) for file in others)
    if is_packed:
        return f"{skipped}; unpack the archives, and give the folder"
    suffixes = {split_suffix(file.name)[1].lower() for file in others}
    unsupported = {suffix: hint for suffix, (_, hint) in _UNSUPPORTED.items() if hint != _LIST_HINT}
    known = next((hint for suffix, hint in (unsupported | _HINT_OF_SUFFIX).items() if suffix in suffixes), "")
    return f"{skipped}; {known}" if known else skipped


def refuse_format(path: Path) -> None:
    """Raise `HistoError` for a single file in a format that is not read; the message names the format."""
    known = _UNSUPPORTED.get(path.suffix.lower())
    if known is None:
        return
    with path.open("rb") as file:
        if is_image_start(file.read(HEAD_BYTES)):
            return
    article = "an" if known[0].startswith(("Arrow", "LMDB", "LZ4", "xz")) else "a"
    raise HistoError(f"{path} is {article} {known[0]}, which histo does not read", known[1])
