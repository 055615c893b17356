"""A process keeps freed memory, so that the next step does not request it from the system again."""

import platform
import subprocess
import sys

import pytest

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
