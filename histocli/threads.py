"""How many threads this process uses, and what they do while they wait."""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def let_waiting_threads_sleep() -> None:
    """On a machine that is busy, let OpenMP's threads sleep while they wait for one another.

    By default they keep their cores busy. On two cores with a load of 3, training took 83 to 91 patches/s by default
    and 188 to 197 with this; alone on the machine it took 309 by default and 273 with this. So this is done only if
    other processes use more than half of the cores, and only if OMP_WAIT_POLICY is not set. It has an effect only
    before torch is imported.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > thread_count() / 2:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
