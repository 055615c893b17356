"""The host's memory: kept from one step for the next; and told as what it is where it is used up."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from histocli.errors import HistoError

# torch has a class for a GPU's memory alone; of the host's, these are its words, oneDNN's, cuDNN's and ONNX Runtime's
_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not create a memory",
    "could not create a primitive",
    "ALLOC_FAILED",
    "Failed to allocate memory",
    "bad_alloc",
    "unable to find an engine",  # cuDNN, where no algorithm's workspace fits
)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536  # what mallopt(3) names as defaults


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """In this block, let this process keep the memory that it frees, and reuse it (on glibc only).

    By default each large tensor is mapped anew, and the system zeroes its pages at the first touch: 40,000 pages for
    each training step of 128 patches. https://man7.org/linux/man-pages/man3/mallopt.3.html says what is set here; the
    threshold of mapping, which it names too, older versions do not raise beyond 32 MiB.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    try:
        yield
    finally:  # glibc cannot be asked for the values before
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)  # give back what was kept


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the GPU or of the host is used up."""
    if isinstance(error, MemoryError):
        return True
    known = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return known and any(phrase in str(error) for phrase in _PHRASES)


def release_gpu_memory() -> None:
    """Give the GPU's memory that torch keeps for later back to the GPU."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.empty_cache()


def memory_is_full(patches: int) -> HistoError:
    """The error of a step or a forward pass of so many patches that did not fit."""
    smaller = f"--batch-size {patches // 2}, or --batch-size auto, takes less" if patches > 1 else "free some of it"
    return HistoError(f"memory is full with {patches:,} patches at a time", smaller)


@contextmanager
def explained(patches: int) -> Iterator[None]:
    """Say of an exception about memory how many patches at a time would take less.

    Raises:
        HistoError: in the place of such an exception.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise memory_is_full(patches) from error
