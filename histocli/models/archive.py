"""Read the file of a checkpoint: a zip archive with a pickle and the values of the tensors.

The pickle may only contain plain values and dense tensors, and each tensor is stored in full. It is loaded twice: first
with the shapes of the tensors in their places, and then, if nothing is wrong, with the tensors. `torch.load` is not
used: it has its own reader of zip archives, which could find another content in the file than a check before it.
"""

import io
import os
import pickle
import pickletools
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

MAX_PICKLE = 1 << 22  # bytes of the pickle, which does not contain the weights; the pickle of a large network has 1 MB
MAX_OPCODES = 1_000_000  # the pickle has at most this many; each may make an object of some 100 bytes
_MAX_TUPLES = 50_000  # PyTorch writes 4 for a tensor; the hash of some 130,000 tuples in each other crashes Python
_MAX_DIMENSIONS, _MAX_NUMBER = 8, 1 << 48  # limits of a tensor's shape
_MEMBER = re.compile(r"[^/]+/(data\.pkl|data/[0-9]+|byteorder|version|\.[a-z_/]+)")
_BLOCK = 1 << 20  # bytes that are read at a time
_MAX_DIRECTORY = 1 << 24  # bytes; that of a large network has less than 1 MB
_TUPLE_OPCODES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_ALLOWED_OPCODES = _TUPLE_OPCODES | {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "EMPTY_TUPLE"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET"),
    *("BINPUT", "LONG_BINPUT", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
}
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Storage(NamedTuple):
    """The values of one or more tensors: their number and type, and their bytes; None if they are not read yet."""

    numel: int
    dtype: torch.dtype
    content: torch.Tensor | None


def load_archive(path: Path) -> Any:
    """Return the plain values and tensors that a checkpoint contains; none of its code is run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such an archive, or contains more than plain values and dense tensors; other exceptions of
            `zipfile` and `pickle` can come from damaged bytes.
    """
    with _File(path) as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        members = _list_members(archive, size)
        order = members.get("byteorder")
        if order is not None and (order.file_size > 6 or archive.read(order) != sys.byteorder.encode()):
            raise ValueError("its numbers have the byte order of another kind of processor")
        content = members.get("data.pkl")
        if content is None or content.file_size > MAX_PICKLE:
            raise ValueError("it has no data.pkl" if content is None else "its data.pkl is too large")
        data = archive.read(content)
        _check_opcodes(data)
        shapes = _Tensors(members)
        _Loader(data, shapes).load()
        if shapes.total_bytes > size:
            raise ValueError("its tensors are larger than the file")
        return _Loader(data, _Tensors(members, archive)).load()


class _File(io.FileIO):
    """A file whose zip directory is small: zipfile reads all of it at once, and makes an object for each entry."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; zipfile asks for more than `_MAX_DIRECTORY` only if the directory is larger."""
        if size is not None and size > _MAX_DIRECTORY:
            raise ValueError("its directory is too large")
        return super().read(size)


def _list_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive of `size` bytes by name, without the folder that they are all in."""
    infos = archive.infolist()
    folders = {info.filename.partition("/")[0] for info in infos}
    members = {info.filename.partition("/")[2]: info for info in infos}
    if len(folders) != 1 or len(members) != len(infos) or not all(_MEMBER.fullmatch(info.filename) for info in infos):
        raise ValueError("it has files that PyTorch does not write")
    if any(info.compress_type or info.flag_bits & 1 or info.compress_size != info.file_size for info in infos):
        raise ValueError("its members are compressed or encrypted, which PyTorch does not do")
    if any(info.header_offset < 0 for info in infos):
        raise ValueError("its beginning is missing")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("its members are larger than the file")
    return members


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle that stores other things than plain values, too many values or tuples, or wrong numbers."""
    tuples = 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data), 1):
        tuples += opcode.name in _TUPLE_OPCODES
        if opcode.name not in _ALLOWED_OPCODES or count > MAX_OPCODES or tuples > _MAX_TUPLES:
            raise ValueError(f"its data.pkl has {opcode.name} at {position}, or too many values")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count:
            raise ValueError("the values in its data.pkl are not numbered in order")
    if position != len(data) - 1:
        raise ValueError("its data.pkl has bytes after its end")


class _Tensors:
    """Makes the tensors that a pickle names; without an archive, only their shapes."""

    def __init__(self, members: dict[str, zipfile.ZipInfo], archive: zipfile.ZipFile | None = None) -> None:
        self.members, self.archive, self.total_bytes = members, archive, 0
        self.storages: dict[str, Storage] = {}

    def find_storage(self, value: Any) -> Storage:
        """Return the storage that a pickle names, after its size has been compared with that of its member."""
        kind, storage_type, key, _, numel = value
        dtype = _DTYPES[storage_type]
        if kind != "storage" or type(key) is not str or type(numel) is not int:
            raise ValueError("a tensor's storage has another form than PyTorch's")
        member = self.members.get(f"data/{key}")
        if member is None or member.file_size != numel * dtype.itemsize:
            raise ValueError("a tensor is larger or smaller than its member")
        if key not in self.storages:
            content = _read_bytes(self.archive, member) if self.archive else None
            self.storages[key] = Storage(numel, dtype, content)
        if self.storages[key].dtype != dtype:
            raise ValueError("two tensors of different types share a member")
        return self.storages[key]

    def rebuild(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        *more: Any,
    ) -> torch.Tensor | tuple[int, ...]:
        """Return a tensor, or its shape if its values are not read, after checking that it lies in its storage."""
        numbers = (offset, *shape, *stride)
        if len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n < _MAX_NUMBER for n in numbers):
            raise ValueError("a tensor's shape is not one of whole numbers")
        if type(requires_grad) is not bool or type(hooks) is not _Ordered or hooks or more:
            raise ValueError("a tensor has hooks or attributes")
        numel = prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if numel else -1
        if last >= storage.numel or numel > storage.numel:
            raise ValueError("a tensor is larger than its storage")
        self.total_bytes += numel * storage.dtype.itemsize
        if storage.content is None:
            return shape
        tensor = torch.empty(0, dtype=storage.dtype, device="cpu")
        tensor.set_(storage.content.untyped_storage(), offset, shape, stride)
        return tensor.requires_grad_(requires_grad)


class _Loader(pickle.Unpickler):
    """Loads a pickle without importing a class.

    It does not make the tensors itself: they would then stay in memory until the next garbage collection, because the
    unpickler keeps the functions that it has called.
    """

    def __init__(self, data: bytes, tensors: _Tensors) -> None:
        super().__init__(io.BytesIO(data))
        self.tensors = tensors

    def find_class(self, module: str, name: str) -> Any:
        """Return what replaces a class or function in the pickle."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Function(_make_ordered)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Function(self.tensors.rebuild)
        if module == "torch" and name in _DTYPES:
            return name
        raise ValueError(f"{module[:40]}.{name[:40]} is not allowed in it")

    def persistent_load(self, value: Any) -> Storage:
        """Return the storage of a tensor."""
        return self.tensors.find_storage(value)


class _Function(NamedTuple):
    """A function that a pickle may call, without attributes that the pickle could set."""

    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self.call(*arguments)


def _read_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> torch.Tensor:
    """Return the bytes of a member as a tensor; zipfile compares their CRC-32."""
    content = torch.empty(member.file_size, dtype=torch.uint8, device="cpu")
    view, done = content.numpy().data, 0
    with archive.open(member) as stream:
        while block := stream.read(_BLOCK):
            view[done : done + len(block)] = block
            done += len(block)
    if done != member.file_size:
        raise ValueError("a member is truncated")
    return content


class _Ordered(OrderedDict[Any, Any]):
    """The dictionary of `Module.state_dict`, which may have the attribute `_metadata`."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise ValueError("a dictionary has attributes")
        vars(self).update(state)

    def __reduce__(self) -> Any:
        """Pickle this as an `OrderedDict`."""
        return OrderedDict, *super().__reduce__()[1:]


def _make_ordered() -> _Ordered:
    """Return an empty dictionary; with parameters, a small pickle could copy a long list into many dictionaries."""
    return _Ordered()
