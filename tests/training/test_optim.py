"""Muon: what its updates look like, and which weights get them."""

import torch
from torch import nn

from histocli.training.optim import Muon, Optimizers, orthogonal


def test_an_orthogonal_matrix_keeps_the_singular_vectors_and_evens_out_the_values():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        matrix = torch.randn(shape)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        within = u.T @ orthogonal(matrix) @ v.T  # diagonal in the singular vectors of the matrix itself
        values = within.diagonal()
        assert values.min() > 0.6
        assert values.max() < 1.25
        assert (within - values.diag()).abs().max() < 1e-4


def test_an_update_is_as_large_whatever_the_gradient():
    for scale in (1e-6, 1.0, 1e3):
        torch.manual_seed(1)
        weight = nn.Parameter(torch.zeros(16, 4, 3, 3))
        weight.grad = torch.randn_like(weight) * scale
        Muon([weight], lr=0.1, weight_decay=0).step()
        assert 0.01 < weight.pow(2).mean().sqrt() < 0.03  # about 0.1 of 0.2


def test_an_update_in_bf16_points_the_same_way():
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(2)
        weight = nn.Parameter(torch.zeros(16, 4, 3, 3))
        weight.grad = torch.randn_like(weight)
        Muon([weight], lr=0.1, weight_decay=0, dtype=dtype).step()
        moved.append(weight.detach().flatten())
    assert moved[0].dtype is moved[1].dtype is torch.float32
    assert torch.cosine_similarity(*moved, dim=0) > 0.999
    assert not torch.equal(*moved)


def test_convolutions_that_mix_channels_go_to_muon_and_all_else_to_adamw():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Linear(8, 2))
    made = Optimizers(model, 1e-3, total_steps=10, warmup=0.2, weight_decay=0.1, muon=True)
    adamw, muon = made.optimizers
    assert [p is model[0].weight for group in muon.param_groups for p in group["params"]] == [True]
    adapted = [p for group in adamw.param_groups for p in group["params"]]
    assert sum(p.numel() for p in adapted) == sum(p.numel() for p in model.parameters()) - model[0].weight.numel()


def test_without_muon_all_goes_to_adamw():
    model = nn.Conv2d(3, 8, 3)
    made = Optimizers(model, 1e-3, total_steps=10, warmup=0.2, weight_decay=0.1, muon=False)
    assert [type(optimizer) for optimizer in made.optimizers] == [torch.optim.AdamW]
