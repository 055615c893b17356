"""Patches decoded in parallel: order, bounds, failures, and threads that end."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli import threads
from histocli.errors import HistoError
from histocli.images.stream import count_workers, iterate_chunks, load_chunks, map_ordered
from histocli.patch import Patch


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("histo-decode")]


@given(st.lists(st.integers(), max_size=50), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_chunks_contain_all_items_in_order(items, size):
    chunks = list(iterate_chunks(items, size))
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(1 <= len(chunk) <= size for chunk in chunks)


def test_the_order_is_kept_if_early_items_are_slow():
    def slow_at_first(item):
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item

    assert list(map_ordered(slow_at_first, range(40), 4)) == list(range(40))
    assert decoders() == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_other_threads_work_a_bounded_number_of_items_ahead(workers):
    taken = 0
    ahead = []
    names = set()

    def items():
        for item in range(100):
            ahead.append(item - taken)
            yield item

    def work(item):
        names.add(threading.current_thread().name)
        return item

    for _ in map_ordered(work, items(), workers):
        taken += 1
    assert taken == 100
    assert workers < max(ahead) <= 2 * workers + 1
    assert names
    assert all(name.startswith("histo-decode") for name in names)


def test_an_exception_of_the_function_is_raised_in_order():
    def work(item):
        if item == 3:
            raise ZeroDivisionError("three")
        return item

    results = map_ordered(work, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="three"):
        next(results)
    assert decoders() == []


def test_an_exception_of_the_items_is_raised():
    def items():
        yield 1
        raise OSError("the archive was pulled out")

    with pytest.raises(OSError, match="pulled out"):
        list(map_ordered(lambda item: item, items(), 2))
    assert decoders() == []


def test_a_consumer_that_stops_early_ends_all_threads_and_work():
    done = []

    def work(item):
        time.sleep(0.001)
        done.append(item)
        return item

    results = map_ordered(work, range(10_000), 3)
    assert next(results) == 0
    assert decoders()
    results.close()
    assert decoders() == []
    assert len(done) < 20


def patch(number, error=None):
    def load():
        if error is not None:
            raise error
        return np.full((96, 96, 3), number, np.uint8)

    return Patch(str(number), load)


def test_an_unreadable_patch_is_a_failure_and_the_others_are_loaded():
    broken = {3, 4, 5, 11}
    patches = [patch(i, HistoError(f"{i} is broken") if i in broken else None) for i in range(12)]
    chunks = list(load_chunks(patches, size=3))
    assert [[p.id for p in chunk.patches] for chunk in chunks] == [["0", "1", "2"], [], ["6", "7", "8"], ["9", "10"]]
    assert [(failed.id, str(error)) for chunk in chunks for failed, error in chunk.failures] == [
        (str(i), f"{i} is broken") for i in sorted(broken)
    ]
    for chunk in chunks:
        assert chunk.pixels.shape == (len(chunk.patches), 96, 96, 3)
        assert chunk.pixels.dtype == np.uint8
        assert chunk.pixels[:, 50, 50, 1].tolist() == [int(p.id) for p in chunk.patches]


def test_a_bug_is_not_reported_as_an_unreadable_patch():
    with pytest.raises(KeyError):
        list(load_chunks([patch(0), patch(1, KeyError("a bug"))]))


def test_there_is_at_least_one_worker(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= count_workers() <= 8
    assert list(load_chunks([])) == []


@pytest.mark.parametrize(("asked", "count"), [("3", 3), ("1", 1), ("100", 8)])
def test_decoding_uses_at_most_thread_count_threads(monkeypatch, asked, count):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert count_workers() == count


@pytest.mark.parametrize(("quota", "count"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 6)])
def test_decoding_respects_the_cpu_quota_of_the_container(monkeypatch, tmp_path, quota, count):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    assert count_workers() == count
