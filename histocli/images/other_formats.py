"""Formats that are not read as images: their names, and what to do with such a file."""

from histocli.images.sizes import ImageError

_SAVE_HINT = "save it as PNG or TIFF"
_OTHER_FORMATS = {  # by the first bytes of a file: the name of the format, and what to do with the file
    b"\xff\x0a": ("JPEG XL", _SAVE_HINT),
    b"\0\0\0\x0cJXL ": ("JPEG XL", _SAVE_HINT),
    b"%PDF": ("a PDF", _SAVE_HINT),
    b"%!PS": ("a PostScript file", _SAVE_HINT),
    b"\xd7\xcd\xc6\x9a": ("a Windows metafile", _SAVE_HINT),
    b"Image type:": ("an IM file", _SAVE_HINT),
    b"SIMPLE  =": ("a FITS file", "save it as TIFF, PNG or .npy"),
    b"\x1f\x8b": ("packed by gzip", "unpack it with gunzip or tar -xzf"),
    b"BZh": ("packed by bzip2", "unpack it with bunzip2 or tar -xjf"),
    b"\xfd7zXZ": ("packed by xz", "unpack it with unxz or tar -xJf"),
    b"\x28\xb5\x2f\xfd": ("packed by Zstandard", "unpack it with unzstd"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it and give the folder"),
    b"Rar!": ("a RAR archive", "unpack it and give the folder"),
    b"PAR1": ("a Parquet file", "write its images to a folder, one file each"),
    b"PK\x03\x04": ("a zip archive", "give it the suffix .zip; save an array in an .npz as .npy"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", "give it the suffix .h5"),
    b"version https://git-lfs": ("a pointer of Git LFS", "download the image: git lfs pull"),
    b"\x93NUMPY": ("a NumPy array", "give it the suffix .npy"),
}


def refuse_other_formats(data: bytes) -> None:
    """Raise `ImageError` if the bytes are of a known format that is not read as an image."""
    known = next((known for start, known in _OTHER_FORMATS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"heif"):
        known = ("HEIC", _SAVE_HINT)
    if data[128:132] == b"DICM":
        known = ("a DICOM file", _SAVE_HINT)
    if data[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        known = ("a web page", "download the image again: the server sent a page in its place")
    if data[257:262] == b"ustar":
        known = ("a tar archive", "unpack it with tar -xf, and give the folder")
    if known:
        raise ImageError(f"it is {known[0]}, which is not read as an image", known[1])
