"""Store + rows -> batches."""

import threading
import time
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.data import loaders
from histocli.data.loaders import PatchLoader

CPU = torch.device("cpu")
STORE = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
STORE[:, 0, 0, 0] = np.arange(64)  # tells a row by its first value


def batches(rows, size, **options):
    rows = np.asarray(rows)
    return PatchLoader(STORE, rows, rows % 2, size, CPU, **options)


def rows_of(batch):
    rows = batch.images[:, 0, 0, 0].tolist()
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (len(rows), 3, 8, 8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch.images.permute(0, 2, 3, 1), STORE[rows])
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [row % 2 for row in rows]
    return rows


def flatten(parts):
    return list(chain.from_iterable(parts))


def prefetchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("histo-prefetch")]


ROWS = st.lists(st.integers(0, 63), min_size=1, max_size=64, unique=True)


@given(ROWS, st.integers(1, 70), st.booleans())
@settings(max_examples=60, deadline=None)
def test_eval_batches_give_every_row_once(rows, size, is_resident):
    parts = [rows_of(batch) for batch in batches(rows, size, is_resident=is_resident).eval_batches()]
    assert flatten(parts) == rows
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size


@given(ROWS, st.integers(1, 70), st.integers(0, 2**63 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_train_batches_are_full_and_have_no_row_twice(rows, size, seed, is_resident):
    data = batches(rows, size, is_resident=is_resident)
    parts = [rows_of(batch) for batch in data.train_batches(seed)]
    drawn = flatten(parts)
    assert len(parts) == data.steps == max(1, len(rows) // size)
    assert {len(part) for part in parts} == {min(size, len(rows))}
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(rows)


@pytest.mark.parametrize("is_resident", [False, True])
def test_the_order_follows_from_the_seed(is_resident):
    data = batches(range(64), 8, is_resident=is_resident)
    epochs = [[rows_of(batch) for batch in data.train_batches(seed)] for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert flatten(epochs[0]) != list(range(64))


@given(ROWS, st.integers(1, 20), st.data())
@settings(max_examples=40, deadline=None)
def test_an_epoch_can_start_at_any_batch(rows, size, data):
    data_set = batches(rows, size)
    first = data.draw(st.integers(0, data_set.steps))
    whole = [rows_of(batch) for batch in data_set.train_batches(5)]
    assert [rows_of(batch) for batch in data_set.train_batches(5, first)] == whole[first:]


def test_over_many_epochs_every_row_is_skipped_equally_often():
    data = batches(range(10), 4)
    counts = np.zeros(10)
    for seed in range(500):
        for batch in data.train_batches(seed):
            counts[rows_of(batch)] += 1
    assert (np.abs(counts - 400) < 50).all()


def test_resident_and_streamed_batches_are_the_same():
    rows = np.random.default_rng(1).permutation(64)[:50]
    streamed, resident = batches(rows, 16, is_resident=False), batches(rows, 16, is_resident=True)
    assert batches(rows, 16).resident_images is None  # on a CPU the page cache holds the map
    for way in (PatchLoader.eval_batches, lambda data: data.train_batches(3)):
        for a, b in zip(way(streamed), way(resident), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)


def test_a_machine_with_many_cores_holds_few_blocks_in_memory(monkeypatch):
    monkeypatch.setattr(loaders, "_BLOCK", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    readers = set()

    class Store(np.ndarray):
        def __getitem__(self, rows):
            readers.add(threading.get_ident())
            time.sleep(0.001)
            return super().__getitem__(rows)

    data = PatchLoader(STORE.view(Store), np.arange(64), np.arange(64) % 2, 16, CPU, is_resident=True)
    assert torch.equal(data.resident_images, torch.from_numpy(STORE))
    assert 1 < len(readers) <= 8


def test_a_memory_map_is_read(tmp_path):
    np.save(tmp_path / "x.npy", STORE)
    data = PatchLoader(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(64), np.arange(64) % 2, 10, CPU)
    assert flatten(rows_of(batch) for batch in data.eval_batches()) == list(range(64))


def test_stopping_within_an_epoch_ends_its_thread():
    epoch = batches(range(64), 2).train_batches(0)
    next(epoch)
    assert prefetchers()
    epoch.close()
    assert prefetchers() == []
