"""Files in formats that are not read, and what to do about them."""

from collections.abc import Sequence
from pathlib import Path

from histocli.errors import HistoError
from histocli.sources.files import File, describe_others, is_image_start

_UNPACK = "unpack it, and give the folder"
_CONVERT = "write the patches as PNG files, or as an array in a .npy or .npz file"
_LIST = "give images or a folder; a list of paths goes to stdin: histo predict - < FILE; a table of labels to --labels"
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".npz", ".parquet")
_NOT_READ = {
    ".txt": ("text file", _LIST),
    ".csv": ("table", _LIST),
    ".tsv": ("table", _LIST),
    ".7z": ("7z archive", _UNPACK),
    ".rar": ("RAR archive", _UNPACK),
    ".zst": ("Zstandard file", _UNPACK),
    ".gz": ("gzip file", _UNPACK),
    ".bz2": ("bzip2 file", _UNPACK),
    ".xz": ("xz file", _UNPACK),
    ".lz4": ("LZ4 file", _UNPACK),
    ".tfrecord": ("TensorFlow record file", _CONVERT),
    ".tfrecords": ("TensorFlow record file", _CONVERT),
    ".lmdb": ("LMDB database", _CONVERT),
    ".mdb": ("LMDB database", _CONVERT),
    ".mat": ("MATLAB file", _CONVERT),
    ".pkl": ("Python pickle, which can run any code", _CONVERT),
    ".pickle": ("Python pickle, which can run any code", _CONVERT),
    ".pt": ("PyTorch file", _CONVERT),
    ".pth": ("PyTorch file", _CONVERT),
    ".arrow": ("Arrow file", "save it as Parquet"),
    ".feather": ("Feather file", "save it as Parquet"),
    ".jxl": ("JPEG XL image", "convert it to PNG"),
    ".svs": ("whole slide", "cut it into patches of 96x96 pixels first"),
    ".ndpi": ("whole slide", "cut it into patches of 96x96 pixels first"),
    ".mrxs": ("whole slide", "cut it into patches of 96x96 pixels first"),
    ".dcm": ("DICOM file", "cut it into patches of 96x96 pixels first, as PNG files"),
}


def explain_no_images(others: Sequence[File]) -> str:
    """Return a hint for a folder or archive without images, of whose files `others` were left out."""
    if not (left_out := describe_others(others)):
        return "give a folder or an archive that contains images"
    is_packed = any(file.name.lower().endswith(_PACKED) for file in others)
    return f"{left_out}; unpack the archives, and give the folder" if is_packed else left_out


def refuse_format(path: Path) -> None:
    """Raise `HistoError` for a single file in a format that is not read; the message names the format."""
    known = _NOT_READ.get(path.suffix.lower())
    if known is None:
        return
    with path.open("rb") as file:
        if is_image_start(file.read(32)):
            return
    raise HistoError(f"{path} is a {known[0]}, which histo does not read", known[1])
