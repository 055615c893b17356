"""The features of patches on disk: a frozen backbone computes the features of a patch once, for all runs.

Each backbone has a folder in `features/` of the workspace. Its files only grow:

    features.bin    float32 (N,F), one row for each patch
    keys.bin        for each row the SHA-1 of the patch's pixels and the CRC-32 of the row
    encoder.json    what computed them

A row is valid when its key is written, which happens after the row is on the disk. Therefore a process may be killed
at any time, and several processes may add rows to one folder.
"""

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import numpy as np

from histocli.atomic import read_json, write_json
from histocli.errors import HistoError
from histocli.fs import fsync, make_folder, make_write_error, require_space, write_all
from histocli.locks import hold
from histocli.patch import Pixels
from histocli.threads import count_threads
from histocli.workspace import Workspace, make_name

_KEY = np.dtype([("sha1", "u1", 20), ("crc32", "<u4")])
_SHA1_BYTES = 20
_BLOCK = 1024  # patches hashed at a time
_FORMAT = 1


@dataclass(frozen=True)
class FeatureSource:
    """The origin of the features; they are used again only if all of these fields are equal.

    The device and the precision are included, because they change the last digits.
    """

    arch: str
    backbone_sha256: str
    side: int | None
    width: int
    device: str
    precision: str
    format: int = _FORMAT

    @property
    def folder(self) -> str:
        """The name of the folder."""
        digest = sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        return make_name(f"{self.arch.partition('?')[0]}-{digest}".replace("/", "-").replace(":", "-"))


class FeatureCache:
    """The features of one backbone on disk.

    Raises:
        HistoError: the folder cannot be written, or holds the features of another backbone.
    """

    def __init__(self, workspace: Workspace, source: FeatureSource) -> None:
        self.width = source.width
        self.folder = workspace.features_dir / source.folder
        self._features, self._keys = self.folder / "features.bin", self.folder / "keys.bin"
        self._rows: dict[bytes, int] = {}  # the row of each patch, by the SHA-1 of its pixels
        self._crc32: list[int] = []  # the checksum of each row
        description = self.folder / "encoder.json"
        try:
            make_folder(self.folder)
        except OSError as error:
            raise make_write_error(self.folder, error) from error
        with hold(self.folder / ".lock", str(self.folder), wait=True):
            if not description.exists():
                write_json(description, asdict(source))
        if read_json(description) != asdict(source):
            raise HistoError(f"{description} describes another backbone than {source.arch}", f"remove {self.folder}")
        self.refresh()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def refresh(self) -> None:
        """Read the keys of the rows that any process has added."""
        start = len(self._crc32)
        if not self._keys.is_file():
            return
        with self._keys.open("rb") as file:
            file.seek(start * _KEY.itemsize)
            content = file.read()
        keys = np.frombuffer(content[: len(content) // _KEY.itemsize * _KEY.itemsize], _KEY)
        digests = keys["sha1"].tobytes()
        for i in range(len(keys)):
            self._rows[digests[i * _SHA1_BYTES : (i + 1) * _SHA1_BYTES]] = start + i
        self._crc32 += keys["crc32"].tolist()

    def forget_damaged(self, digests: Sequence[bytes]) -> int:
        """Forget the damaged rows of patches, which must be added again; return their number."""
        features, damaged = self._map(), 0
        for row, digest in sorted((self._rows[digest], digest) for digest in set(digests) & self._rows.keys()):
            if row >= len(features) or zlib.crc32(features[row].data) != self._crc32[row]:
                del self._rows[digest]
                damaged += 1
        return damaged

    def read(self, digests: Sequence[bytes]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the features of patches that are all in the cache: float32 (N,F)."""
        rows = np.array([self._rows[digest] for digest in digests], np.int64)
        features: np.ndarray[Any, np.dtype[np.float32]] = np.asarray(self._map()[rows], np.float32)
        return features

    def add(self, digests: Sequence[bytes], features: "np.ndarray[Any, np.dtype[np.float32]]") -> None:
        """Add the features (N,F) of patches, without those that another process has added since.

        Raises:
            HistoError: the disk is full, or cannot be written.
        """
        try:
            with hold(self.folder / ".lock", str(self.folder), wait=True):
                self.refresh()
                new = [i for i, digest in enumerate(digests) if digest not in self]
                rows = np.ascontiguousarray(features[new], "<f4")
                keys = np.zeros(len(new), _KEY)
                keys["sha1"] = np.frombuffer(b"".join(digests[i] for i in new), np.uint8).reshape(-1, _SHA1_BYTES)
                keys["crc32"] = [zlib.crc32(row.data) for row in rows]
                require_space(self.folder, rows.nbytes + keys.nbytes, str(self._features))
                count = len(self._crc32)
                _write_at(self._features, count * self.width * 4, rows)
                _write_at(self._keys, count * _KEY.itemsize, keys)
                self.refresh()
        except OSError as error:
            raise make_write_error(self._features, error) from error

    def _map(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Map the rows that are on the disk read-only: float32 (N,F)."""
        count = self._features.stat().st_size // (self.width * 4) if self._features.is_file() else 0
        if not count:
            return np.empty((0, self.width), np.float32)
        return np.memmap(self._features, "<f4", "r", shape=(count, self.width))


def _write_at(path: Path, position: int, values: "np.ndarray[Any, Any]") -> None:
    """Write values at a position, replace bytes that a killed process left there, and flush them to the disk."""
    path.touch()
    with path.open("r+b", buffering=0) as file:
        file.truncate(position)
        file.seek(position)
        write_all(file, values.tobytes())
    fsync(path)


def hash_patches(store: Pixels, rows: "np.ndarray[Any, np.dtype[np.int64]]") -> list[bytes]:
    """Return the SHA-1 of the pixels of each row of a packed store."""

    def hash_block(start: int) -> list[bytes]:
        patches = np.ascontiguousarray(store[rows[start : start + _BLOCK]])
        return [sha1(patch.data, usedforsecurity=False).digest() for patch in patches]

    with ThreadPoolExecutor(count_threads(), "histo-sha1") as pool:
        return [digest for digests in pool.map(hash_block, range(0, len(rows), _BLOCK)) for digest in digests]
