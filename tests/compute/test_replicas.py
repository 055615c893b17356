"""A batch through several replicas gives the gradient that one model gives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from histocli.compute.replicas import Replicas, in_pieces, on_cores, replica_count


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def loss(model, images, labels):
    return F.cross_entropy(model(images), labels)


def batch(size=10):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.arange(size) % 2


def network(*, norm):
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_gradient_is_that_of_the_whole_batch(count):
    alone, shared = network(norm=False), network(norm=False)
    images, labels = batch()
    expected = loss(alone, images, labels)
    expected.backward()
    got = Replicas(shared, count).backward(loss, images, labels)
    torch.testing.assert_close(got, expected.detach())
    for mine, its in zip(shared.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


def test_replicas_follow_the_weights_and_leave_no_gradient_behind():
    model = network(norm=True)
    replicas, (images, labels) = Replicas(model, 2), batch()
    first = replicas.backward(loss, images, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad, alpha=0.1)
            parameter.grad = None
    assert replicas.backward(loss, images, labels) < first
    assert all(parameter.grad is None for parameter in replicas.models[1].parameters())


def test_batch_norm_takes_note_of_the_mean_over_the_shares():
    model = network(norm=True)
    images, labels = batch()
    halves = []
    for half in images.chunk(2):
        alone = copy.deepcopy(model)
        alone(half)
        halves.append(alone[1].running_mean)
    Replicas(model, 2).backward(loss, images, labels)
    torch.testing.assert_close(model[1].running_mean, torch.stack(halves).mean(0))


def test_the_same_batch_gives_the_same_bits():
    def gradients():
        model = network(norm=True)
        Replicas(model, 3).backward(loss, *batch())
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.equal(gradients(), gradients())


def test_the_threads_of_the_process_stay_as_they_were_and_are_shared_out():
    replicas = Replicas(network(norm=True), 2)
    replicas.backward(loss, *batch())
    assert torch.get_num_threads() == 4
    counts = on_cores(lambda _: float(torch.ones(1 << 20).sum()) and torch.get_num_threads(), [0, 1])
    assert counts == [2, 2]


@pytest.mark.parametrize(("count", "expected"), [(130, [31, 33, 33, 33]), (600, [24] + 9 * [64]), (20, [20]), (0, [0])])
def test_a_batch_in_pieces_gives_what_it_gives_as_a_whole(count, expected):
    images, _ = batch(count)
    sizes = []

    def ends(piece):
        sizes.append(len(piece))
        return torch.stack([piece[:, 0, 0, 0], piece[:, -1, -1, -1]])

    torch.testing.assert_close(in_pieces(ends, images), ends(images))
    assert sorted(sizes[:-1]) == expected
    assert sizes[-1] == count


def test_shares_stay_large_enough_for_batch_norm_and_dropout_goes_alone():
    assert replica_count(network(norm=True), 128) == 4
    assert replica_count(network(norm=True), 64) == 2
    assert replica_count(network(norm=True), 20) == 1
    assert replica_count(nn.Sequential(network(norm=True), nn.Dropout(0.1)), 128) == 1
