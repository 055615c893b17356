"""How many threads this process uses, and what they do while they wait."""

import os
import re
import time
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
STAT = Path("/proc/stat")


class CoreMeter:
    """Measures how many cores other processes use, since the meter was made (on Linux only)."""

    def __init__(self) -> None:
        self.start = _cpu_seconds(), time.process_time(), time.monotonic()

    def count_cores(self) -> float:
        """Return the mean number of cores that other processes have used; 0 where it cannot be measured."""
        busy, own, now = (
            end - start
            for end, start in zip((_cpu_seconds(), time.process_time(), time.monotonic()), self.start, strict=True)
        )
        return max(0.0, (busy - own) / now) if now else 0.0


def _cpu_seconds() -> float:
    """Return the seconds that all cores of the machine have worked since it started; 0 where this is not known."""
    if not STAT.is_file():
        return 0.0
    user, nice, system, _idle, _iowait, *interrupts = (int(field) for field in STAT.read_text().split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def let_waiting_threads_sleep(meter: CoreMeter) -> None:
    """Let OpenMP's threads sleep while they wait for one another, if other processes need the cores.

    By default they keep their cores busy. On two cores with a load of 3, training took 83 to 91 patches/s by default
    and 188 to 197 with this; alone on the machine it took 309 by default and 273 with this. So this is done only if
    other processes take more than half a core that this one wants to use, and only if OMP_WAIT_POLICY is not set. It
    has an effect only before torch is imported. (The load average cannot be used: it still counts processes that have
    ended, such as the previous run.)
    """
    if meter.count_cores() + count_threads() > (os.cpu_count() or 1) + 0.5:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def count_threads() -> int:
    """Return OMP_NUM_THREADS if it is a number up to 999, else the number of cores that this process may use.

    These are the cores of its CPU affinity, limited by the CPU quota of its container (cgroup v2).
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if re.fullmatch("0*[1-9][0-9]{0,2}", limit):
        return int(limit)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if QUOTA.is_file():
        limit, period = QUOTA.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores
