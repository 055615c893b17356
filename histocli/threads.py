"""The number of threads that this process should use."""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def thread_count() -> int:
    """Return OMP_NUM_THREADS if it is set, else the number of cores that this process may use.

    These are the cores of its CPU affinity, limited by the CPU quota of its container (cgroup v2).
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if QUOTA.is_file():
        limit, period = QUOTA.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores
