"""Full memory is recognised; a process keeps freed memory and does not request it from the system again."""

import platform
import subprocess
import sys

import pytest

from histocli.compute.memory import is_out_of_memory

MEASURE = """
import resource
import torch
from histocli.compute.device import apply_compute_settings

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64, 256, 1024)  # 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with apply_compute_settings():
    for _ in range(4):
        faults()  # until the freed pieces are merged
    print(faults())
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_large_tensors_reuse_freed_memory():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    inside, after = map(int, done.stdout.split())
    assert inside < 100
    assert after > 10_000  # the memory was given back when the block ended


@pytest.mark.parametrize(
    ("message", "context", "expected"),
    [
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "", True),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "", True),
        ("CUDA error: operation failed due to a previous error during capture", "CUDA out of memory", True),
        ("CUDA error: operation failed due to a previous error during capture", "another error", False),
        ("CUDA error: an illegal memory access was encountered", "CUDA out of memory", False),
    ],
)
def test_full_memory_is_recognised_by_what_the_libraries_of_a_gpu_say(message, context, expected):
    error = RuntimeError(message)
    error.__context__ = RuntimeError(context) if context else None
    assert is_out_of_memory(error) is expected
