"""The store: the patches of a data set in one memory-mapped array (N,96,96,3) uint8."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import compress
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple

import numpy as np

from histocli.atomic import write_atomically
from histocli.data.manifest import COLUMNS, POSITION_COLUMNS, IdsDigest, Row, open_row_writer
from histocli.errors import HistoError
from histocli.fs import check_replaceable, fsync
from histocli.images.remarks import Remarks
from histocli.images.stream import CHUNK, Chunk, count_workers, iterate_chunks, load_chunk, map_ordered
from histocli.listeners import SILENT, CommandListener
from histocli.patch import PATCH_SHAPE, Patch, Pixels
from histocli.sources import Source
from histocli.workspace import Workspace

_HEADER_BYTES = 128


class PackResult(NamedTuple):
    """The result of packing: numbers of patches, also by label (or None), the SHA-256 of pixels, and that of ids."""

    patches: int
    duplicates_dropped: int
    sha1_mismatches: int
    unreadable: int
    labels: Counter[int | None]
    sha256: str
    ids_sha256: str


class _HashedChunk(NamedTuple):
    """A chunk of patches with the SHA-1, the smallest and the largest value of each."""

    chunk: Chunk
    sha1: list[str]
    low: list[int]
    high: list[int]


def open_store(path: Path) -> Pixels:
    """Map a packed array (N,96,96,3) uint8 read-only.

    Raises:
        HistoError: it does not exist, or is another kind of array.
    """
    if not path.exists():
        raise HistoError(f"there are no packed patches at {path}", "run histo download to pack them")
    array = map_array(path, "histo download --force packs it again")
    if array.dtype != np.uint8 or array.shape[1:] != PATCH_SHAPE or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else " in the order of Fortran"
        raise HistoError(f"{path} holds {array.dtype} {array.shape}{order}, not uint8 (N,96,96,3) as histo writes it")
    patches: Pixels = array
    return patches


def map_array(path: Path, hint: str = "") -> "np.ndarray[Any, Any]":
    """Map any .npy file read-only, without unpickling anything.

    Raises:
        HistoError: it is not a .npy file, or is shorter than its header says.
    """
    if path.exists() and not path.is_file():  # opening a pipe could block for ever
        raise HistoError(f"cannot read {path}: it is not a file", hint)
    try:
        return np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-any-return, no-untyped-call]
    except (OSError, ValueError, OverflowError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise HistoError(f"cannot read {path}: {error}", hint) from error


def pack(
    source: Source,
    workspace: Workspace,
    name: str,
    *,
    n: int | None = None,
    seed: int = 0,
    listener: CommandListener = SILENT,
) -> PackResult:
    """Write the patches of `source`, or a sample of `n` of them, as the array of data set `name`, and its manifest.

    Both files get their names only when they are complete. If they replace a data set, its `dataset.json` is removed
    first. The listener receives the number of patches read so far, and the error of each patch that cannot be read.

    Raises:
        HistoError: no patch can be read, or the files cannot be written.
    """
    check_replaceable(workspace.dataset_path(name))
    exact = None if source.total is None or source.should_drop_duplicates else min(source.total, n or source.total)
    size = None if exact is None else _HEADER_BYTES + exact * prod(PATCH_SHAPE)
    columns = (*COLUMNS, *POSITION_COLUMNS) if source.report.has_positions else COLUMNS
    done = 0
    with (
        open_row_writer(workspace.manifest_path(name), columns) as manifest,
        write_atomically(workspace.patches_path(name), size) as temporary,
        temporary.open("wb") as array,
        closing(
            map_ordered(_hash_chunk, iterate_chunks(_sample_patches(source, n, seed), CHUNK), count_workers())
        ) as chunks,
    ):
        packing = _Packer(source, array, manifest)
        for hashed in chunks:
            packing.add(hashed)
            for _, error in hashed.chunk.failures:
                listener.on_unreadable(error)
            done += len(hashed.chunk.patches) + len(hashed.chunk.failures)
            listener.on_progress(done)
        packed = packing.finish()
        array.flush()
        workspace.dataset_path(name).unlink(missing_ok=True)
        fsync(workspace.dataset_dir(name))
    return packed


class _Packer:
    """Appends patches to an array and its manifest, and counts them."""

    def __init__(self, source: Source, array: IO[bytes], manifest: Any) -> None:
        self.source, self.array, self.manifest = source, array, manifest
        self.count = self.duplicates = self.mismatches = self.unreadable = 0
        self.remarks = Remarks()
        self.seen: set[tuple[str, bytes]] = set()
        self.labels: Counter[int | None] = Counter()
        self.pixels, self.ids = hashlib.sha256(), IdsDigest()
        _write_header(array, 0)

    def add(self, hashed: _HashedChunk) -> None:
        """Append the patches of a chunk, without duplicates if the source drops them."""
        chunk = hashed.chunk
        is_kept = np.ones(len(chunk.patches), bool)
        for i, patch in enumerate(chunk.patches):
            if self.source.should_drop_duplicates:
                key = (patch.split, bytes.fromhex(hashed.sha1[i])[:12])
                is_kept[i] = key not in self.seen
                self.seen.add(key)
            if is_kept[i]:
                self._write_row(patch, hashed.sha1[i], hashed.low[i], hashed.high[i])
        kept = chunk.pixels if is_kept.all() else chunk.pixels[is_kept]
        self.array.write(kept.data)
        self.pixels.update(kept.data)
        self.count += len(kept)
        self.duplicates += int((~is_kept).sum())
        self.unreadable += len(chunk.failures)
        self.remarks.merge(chunk.remarks)

    def _write_row(self, patch: Patch, digest: str, low: int, high: int) -> None:
        """Write the row of a patch to the manifest, and count an id that is not the SHA-1."""
        self.mismatches += self.source.has_sha1_ids and patch.id != digest
        self.ids.add(patch.id)
        self.labels[patch.label] += 1
        row = Row(patch.id, patch.label, patch.slide, patch.hospital, patch.split, digest, low, high)
        self.manifest.writerow((*row, *(patch.position or ())))

    def finish(self) -> PackResult:
        """Write the header of the array again, now that its length is known."""
        if self.count == 0:
            raise HistoError(f"no patch could be read from {self.source.report.origin}", "the warnings above say why")
        _write_header(self.array, self.count)
        self.source.report.counts.update(self.remarks.count_images())
        self.source.report.notes += self.remarks.list_sizes()
        counts = (self.count, self.duplicates, self.mismatches, self.unreadable)
        return PackResult(*counts, self.labels, self.pixels.hexdigest(), self.ids.hexdigest())


def _sample_patches(source: Source, n: int | None, seed: int) -> Iterator[Patch]:
    """Yield all patches of the source, or `n` of them chosen at random, in its order."""
    if n is None or source.total is None or n >= source.total:
        return source.read_patches()
    is_chosen = np.zeros(source.total, bool)
    is_chosen[np.random.default_rng(seed).choice(source.total, n, replace=False)] = True
    return compress(source.read_patches(), is_chosen)


def _hash_chunk(patches: list[Patch]) -> _HashedChunk:
    """Load a chunk, and compute the SHA-1, minimum and maximum of each patch for the manifest, on a worker thread."""
    chunk = load_chunk(patches)
    flat = chunk.pixels.reshape(len(chunk.pixels), prod(PATCH_SHAPE))
    low, high = flat.min(1), flat.max(1)
    return _HashedChunk(
        chunk,
        [hashlib.sha1(row.data, usedforsecurity=False).hexdigest() for row in flat],
        low.tolist(),
        high.tolist(),
    )


def _write_header(file: IO[bytes], count: int) -> None:
    """Write the .npy header at the start of the file; then go to the end of the file.

    NumPy pads the header, so its length does not depend on `count`.
    """
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *PATCH_SHAPE)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
    if file.tell() != _HEADER_BYTES:
        raise AssertionError(f"an .npy header of {file.tell()} bytes, not {_HEADER_BYTES}")
    file.seek(0, os.SEEK_END)
