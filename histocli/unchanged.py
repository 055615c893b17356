"""Notice that a file was changed while it was read: what was read could then be parts of two versions."""

import os

State = tuple[int, int]  # the size in bytes, and the time of the last change in nanoseconds


def find_state(file: int | str | os.PathLike[str]) -> State:
    """Return the size of a file and the time of its last change; `file` is its path, or its number if it is open."""
    facts = os.stat(file)  # noqa: PTH116 - `Path` has no such function for open files
    return facts.st_size, facts.st_mtime_ns


def check_unchanged(file: int | str | os.PathLike[str], before: State) -> None:
    """Raise `OSError` if a file has another state than `before`."""
    if find_state(file) != before:
        raise OSError("the file was changed while it was read")
