"""Tests of computing on a GPU. `pytest -m cuda` runs them.

Where there is no GPU, they run on the CPU with fewer steps and smaller batches. They then show that they can run, and
not what a GPU does: whatever only a GPU has (graphs, waiting for it, its memory) is left out, by `ON_GPU`.
"""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from histocli.compute.device import Compute, choose_compute, make_deterministic
from histocli.data.loaders import PatchLoader
from histocli.data.transforms import apply_random_affine, augment
from histocli.enums import Augment, Device, Precision, Rotate
from histocli.inference.forward import compute_log_odds
from histocli.models import create_model
from histocli.models.blurred_pool import find_triton_kernels
from histocli.training.trainer import Recipe, Trainer

ON_GPU = torch.cuda.is_available()
DEVICE = Device.CUDA if ON_GPU else Device.CPU
PATCHES, BATCH = (256, 32) if ON_GPU else (32, 4)  # eight steps of an epoch
CPU = Compute(torch.device("cpu"), Precision.FP32, "")
BF16 = Precision.BF16 if ON_GPU else Precision.FP32  # a CPU without units for bf16 takes ten times as long

pytestmark = pytest.mark.cuda
gpu_only = pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
FP16_ON_GPU = pytest.param(Precision.FP16, marks=gpu_only)


def compute(precision=Precision.FP32):
    return choose_compute(DEVICE, precision)


def batches(device=DEVICE, n=PATCHES, size=BATCH, is_resident=None):
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 128, (n, 96, 96, 3), np.uint8) + 100 * labels[:, None, None, None].astype(np.uint8)
    return PatchLoader(pixels, np.arange(n), labels, size, torch.device(device), is_resident=is_resident)


def trainer(chosen, total_steps=200, arch="histonet", **changes):
    torch.manual_seed(3)
    return Trainer(create_model(arch), Recipe(1e-3, total_steps, seed=3, **changes), chosen)


def relative(first, second):
    return float((first.cpu().float() - second.cpu().float()).norm() / second.cpu().float().norm().clamp(min=1e-12))


def has_captured(made):
    """Whether the trainer replays a CUDA graph; on a CPU it has none."""
    return made.graph.graph is not None if ON_GPU else made.graph is None


def used_memory():
    """Return the bytes of tensors on the GPU, when all its work is done."""
    if not ON_GPU:
        return 0
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@contextmanager
def refuse_to_wait():
    """Let an operation fail in this block that waits for the GPU."""
    if not ON_GPU:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_takes_the_steps_of_eager_training():
    data = batches()
    eager, graphed = trainer(compute(), cuda_graph=False), trainer(compute())
    assert eager.graph is None
    losses = [[], []]
    for made, own in zip((eager, graphed), losses, strict=True):
        for _ in range(3):
            made.train_epoch(data, lambda step, made=made, own=own: bool(own.append(made.losses[-1].item())))
    assert has_captured(graphed)
    assert losses[0][:8] == pytest.approx(losses[1][:8], rel=1e-3)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert int(graphed.optimizer.steps) == int(eager.optimizer.steps) == 24


@pytest.mark.parametrize("arch", ["histonet", "histonet-pair", "resnet18", "p4m-densenet"])
@pytest.mark.parametrize("precision", [pytest.param(Precision.BF16, marks=gpu_only), FP16_ON_GPU, Precision.FP32])
def test_every_architecture_trains_as_a_graph(arch, precision):
    data, made = batches(), trainer(compute(precision), arch=arch)
    first = made.train_epoch(data)
    for _ in range(3 if ON_GPU else 1):
        last = made.train_epoch(data)
    assert has_captured(made)
    assert last < first


def test_three_steps_are_those_of_the_cpu():
    expected, made = trainer(CPU, augment=Augment.NONE), trainer(compute(), augment=Augment.NONE)
    # The CPU rounds images that it makes smaller to bytes, which changes this loss by 0.08 %. Muon raises small
    # singular values to 1, so that differences in rounding grow from step to step.
    tolerances = iter((2e-3, 5e-3, 5e-3))
    for on_cpu, on_gpu in zip(
        batches("cpu", 3 * BATCH).eval_batches(), batches(n=3 * BATCH).eval_batches(), strict=True
    ):
        losses = expected.train_step(on_cpu), made.train_step(on_gpu)
        assert float(losses[1]) == pytest.approx(float(losses[0]), rel=next(tolerances))
    for model, other in ((made.model, expected.model), (made.ema_model, expected.ema_model)):
        for name, weight in model.state_dict().items():
            # AdamW's first steps are as large for a gradient of 1e-9 as for one of 1: where the gradient is almost 0,
            # its sign is rounding, and the weight may differ by two steps. So a quarter of the values may differ.
            reference = other.state_dict()[name].float()
            is_close = (weight.cpu().float() - reference).abs() <= 2e-5 + 0.02 * reference.abs()
            assert float(is_close.float().mean()) >= 0.75 or relative(weight, reference) < 0.02, name


@gpu_only  # elsewhere Triton's interpreter does it: tests/models/test_models.py
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("channels", "side"), [(16, 96), (24, 48), (48, 24), (192, 12)])
def test_pooling_by_triton_has_the_values_and_gradients_of_pytorch(channels, side, precision):
    pytest.importorskip("triton")
    from benchmarks.pooling import measure_difference

    assert find_triton_kernels(precision) is not None
    assert measure_difference(3, channels, side, "cuda", precision) == (0, 0)


def test_logits_and_gradients_are_those_of_the_cpu():
    torch.manual_seed(0)
    model, images = create_model("histonet"), torch.rand(16, 3, 96, 96)
    chosen = compute()  # sets IEEE arithmetic for fp32
    other = copy.deepcopy(model).to(chosen.device)
    outputs = model(images), other(images.to(chosen.device))
    assert (outputs[0] - outputs[1].cpu()).abs().max() < 1e-3
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if ours.grad.norm() > 1e-4:
            assert relative(theirs.grad, ours.grad) < 1e-2


@pytest.mark.parametrize("precision", [Precision.BF16, FP16_ON_GPU])
def test_half_precision_gives_nearly_the_same_log_odds(precision):
    torch.manual_seed(0)
    model = create_model("histonet").to(compute().device).eval()
    images = next(batches().eval_batches()).images
    exact = compute_log_odds(model, images, compute(), tta=True)
    rounded = compute_log_odds(model, images, compute(precision), tta=True)
    assert (exact - rounded).abs().max() < 0.05


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_a_step_never_waits_for_the_gpu():
    data = batches()
    for changes in ({}, {"cuda_graph": False}, {"cuda_graph": False, "rotate": Rotate.RIGHT}):
        made = trainer(compute(BF16), **changes)
        made.train_epoch(data)
        batch = next(data.eval_batches())
        with refuse_to_wait():
            for _ in range(3):
                made.train_step(batch)


def test_patches_that_are_not_kept_on_the_gpu_give_the_same_batches():
    kept, loaded = batches(is_resident=True), batches(is_resident=False)
    for first, second in zip(kept.train_batches(5), loaded.train_batches(5), strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)


def test_memory_does_not_grow_over_replays():
    data, made = batches(), trainer(compute(BF16), total_steps=2000)
    made.train_epoch(data)
    made.losses = []
    batch = next(data.eval_batches())
    before = used_memory()
    for _ in range(1000 if ON_GPU else 3):
        made.train_step(batch)
    assert used_memory() - before < 2**20


def test_deterministic_training_gives_the_same_bits_and_continues_with_them():
    states = []
    with make_deterministic(True):
        for stop in (None, None, 5):
            data, made = batches(), trainer(compute(BF16), total_steps=16)
            if stop:
                made.train_epoch(data, lambda step: step == 5)
                state, ema = made.collect_state(), {k: v.cpu() for k, v in made.ema_model.state_dict().items()}
                made = trainer(compute(BF16), total_steps=16)
                made.load_state(state, ema)
            while made.step < 16:
                made.train_epoch(data)
            states.append(made.collect_state().model)
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


@gpu_only
def test_fp16_trains_for_300_steps():
    data, made = batches(), trainer(compute(Precision.FP16), total_steps=300)
    losses = [made.train_epoch(data) for _ in range(37)]
    assert losses[-1] < losses[0]
    assert float(made.optimizer.loss_scale) >= 2**10


def test_patches_are_placed_as_on_the_cpu():
    """The same placements, up to interpolation: the CPU's coordinates have 1/32 of a pixel."""
    from histocli.data import transforms

    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 12, 12), 96, mode="bicubic").clamp(0, 1).mul(255).byte()
    placement = torch.tensor([[[0.8, -0.5, 0.05], [0.5, 0.8, -0.1]]]).expand(8, 2, 3).contiguous()
    on_cpu = transforms._warp_with_opencv(smooth, placement, False).float()
    device = compute().device
    on_gpu = transforms._warp_with_grid_sample(smooth.to(device), placement.to(device), False).cpu().float()
    assert (on_cpu - on_gpu).abs().mean() < 1
    drawn = apply_random_affine(smooth.to(device))
    assert drawn.shape == smooth.shape


def test_augmented_patches_stay_in_range():
    images = next(batches().eval_batches()).images
    for any_angle, side in ((True, 64), (False, None), (True, None)):
        made = augment(images, Augment.SHARPNESS, any_angle=any_angle, side=side)
        assert made.dtype is torch.float32
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
