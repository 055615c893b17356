"""Memory that is used up: told as what it is, with a number of patches that may fit."""

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
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the GPU or of the host is used up."""
    if isinstance(error, MemoryError):
        return True
    known = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return known and any(phrase in str(error) for phrase in _PHRASES)


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
