"""Compute on all cores, with different patches on each core."""

import pytest
import torch

from histocli.compute.cores import Cores, map_pieces


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_each_core_computes_with_its_own_threads_and_the_process_keeps_its_number():
    cores = Cores(2, 4)
    assert torch.get_num_threads() == 4
    assert cores.map(lambda _: float(torch.ones(1 << 20).sum()) and torch.get_num_threads(), [0, 1]) == [2, 2]


@pytest.mark.parametrize(("count", "expected"), [(130, [31, 33, 33, 33]), (600, [24] + 9 * [64]), (20, [20]), (0, [0])])
def test_map_pieces_returns_the_same_as_one_call_with_the_whole_batch(count, expected):
    images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = []

    def ends(piece):
        sizes.append(len(piece))
        return torch.stack([piece[:, 0, 0, 0], piece[:, -1, -1, -1]])

    torch.testing.assert_close(map_pieces(ends, images), ends(images))
    assert sorted(sizes[:-1]) == expected
    assert sizes[-1] == count
