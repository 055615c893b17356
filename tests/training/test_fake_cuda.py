"""The CUDA path without a GPU: training steps and inference on fake CUDA tensors, which have shapes but no values.

PyTorch's FakeTensorMode runs every operation for its shape, dtype and device alone. It fails where operands are on
different devices, and where a value is read from the device, which would make the host wait on a real one. PyTorch's
autograd engine needs a real device, so the backward pass is replaced by gradients of the right shapes.
"""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from histocli.compute.ddp import ProcessGroup
from histocli.compute.device import Compute
from histocli.data import transforms
from histocli.data.loaders import Batch
from histocli.enums import Augment, Precision, Rotate
from histocli.inference.forward import compute_log_odds
from histocli.models import blurred_pool, create_model
from histocli.training.trainer import Recipe, Trainer

# Copying a model reads the addresses of its tensors, and fake tensors have none.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")

# Each network and each precision; histonet-pair has the two others of histo, and histonet-wide is histonet with more
# channels.
CASES = [
    ("histonet", Precision.FP16),
    ("histonet-pair", Precision.BF16),
    ("p4m-densenet", Precision.FP32),
    ("resnet18", Precision.FP16),
]
ARCHS = sorted({arch for arch, _ in CASES})
_models: dict[str, nn.Module] = {}


class DeviceWatch(TorchDispatchMode):
    """Counts the operations on the GPU, the operations on the CPU, and the copies between them."""

    def __init__(self):
        super().__init__()
        self.on_gpu, self.on_cpu, self.copies = Counter(), Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs or {}, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim}
        if devices == {"cuda", "cpu"}:
            self.copies[str(function)] += 1
        elif devices == {"cpu"}:
            self.on_cpu[str(function)] += 1
        elif devices:
            self.on_gpu[str(function)] += 1
        return result


@pytest.fixture
def fake_cuda(monkeypatch):
    """Let tensors be created on a CUDA device that does not exist."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: None)
    monkeypatch.setattr(blurred_pool, "find_triton_kernels", lambda dtype: None)  # they need real memory
    monkeypatch.setattr(nn.Module, "to", lambda self, *args, **kwargs: self)  # the weights are on the GPU already
    torch._C._ensureCUDADeviceGuardSet()
    transforms._stain_matrices.cache_clear()
    with torch.autograd.set_multithreading_enabled(False), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode
    transforms._stain_matrices.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def models():
    """Build the networks before the fake tensor mode starts, in their memory format."""
    _models.update({arch: create_model(arch) for arch in ARCHS})
    yield
    _models.clear()


def on_gpu(model):
    """Give a network fake weights on the GPU, with the strides of its real ones."""
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    moved = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
                    values[name] = nn.Parameter(moved) if values is module._parameters else moved
    return model


def without_backward(monkeypatch, trainer):
    """Replace the backward pass by one that gives every weight a gradient without values; return the trainer."""

    def backward(loss):
        for parameter in trainer.model.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    return trainer


def batch(n=64):
    images = torch.empty(n, 96, 96, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
    return Batch(images, torch.zeros(n, dtype=torch.int64, device="cuda"))


def compute(precision):
    return Compute(torch.device("cuda"), precision, "fake")


@pytest.mark.parametrize(("arch", "precision"), CASES)
@pytest.mark.usefixtures("fake_cuda")
def test_a_training_step_stays_on_the_gpu(monkeypatch, arch, precision):
    recipe = Recipe(1e-3, 100, seed=0, cuda_graph=False)
    trainer = without_backward(monkeypatch, Trainer(on_gpu(_models[arch]), recipe, compute(precision)))
    trainer.model.train()
    trainer.train_step(batch())  # the first one uploads constants
    with DeviceWatch() as watch:
        loss = trainer.train_step(batch())
    assert loss.device.type == "cuda"
    assert sum(watch.on_gpu.values()) > 100
    assert not watch.copies
    assert not watch.on_cpu


@pytest.mark.parametrize("augment", list(Augment))
@pytest.mark.parametrize("rotate", [Rotate.ANY, Rotate.RIGHT])
@pytest.mark.usefixtures("fake_cuda")
def test_every_augmentation_stays_on_the_gpu(augment, rotate):
    images, any_angle = batch().images, rotate is Rotate.ANY
    transforms.augment(images, augment, any_angle=any_angle, side=64 if any_angle else None)  # uploads constants
    with DeviceWatch() as watch:
        patches = transforms.augment(images, augment, any_angle=any_angle, side=64 if any_angle else None)
    assert patches.device.type == "cuda"
    assert watch.on_gpu
    assert not watch.copies
    assert not watch.on_cpu


@pytest.mark.parametrize(("arch", "precision"), CASES)
@pytest.mark.usefixtures("fake_cuda")
def test_inference_stays_on_the_gpu(arch, precision):
    model = on_gpu(_models[arch]).eval()
    with DeviceWatch() as watch:
        odds = compute_log_odds(model, batch().images, compute(precision), tta=True)
    assert odds.shape == (8, 64)
    assert odds.dtype is torch.float32
    assert odds.device.type == "cuda"
    assert not watch.copies
    assert not watch.on_cpu


@pytest.mark.parametrize(("size", "hip", "has_graph"), [(1, None, True), (2, None, False), (1, "7.0", False)])
@pytest.mark.usefixtures("fake_cuda")
def test_one_process_trains_by_a_cuda_graph_also_under_torchrun_but_not_on_amd(monkeypatch, size, hip, has_graph):
    monkeypatch.setattr(torch.version, "hip", hip)
    trainer = Trainer(
        on_gpu(_models["histonet"]), Recipe(1e-3, 100, seed=0), compute(Precision.BF16), ProcessGroup(0, size)
    )
    assert (trainer.graph is not None) is has_graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 16, 96, 96), (1, 24, 48, 48), (3, 320, 6, 6)])
@pytest.mark.usefixtures("fake_cuda")
def test_pooling_by_triton_keeps_shapes_types_and_layout(monkeypatch, shape, memory_format, dtype):
    pytest.importorskip("triton")
    from histocli.models import triton_pool

    launched = []
    monkeypatch.setattr(triton_pool, "_launch", lambda kernel, *tensors, **sizes: launched.append((tensors, sizes)))
    images, channels, height, width = shape
    maps = torch.empty(shape, dtype=dtype, device="cuda").to(memory_format=memory_format)
    saved = SimpleNamespace(save_for_backward=lambda *tensors: setattr(saved, "saved_tensors", tensors))
    assert triton_pool.can_pool(maps)
    pooled = triton_pool.TritonBlurredMaxPool.forward(saved, maps)
    gradient = triton_pool.TritonBlurredMaxPool.backward(saved, torch.empty_like(pooled, memory_format=memory_format))
    assert pooled.shape == (images, channels, height // 2, width // 2)
    assert gradient.shape == maps.shape
    for tensor in (pooled, gradient):
        assert (tensor.dtype, tensor.device.type) == (dtype, "cuda")
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    for tensors, sizes in launched:
        assert sizes == {"height": height, "width": width, "channels": channels}
        inputs, output = tensors[:-1], tensors[-1]
        assert output.is_contiguous()
        assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in inputs)
    assert [len(tensors) for tensors, _ in launched] == [2, 3]


@pytest.mark.usefixtures("fake_cuda")
def test_reads_and_copies_are_noticed():
    """The tests above can fail: FakeTensorMode refuses to read a value, and `DeviceWatch` counts a copy."""
    value = torch.zeros(3, device="cuda")
    with pytest.raises(Exception, match="_local_scalar_dense"):
        float(value[0])
    with DeviceWatch() as watch:
        value.copy_(torch.ones(3, device="cpu"))
    assert watch.copies
