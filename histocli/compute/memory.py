"""Memory: how much there is, keep what is freed for the next step, and turn errors into clear messages."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histocli.errors import HistoError, read_first_line

# PyTorch has an exception class for full GPU memory only. For the host's memory, the messages of PyTorch, oneDNN, cuDNN
# and ONNX Runtime contain one of these phrases.
_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not create a memory",
    "could not create a primitive",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9
    "cublasCreate",  # the handles of cuBLAS and cuDNN need memory too, and their errors give no reason
    "cudnnCreate",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "Failed to allocate memory",
    "bad_alloc",
    "unable to find an engine",  # cuDNN, where no algorithm's workspace fits
)

MEMINFO = Path("/proc/meminfo")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536  # the defaults in mallopt(3)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """In this block, let this process keep the memory that it frees, and reuse it (on glibc only).

    By default glibc maps new pages for each large tensor, and the system fills them with zeros when they are first
    used: 40,000 pages in each training step of 128 patches. https://man7.org/linux/man-pages/man3/mallopt.3.html
    describes the settings. M_MMAP_THRESHOLD is not enough: older versions limit it to 32 MiB.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    try:
        yield
    finally:  # glibc has no function that returns the values before
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)  # return the kept memory to the system


def find_available_memory() -> int | None:
    """Return the bytes of memory that processes can get without swapping, on Linux; None elsewhere."""
    if not MEMINFO.is_file():
        return None
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that the memory of the GPU or of the host is full.

    If the memory is full while a CUDA graph is captured, the end of the capture raises another error, whose context is
    this one.
    """
    if isinstance(error, MemoryError):
        return True
    known = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    if known and "captur" in str(error) and error.__context__ and is_out_of_memory(error.__context__):
        return True
    return known and any(phrase in str(error) for phrase in _PHRASES)


def release_memory() -> None:
    """Free the memory of what is not used any more, and the GPU memory that PyTorch keeps for later use.

    Call this between two runs: a run is part of reference cycles, and may keep a copy of the patches on a GPU.
    """
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.empty_cache()


def make_memory_error(patches: int, error: BaseException) -> HistoError:
    """Return the error for a batch of `patches` patches that needs more memory than there is.

    For one patch, the message has the reason: a broken library can give the same errors as full memory.
    """
    if patches == 1:
        reason = read_first_line(error)
        return HistoError(f"there is not enough memory for 1 patch at a time: {reason}", "free some of it")
    smaller = f"use --batch-size {patches // 2}, or --batch-size auto"
    return HistoError(f"there is not enough memory for {patches:,} patches at a time", smaller)


@contextmanager
def explain_out_of_memory(patches: int) -> Iterator[None]:
    """Replace an exception about full memory in this block by one that says which batch size to try.

    Raises:
        HistoError: the memory is full.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise make_memory_error(patches, error) from error
