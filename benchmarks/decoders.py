"""Compare decoders on damaged and intact TIFF files: `python -m benchmarks.decoders [N]`, of N synthetic patches.

Prints a table of what each decoder does with damaged files, and one of the time that it takes for an intact file. Needs
the extra `tiff`.
"""

import io
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

import histocli
from histocli.images.decode import decode
from histocli.patch import Pixels

Damage = Callable[[bytearray, int, int], bytes | bytearray]

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "LZW": {"compression": "lzw"},
    "LZW, predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "adobe_deflate"},
    "PackBits": {"compression": "packbits"},
    "JPEG": {"compression": "jpeg", "compressionargs": {"level": 95}},
}
LAYOUTS: tuple[dict[str, Any], ...] = ({}, {"rowsperstrip": 16}, {"tile": (32, 32)})


def decode_by_opencv(data: bytes) -> Pixels:
    """Decode as OpenCV does."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("OpenCV cannot decode it")
    return np.asarray(image[..., ::-1], np.uint8)


def decode_by_pillow(data: bytes) -> Pixels:
    """Decode as Pillow does."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def decode_by_tifffile(data: bytes) -> Pixels:
    """Decode as tifffile and imagecodecs do."""
    return np.asarray(tifffile.imread(io.BytesIO(data)))


DECODERS: dict[str, Callable[[bytes], Pixels]] = {
    "OpenCV": decode_by_opencv,
    "Pillow": decode_by_pillow,
    "tifffile": decode_by_tifffile,
    "histo": lambda data: decode(data, "patch.tif"),
}


def overwrite_with_noise(data: bytearray, offset: int, length: int) -> bytearray:
    """Overwrite a third of a strip or tile with random bytes."""
    data[offset : offset + length] = np.random.default_rng(0).bytes(length)
    return data


def overwrite_with_zeros(data: bytearray, offset: int, length: int) -> bytearray:
    """Overwrite a third of a strip or tile with zeros."""
    data[offset : offset + length] = bytes(length)
    return data


def flip_bit(data: bytearray, offset: int, length: int) -> bytearray:
    """Flip one bit."""
    data[offset + length // 2] ^= 8
    return data


DAMAGES: dict[str, Damage] = {
    "noise": overwrite_with_noise,
    "zeros": overwrite_with_zeros,
    "one bit": flip_bit,
    "cut at 60%": lambda data, offset, length: data[: int(len(data) * 0.6)],
    "cut at 95%": lambda data, offset, length: data[: int(len(data) * 0.95)],
}


def write_tiff(patch: Pixels, compression: str, layout: dict[str, Any]) -> bytes:
    """Return a patch as a TIFF file."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, patch, photometric="rgb", **COMPRESSIONS[compression], **layout)
    return stream.getvalue()


def damage(data: bytes) -> Iterator[bytes]:
    """Yield a TIFF file with each kind of damage."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        spans = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    offset, length = spans[len(spans) // 2]
    for harm in DAMAGES.values():
        yield bytes(harm(bytearray(data), offset + length // 3, max(8, length // 3)))


def classify(decoder: Callable[[bytes], Pixels], damaged: bytes, intact: Pixels) -> str:
    """Return whether a decoder refuses a damaged file, or takes it with the right or with wrong pixels."""
    try:
        pixels = decoder(damaged)
    except Exception:  # noqa: BLE001 - each decoder raises its own exceptions
        return "refused"
    return "right" if np.array_equal(pixels, intact) else "wrong"


def main(n: int = 10) -> None:
    """Print both tables."""
    tifffile.logger().setLevel("CRITICAL")
    with tempfile.TemporaryDirectory() as folder:
        workspace = histocli.Workspace(Path(folder))
        histocli.download(workspace, source="synthetic", n=n)
        patches = np.load(workspace.patches_path("synthetic"))
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for compression in COMPRESSIONS:
        for data in (write_tiff(patch, compression, layout) for patch in patches for layout in LAYOUTS):
            for name, decoder in DECODERS.items():
                began = time.perf_counter()
                intact = decoder(data)
                seconds[compression, name].append(time.perf_counter() - began)
                counts[compression, name].update(classify(decoder, damaged, intact) for damaged in damage(data))
    print(
        f"| {n * len(LAYOUTS) * len(DAMAGES):,} damaged files of each compression: taken with wrong pixels, refused",
        end="",
    )
    print(" | " + " | ".join(DECODERS) + " |\n|" + " --- |" * (1 + len(DECODERS)))
    for compression in COMPRESSIONS:
        found = (counts[compression, name] for name in DECODERS)
        print(
            f"| {compression} | " + " | ".join(f"{results['wrong']}, {results['refused']}" for results in found) + " |"
        )
    print(
        "\n| microseconds for an intact file, median | "
        + " | ".join(DECODERS)
        + " |\n|"
        + " --- |" * (1 + len(DECODERS))
    )
    for compression in COMPRESSIONS:
        times = (statistics.median(seconds[compression, name]) * 1e6 for name in DECODERS)
        print(f"| {compression} | " + " | ".join(f"{time:.0f}" for time in times) + " |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
