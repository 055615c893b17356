"""Check the file of a checkpoint before PyTorch reads it: the zip archive, and the pickle in it.

PyTorch has its own reader of zip archives. Where an archive can be read in two ways, a check could see one content and
PyTorch another one. So an archive is accepted only if it can be read in one way: its directory is at its end, no two
members share bytes, and nothing is compressed. The pickle may only contain plain values and dense tensors, and each
tensor is stored in full.
"""

import io
import pickle
import pickletools
import re
import zlib
from collections import OrderedDict
from math import prod
from pathlib import Path
from struct import unpack
from typing import IO, Any, NamedTuple

MAX_PICKLE = 1 << 22  # bytes of the pickle, which does not contain the weights; the pickle of a large network has 1 MB
MAX_OPCODES = 1_000_000  # the pickle has at most this many; each may make an object of some 100 bytes
_MAX_MEMBERS = 100_000
_MAX_DIMENSIONS, _MAX_NUMBER = 8, 1 << 48  # limits of a tensor's shape
_MEMBER = re.compile(r"[^/]+/(data\.pkl|data/[0-9]+|byteorder|version|\.[a-z_/]+)")
_BLOCK = 1 << 20
_END, _ZIP64_END, _LOCATOR, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_ZIP64_MARK = 0xFFFFFFFF  # a field of 32 bits with this value has its true value in the Zip64 block
# A data descriptor, UTF-8, and bits without a meaning here; not encryption.
_ALLOWED_FLAGS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 11
_ALLOWED_OPCODES = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET"),
    *("BINPUT", "LONG_BINPUT", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
}
_ITEM_SIZES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}


class Member(NamedTuple):
    """A member of an archive: where its bytes are, and their CRC-32."""

    start: int
    size: int
    crc: int


class Storage(NamedTuple):
    """The bytes of a tensor: the number of elements and the size of each."""

    numel: int
    itemsize: int


def check_archive(path: Path) -> None:
    """Check the archive and the pickle of a checkpoint, without loading a tensor.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, is not such an archive, or contains more than plain values and dense tensors; other
            exceptions of `pickle` can come from damaged bytes.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        members = _read_directory(file, size)
        folders = {name.partition("/")[0] for name in members}
        if len(folders) != 1 or not all(map(_MEMBER.fullmatch, members)):
            raise ValueError("it has files that PyTorch does not write")
        _check_sums(file, members)
        folder = folders.pop()
        content = members.get(f"{folder}/data.pkl")
        if content is None or content.size > MAX_PICKLE:
            raise ValueError("it has no data.pkl" if content is None else "its data.pkl is too large")
        file.seek(content.start)
        data = file.read(content.size)
    _check_opcodes(data)
    inspector = _Inspector(data, {name.removeprefix(f"{folder}/"): m.size for name, m in members.items()})
    inspector.load()
    if inspector.tensor_bytes > size:
        raise ValueError("its tensors are larger than the file")


def _read_directory(file: IO[bytes], size: int) -> dict[str, Member]:
    """Return the members of a zip archive by name; refuse an archive that two programs could read differently."""
    count, start, length = _find_directory(file, size)
    if count > _MAX_MEMBERS:
        raise ValueError(f"it has {count:,} members")
    file.seek(start)
    directory = io.BytesIO(file.read(length))
    members: dict[str, Member] = {}
    ranges = []
    for _ in range(count):
        name, offset, number, crc = _read_entry(directory)
        file.seek(offset)
        header = _read_exactly(file, 30, _LOCAL)
        flags, method, *_, name_length, extra_length = unpack("<2x2H16x2H", header[4:])
        begin = offset + 30 + name_length + extra_length
        if file.read(name_length) != name or method or flags & ~_ALLOWED_FLAGS or name.decode() in members:
            raise ValueError("its directory does not match its members")
        members[name.decode()] = Member(begin, number, crc)
        ranges.append((offset, begin + number))
    ends = [0, *(end for _, end in sorted(ranges))]
    if directory.read(1) or any(a > b for a, b in zip(ends, [at for at, _ in sorted(ranges)] + [start], strict=True)):
        raise ValueError("its members overlap, or its directory has more entries than members")
    return members


def _find_directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Return the number of members, and start and length of the directory, which must fill the file to its end."""
    at = size - 22
    file.seek(max(at, 0))
    disk, first, here, count, length, start, comment = unpack("<4H2LH", _read_exactly(file, 22, _END)[4:])
    if disk or first or here != count or comment:
        raise ValueError("it does not end with the directory of a zip archive")
    file.seek(max(at - 20, 0))
    if at >= 76 and file.read(4) == _LOCATOR:
        disk, offset, disks = unpack("<LQL", file.read(16))
        at -= 76
        file.seek(at)
        record, disk64, first64, here64, count64, length64, start64 = unpack(
            "<Q4x2L4Q", _read_exactly(file, 56, _ZIP64_END)[4:]
        )
        pairs = [(count, count64, 0xFFFF), (length, length64, _ZIP64_MARK), (start, start64, _ZIP64_MARK)]
        if (disk, offset, disks, record, disk64, first64) != (0, at, 1, 44, 0, 0) or here64 != count64:
            raise ValueError("its Zip64 directory is not where it should be")
        if any(small not in (large, full) for small, large, full in pairs):
            raise ValueError("it has two directories")
        count, length, start = count64, length64, start64
    if start + length != at:
        raise ValueError("its directory does not end where it says")
    return count, start, length


def _read_entry(directory: IO[bytes]) -> tuple[bytes, int, int, int]:
    """Return name, offset, size and CRC-32 of the next entry of the directory."""
    entry = _read_exactly(directory, 46, _ENTRY)
    flags, method, crc, packed, size, name_length, extra_length, comment, disk, offset = unpack(
        "<4x2H4x3L4H6xL", entry[4:]
    )
    name, extra = directory.read(name_length), directory.read(extra_length)
    if _ZIP64_MARK in (packed, size, offset):
        wanted = [value == _ZIP64_MARK for value in (size, packed, offset)]
        if extra[:4] != b"\1\0" + bytes([8 * sum(wanted), 0]) or len(extra) != 4 + 8 * sum(wanted):
            raise ValueError("a member's Zip64 block is damaged")
        large = iter(unpack(f"<{sum(wanted)}Q", extra[4:]))
        size, packed, offset = (
            next(large) if is_large else value for is_large, value in zip(wanted, (size, packed, offset), strict=True)
        )
    if method or packed != size:
        raise ValueError("its members are compressed, which PyTorch does not write")
    if flags & ~_ALLOWED_FLAGS or comment or disk:
        raise ValueError("a member is encrypted, or in another file")
    return name, offset, size, crc


def _read_exactly(file: IO[bytes], count: int, signature: bytes) -> bytes:
    """Read exactly `count` bytes that begin with `signature`, or raise `ValueError`."""
    data = file.read(count)
    if len(data) != count or not data.startswith(signature):
        raise ValueError("it is not a complete zip archive")
    return data


def _check_sums(file: IO[bytes], members: dict[str, Member]) -> None:
    """Compare the CRC-32 of each member: PyTorch does not, and damaged weights would change the scores."""
    for name, member in members.items():
        file.seek(member.start)
        crc, left = 0, member.size
        while left and (block := file.read(min(left, _BLOCK))):
            crc, left = zlib.crc32(block, crc), left - len(block)
        if left or crc != member.crc:
            raise ValueError(f"the CRC-32 of {name[:60]} is not that of its bytes")


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle that stores other things than plain values, more than `MAX_OPCODES` values, or wrong numbers."""
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data), 1):
        if opcode.name not in _ALLOWED_OPCODES or count > MAX_OPCODES:
            raise ValueError(f"its data.pkl has {opcode.name} at {position}, or too many values")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count:
            raise ValueError("the values in its data.pkl are not numbered in order")
    if position != len(data) - 1:
        raise ValueError("its data.pkl has bytes after its end")


class _Inspector(pickle.Unpickler):
    """Reads a pickle in which tensors and storages are replaced by their sizes; no class is imported."""

    def __init__(self, data: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(data))
        self.sizes, self.tensor_bytes = sizes, 0
        self.types: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or the placeholder that replaces a class in the pickle."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Ordered
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._check_tensor
        if module == "torch" and name in _ITEM_SIZES:
            return name
        raise ValueError(f"{module[:40]}.{name[:40]} is not allowed in it")

    def persistent_load(self, value: Any) -> Storage:
        """Return a storage, after its size has been compared with that of its member."""
        kind, storage_type, key, _, numel = value
        itemsize = _ITEM_SIZES[storage_type]
        if kind != "storage" or type(key) is not str or type(numel) is not int:
            raise ValueError("a tensor's storage has another form than PyTorch's")
        if self.sizes.get(f"data/{key}") != numel * itemsize:
            raise ValueError("a tensor is larger or smaller than its member")
        if self.types.setdefault(key, storage_type) != storage_type:  # PyTorch gives both tensors the first type
            raise ValueError("two tensors of different types share a member")
        return Storage(numel, itemsize)

    def _check_tensor(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        *more: Any,
    ) -> tuple[int, ...]:
        """Return the shape of a tensor, after checking that its elements are in its storage."""
        numbers = (offset, *shape, *stride)
        if len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n < _MAX_NUMBER for n in numbers):
            raise ValueError("a tensor's shape is not one of whole numbers")
        if type(requires_grad) is not bool or type(hooks) is not _Ordered or hooks or more:
            raise ValueError("a tensor has hooks or attributes")
        numel = prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if numel else -1
        if last >= storage.numel or numel > storage.numel:
            raise ValueError("a tensor is larger than its storage")
        self.tensor_bytes += numel * storage.itemsize
        return shape


class _Ordered(OrderedDict[Any, Any]):
    """A replacement of the dictionary of `Module.state_dict`, which may have the attribute `_metadata`."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise ValueError("a dictionary has attributes")
