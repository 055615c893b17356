"""The optimiser: the steps of PyTorch's own parts in any memory layout; Muon's updates; the learning-rate cycle."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from histocli.enums import Precision
from histocli.training.muon import orthogonalize, stack_matrices
from histocli.training.optim import CLIP_NORM, MOMENTUM, MUON_LR, FlatOptimizer
from histocli.training.schedule import OptimConfig, compute_one_cycle, make_step_table


def network():
    """Two convolutions for Muon; a depthwise one, a norm, a bias and a linear layer for AdamW.

    There is no bias before a norm: its gradient would be rounding errors only, which AdamW would magnify.
    """
    torch.manual_seed(0)
    mixing, depthwise = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False)
    layers = mixing, depthwise, nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * 4 * 4, 2)).to(memory_format=torch.channels_last)


def take_steps(model, optimizer_step, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        images = torch.randn(6, 3, 8, 8, generator=generator)
        labels = torch.randint(0, 2, (6,), generator=generator)
        nn.functional.cross_entropy(model(images) * 3, labels).backward()
        optimizer_step()


class Reference:
    """The same optimiser from separate parts: PyTorch's AdamW, clip_grad_norm_ and OneCycleLR, a plain Muon and EMA."""

    def __init__(self, model, config):
        self.model, self.config, self.step_number = model, config, 0
        self.muon = [p for p in model.parameters() if config.muon and p.ndim > 2 and p.shape[1] > 1]
        others = [p for p in model.parameters() if all(p is not q for q in self.muon)]
        decays = [[p for p in others if (p.ndim > 1) is wanted] for wanted in (True, False)]
        groups = [{"params": decays[0]}, {"params": decays[1], "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        self.cycle = OneCycleLR(
            self.adamw, config.lr, total_steps=config.total_steps + 1, pct_start=config.warmup,
            div_factor=10, final_div_factor=100,
        )  # fmt: skip
        self.momentum = [torch.zeros_like(p) for p in self.muon]
        self.ema = copy.deepcopy(model)

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        lr = MUON_LR * self.adamw.param_groups[0]["lr"]
        with torch.no_grad():
            for weight, momentum in zip(self.muon, self.momentum, strict=True):
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
                wide = ahead if len(ahead) <= ahead.shape[1] else ahead.T
                direction = orthogonalize(wide[None])[0]
                direction = direction if len(ahead) <= ahead.shape[1] else direction.T
                weight.mul_(1 - lr * self.config.weight_decay)
                weight.sub_(lr * 0.2 * max(ahead.shape) ** 0.5 * direction.view(weight.shape))
        self.adamw.step()
        self.cycle.step()
        self.model.zero_grad()
        self.step_number += 1
        span = max(1.0, self.config.ema_span * self.config.total_steps)
        weight = max(1 / span, 9 / (10 + self.step_number))
        for average, value in zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True):
            average.lerp_(value, weight) if average.is_floating_point() else average.copy_(value)


@pytest.mark.parametrize("muon", [True, False])
def test_the_flat_optimizer_takes_the_same_steps_as_separate_optimisers(muon):
    config = OptimConfig(lr=0.02, total_steps=12, weight_decay=0.1, ema_span=0.3, muon=muon)
    model, expected = network(), network()
    ema = copy.deepcopy(model)
    optimizer, reference = FlatOptimizer(model, ema, config), Reference(expected, config)
    take_steps(model, optimizer.step, 12)
    take_steps(expected, reference.step, 12)
    for ours, theirs in ((model, expected), (ema, reference.ema)):
        for (name, value), wanted in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(
                value, wanted, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_step_changes_the_moments_in_place_and_allocates_no_others():
    model = network()
    optimizer = FlatOptimizer(model, copy.deepcopy(model), OptimConfig(lr=0.02, total_steps=3))
    names = ("momentum", "mean", "square")
    moments = {name: getattr(optimizer, name) for name in names}
    take_steps(model, optimizer.step, 3)
    for name in names:
        assert getattr(optimizer, name) is moments[name]
        assert moments[name].any()


def test_the_learning_rate_cycle_is_that_of_pytorch():
    for steps, warmup in ((1, 0.2), (4, 0.2), (9, 0.1), (50, 0.2), (1000, 0.05)):
        config = OptimConfig(lr=0.003, total_steps=steps, warmup=warmup)
        adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1)
        rise = warmup if warmup * (steps + 1) != 1 else 0.9 * warmup
        cycle = OneCycleLR(adamw, 0.003, total_steps=steps + 1, pct_start=rise, div_factor=10, final_div_factor=100)
        rates, betas = [], []
        for _ in range(steps):
            rates.append(adamw.param_groups[0]["lr"])
            betas.append(adamw.param_groups[0]["betas"][0])
            adamw.step()
            cycle.step()
        ours = compute_one_cycle(config)
        np.testing.assert_allclose(ours[0][:steps], rates, rtol=1e-9)
        np.testing.assert_allclose(ours[1][:steps], betas, rtol=1e-9)


def test_the_ema_decay_grows_until_it_reaches_its_span():
    weights = make_step_table(OptimConfig(lr=1e-3, total_steps=1000, ema_span=0.02))[:, 4]
    assert weights[0] > 0.8
    assert weights[-1] == pytest.approx(1 / 20)
    assert (np.diff(weights) <= 0).all()


def test_orthogonalized_matrices_keep_their_singular_vectors_and_have_values_near_1():
    torch.manual_seed(0)
    matrix = torch.randn(20, 50)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    within = u.T @ orthogonalize(matrix[None])[0] @ v.T  # diagonal in the singular vectors of the matrix itself
    values = within.diagonal()
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert (within - values.diag()).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_a_matrix_changes_nothing(dtype):
    torch.manual_seed(0)
    matrix = (torch.randn(16, 27) * 1e-3).to(dtype)
    padded = torch.zeros(2, 64, 288, dtype=dtype)
    padded[0, :16, :27] = matrix
    alone, together = orthogonalize(matrix[None])[0], orthogonalize(padded)[0]
    assert (together[:16, :27] - alone).float().abs().max() < (1e-5 if dtype is torch.float32 else 0.02)
    assert not together[16:].any()
    assert not together[:, 27:].any()


def test_small_matrices_are_padded_on_a_gpu_in_16_bits_only():
    """And with the same results. The name of a device is enough: the matrices themselves are on the CPU."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape)) for shape in ((16, 8, 3, 3), (64, 32, 3, 3), (32, 64, 1, 1))]
    names = (torch.float32, "cpu"), (torch.float64, "cpu"), (torch.float32, "cuda"), (torch.float64, "cuda")
    momentum, results, counts = torch.randn(sum(p.numel() for p in params)), [], []
    for dtype, name in names:
        stacks = stack_matrices(params, dtype, torch.device(name))
        counts.append(len(stacks))
        weights = torch.zeros_like(momentum)
        for stack in stacks:
            stack.update(momentum, weights, torch.tensor(0.1))
        results.append(weights)
    assert counts == [3, 3, 3, 1]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-6)


def update_of(weight, gradient, precision=Precision.FP32):
    """Return by how much one step of Muon moves a convolution's weight."""
    model = nn.Conv2d(weight.shape[1], weight.shape[0], 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(weight)
    config = OptimConfig(lr=0.05, total_steps=10, weight_decay=0)
    optimizer = FlatOptimizer(model, copy.deepcopy(model), config, precision)
    model.weight.grad = gradient
    optimizer.step()
    return model.weight.detach() - weight


def test_an_update_has_the_same_size_for_any_gradient():
    torch.manual_seed(1)
    gradient = torch.randn(16, 4, 3, 3)
    for scale in (1e-4, 1.0, 1e3):
        size = update_of(torch.zeros(16, 4, 3, 3), gradient * scale).pow(2).mean().sqrt()
        assert 0.001 < size < 0.003  # the first learning rate is a tenth of the peak: 0.01 times 0.2


def test_an_update_in_bf16_has_the_same_direction():
    torch.manual_seed(2)
    gradient = torch.randn(16, 4, 3, 3)
    exact, rounded = (
        update_of(torch.zeros(16, 4, 3, 3), gradient, precision) for precision in (Precision.FP32, Precision.BF16)
    )
    assert exact.dtype is rounded.dtype is torch.float32
    assert torch.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.999
    assert not torch.equal(exact, rounded)


def test_an_overflow_changes_no_weight_and_halves_the_loss_scale():
    model = network()
    optimizer = FlatOptimizer(model, copy.deepcopy(model), OptimConfig(lr=1e-2, total_steps=10), Precision.FP16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert optimizer.loss_scale == 2**15
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) * optimizer.loss_scale
    optimizer.step()
    assert not torch.equal(before["0.weight"], model.state_dict()["0.weight"])
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_scaled_loss_gives_the_same_steps():
    plain, scaled = network(), network()
    for model, precision in ((plain, Precision.FP32), (scaled, Precision.FP16)):
        optimizer = FlatOptimizer(model, copy.deepcopy(model), OptimConfig(lr=0.02, total_steps=5), precision)

        def step(model=model, optimizer=optimizer):
            for parameter in model.parameters():
                parameter.grad *= optimizer.loss_scale
            optimizer.step()

        take_steps(model, step, 5)
    for first, second in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("muon", [True, False])
def test_a_state_is_continued_where_weights_have_another_memory_layout(muon):
    """As on MPS, where the channels are not last; a state has one order, whatever the layout is."""
    config = OptimConfig(lr=0.02, total_steps=12, muon=muon)
    model = network()
    optimizer = FlatOptimizer(model, copy.deepcopy(model), config)
    take_steps(model, optimizer.step, 6)
    other = network().to(memory_format=torch.contiguous_format)
    other.load_state_dict(model.state_dict())
    continued = FlatOptimizer(other, copy.deepcopy(other), config)
    continued.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(value, optimizer.state_dict()[name]) for name, value in continued.state_dict().items())
    take_steps(model, optimizer.step, 6, seed=2)
    take_steps(other, continued.step, 6, seed=2)
    assert not other[0].weight.is_contiguous(memory_format=torch.channels_last)
    for first, second in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=2e-4, atol=2e-5)
