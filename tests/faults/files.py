"""A layer between `histo` and the file system: it counts what is done to files, keeps each moment, or fails once.

It replaces Python's own functions that change files, in a process that `fork_server.py` forked. What C++ writes by
itself (a checkpoint of PyTorch) is one operation: the call before it opens the file, the call after it flushes it.
"""

import builtins
import errno
import fcntl
import functools
import io
import os
import signal
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ON_PATHS = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "truncate", "open")
ON_DESCRIPTORS = ("fsync", "ftruncate", "write")
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "torn": errno.EIO}


class Layer:
    """Watches what is done below `root`, and does one harm.

    `keep` is a folder that gets a copy of `root` at each moment: after each operation, and in the middle of each write.
    `at` is the number of the operation (from 0) at which `harm` happens: "kill" (the process dies just before it),
    "ENOSPC" or "EIO" (it fails), "torn" (a write stops in the middle, and fails). The number of operations is written
    to the file `count`.
    """

    def __init__(self, root, count, keep=None, at=None, harm=""):
        self.root, self.at, self.harm = os.path.realpath(root), at, harm
        self.count, self.total = count, 0
        self.kept = Kept(self.root, keep) if keep else None
        self.is_off = False
        self.real = {name: getattr(os, name) for name in (*ON_PATHS, *ON_DESCRIPTORS)}
        self.real_open = io.open

    def install(self):
        for name in ON_PATHS:
            setattr(os, name, self.on_path(name))
        for name in ON_DESCRIPTORS:
            setattr(os, name, self.on_descriptor(name))
        flock = fcntl.flock
        fcntl.flock = lambda descriptor, operation: self.do(lambda: flock(descriptor, operation), descriptor)
        io.open = builtins.open = self.open_file

    def is_watched(self, where, folder=None):
        if self.is_off:
            return False
        try:
            if isinstance(where, int):
                where = Path(f"/proc/self/fd/{where}").readlink()
            elif folder is not None:
                where = Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(where)
        except OSError:
            return False
        return str(Path(os.fsdecode(where)).absolute()).startswith(self.root)

    def do(self, operation, where, folder=None, half=None):
        """Do an operation, or the harm in its place; `half` does the first half of a write."""
        if not self.is_watched(where, folder):
            return operation()
        number, self.total = self.total, self.total + 1
        self.is_off = True
        try:
            if number == self.at:
                self.do_harm(half, where)
            if self.kept and half:
                half()
                self.kept.add()
                self.is_off = False
                return None
            result = operation()
            if self.kept:
                self.kept.add()
            return result
        finally:
            self.is_off = False

    def do_harm(self, half, where):
        if self.harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.harm == "torn" and half:
            half()
        raise OSError(ERRORS[self.harm], os.strerror(ERRORS[self.harm]), None if isinstance(where, int) else where)

    def on_path(self, name):
        real = self.real[name]

        @functools.wraps(real)
        def call(path, *args, **options):
            if name == "open" and not (args[0] if args else options["flags"]) & WRITING:
                return real(path, *args, **options)
            folder = options.get("dir_fd")
            return self.do(lambda: real(path, *args, **options), path, folder)

        return call

    def on_descriptor(self, name):
        real = self.real[name]

        @functools.wraps(real)
        def call(descriptor, *args):
            if name == "write" and self.is_watched(descriptor):
                return self.write(descriptor, args[0], lambda data: real(descriptor, data))
            return self.do(lambda: real(descriptor, *args), descriptor)

        return call

    def write(self, descriptor, data, real):
        """Write in two halves where moments are kept, so that there is a moment in the middle."""
        data = memoryview(data).cast("B")
        middle, done = len(data) // 2, []
        self.do(lambda: done.append(real(data)), descriptor, half=lambda: done.append(real(data[:middle])))
        if self.kept and len(data) > middle and done == [middle]:
            real(data[middle:])
            self.is_off = True
            self.kept.add()
            self.is_off = False
            return len(data)
        return done[0]

    def open_file(
        self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
    ):
        is_written = not isinstance(file, int) and set(mode) & set("wax+") and self.is_watched(file)
        if not is_written:
            return self.real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw_mode = mode.replace("b", "").replace("t", "")
        raw = self.do(lambda: WatchedFile(self, os.fspath(file), raw_mode), file)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class WatchedFile(io.FileIO):
    """A file whose writes go through the layer."""

    def __init__(self, layer, file, mode):
        self.layer = layer
        super().__init__(file, mode)

    def write(self, data):
        return self.layer.write(self.fileno(), data, super().write)

    def truncate(self, size=None):
        real = super().truncate
        return self.layer.do(lambda: real(size), self.fileno())


class Kept:
    """Copies of a folder at each moment in which something has changed; equal files are links to one copy."""

    def __init__(self, root, folder):
        self.root, self.folder = Path(root), Path(folder)
        self.files, self.number, self.last = {}, 0, None
        self.folder.mkdir()

    def add(self):
        listing = [(path, path.lstat()) for path in sorted(self.root.rglob("*"))] if self.root.exists() else []
        state = [(str(path.relative_to(self.root)), *self.key(path, stat)) for path, stat in listing]
        if state == self.last:
            return
        self.last = state
        target = self.folder / f"{self.number:05}"
        self.number += 1
        target.mkdir()
        for path, stat in listing:
            copy = target / path.relative_to(self.root)
            if path.is_dir():
                copy.mkdir()
                continue
            key = (str(path), *self.key(path, stat))
            if key not in self.files:
                self.copy(path, copy, stat)
                self.files[key] = copy
            else:
                os.link(self.files[key], copy)

    @staticmethod
    def key(path, stat):
        return (0, 0, 0) if path.is_dir() else (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    @staticmethod
    def copy(path, copy, stat):
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
