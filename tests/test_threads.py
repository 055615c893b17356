"""What `histo` sets for the threads of torch before it imports torch."""

import os

import pytest

from histocli import threads

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("used_by_others", "given", "expected"),
    [(2.0, None, "PASSIVE"), (1.0, None, "PASSIVE"), (0.2, None, None), (2.0, "ACTIVE", "ACTIVE")],
)
def test_waiting_threads_sleep_where_other_processes_need_the_cores(
    tmp_path, monkeypatch, used_by_others, given, expected
):
    """On two cores, of which other processes use so many for ten seconds, while this process uses one."""
    stat, clock, own = tmp_path / "stat", [100.0], [7.0]
    monkeypatch.setattr(threads, "STAT", stat)
    monkeypatch.setattr(threads, "count_threads", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(threads.time, "process_time", lambda: own[0])
    environment = {"OMP_WAIT_POLICY": given} if given else {}
    monkeypatch.setattr(os, "environ", environment)  # a copy, so that no later test is affected
    stat.write_text(f"cpu  {50 * TICKS} 0 {5 * TICKS} {900 * TICKS} {TICKS} 0 0 0 0 0\ncpu0 1 2 3\n")
    meter = threads.CoreMeter()
    clock[0], own[0] = 110.0, 17.0
    busy = round((50 + 10 + 10 * used_by_others) * TICKS)
    stat.write_text(f"cpu  {busy} 0 {5 * TICKS} {905 * TICKS} {TICKS} 0 0 0 0 0\n")
    threads.let_waiting_threads_sleep(meter)
    assert environment.get("OMP_WAIT_POLICY") == expected


def test_other_processes_count_as_idle_where_the_system_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "STAT", tmp_path / "missing")  # as on macOS
    assert threads.CoreMeter().count_cores() == 0


@pytest.mark.parametrize("value", ["99999999999", "9" * 5000, "1000", "0", "-1", "1,2", "٣", ""], ids=lambda v: v[:12])
def test_a_number_of_threads_that_no_machine_has_is_ignored(monkeypatch, value):
    """PyTorch cannot read such a number, or would start so many threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = threads.count_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.count_threads() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "07")
    assert threads.count_threads() == 7
