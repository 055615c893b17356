"""What `histo` sets for the threads of torch before it imports torch."""

import os

import pytest

from histocli import threads


@pytest.mark.parametrize(
    ("load", "given", "expected"), [(3.0, None, "PASSIVE"), (0.2, None, None), (3.0, "ACTIVE", "ACTIVE")]
)
def test_waiting_threads_sleep_on_a_busy_machine(monkeypatch, load, given, expected):
    monkeypatch.setattr(threads, "thread_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    environment = {"OMP_WAIT_POLICY": given} if given else {}
    monkeypatch.setattr(os, "environ", environment)  # a copy, so that no later test is affected
    threads.let_waiting_threads_sleep()
    assert environment.get("OMP_WAIT_POLICY") == expected
