"""Freed memory stays with the process that computes, so that the next step need not ask for it again."""

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource
import torch
from histocli.config import Device
from histocli.compute.device import choose_compute

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64, 256, 1024)  # 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

choose_compute(Device.CPU)
for _ in range(4):
    faults()  # until the freed pieces have found together
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are not told what to keep")
def test_large_tensors_are_made_in_memory_that_was_freed():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
