"""Start the decoding processes before torch is imported: both take seconds, and they can run at the same time."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from histocli.enums import Device
from histocli.images.processes import MIN_FILES_FOR_PROCESSES, DecodingProcesses
from histocli.threads import count_threads

_MIN_CORES = 4  # with fewer cores, the decoding processes would slow down this one
_MAX_PROCESSES = 16  # for one GPU; 16 processes decode more patches per second than it scores
_GPU_DRIVERS = ("nvidiactl", "kfd", "dxg")  # files in /dev of the drivers of NVIDIA, of AMD, and of Windows in WSL


def create_decoding_processes() -> DecodingProcesses | None:
    """Return processes that decode for one GPU, not started yet; None if there are too few cores for them."""
    cores = count_threads()
    return DecodingProcesses(min(_MAX_PROCESSES, cores - 2)) if cores >= _MIN_CORES and os.name != "nt" else None


@contextmanager
def start_processes_early(inputs: Sequence[str], device: Device) -> Iterator[DecodingProcesses | None]:
    """Start processes that decode `inputs`, if there are many files and `device` may be a GPU; else yield None.

    The processes end with the block.
    """
    pool = None
    if _can_be_gpu(device) and sum(_count_files(Path(name)) for name in inputs) >= MIN_FILES_FOR_PROCESSES:
        pool = create_decoding_processes()
    if pool is None:
        yield None
        return
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


def _can_be_gpu(device: Device) -> bool:
    """Return whether the driver of a GPU is loaded; only PyTorch can say whether it can use the GPU."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return device is not Device.CPU and not is_hidden and any(Path("/dev", name).exists() for name in _GPU_DRIVERS)


def _count_files(path: Path) -> int:
    """Count the files in a folder and its subfolders, up to `MIN_FILES_FOR_PROCESSES`; return 0 for other paths."""
    files = (name for _, _, names in os.walk(path) for name in names)
    return sum(1 for _ in islice(files, MIN_FILES_FOR_PROCESSES))
