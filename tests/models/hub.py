"""A local folder instead of torchvision's hub, with random weights instead of the published ones."""

import pytest
import torch
from torch import nn

from histocli.config import TrainConfig
from histocli.enums import Device, Precision, Weights

SMALL = "shufflenet_v2_x0_5"
FROZEN = TrainConfig(
    arch=SMALL,
    weights=Weights.PRETRAINED,
    batch_size=16,
    device=Device.CPU,
    precision=Precision.FP32,
    freeze=True,
)


def images_of(n=2, side=96):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(2))


def publish(arch, folder):
    """Save random weights of torchvision's `arch` where its published weights would be; return the network."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(8)
    options = {"init_weights": False, "transform_input": True} if arch == "googlenet" else {}
    network = get_model(arch, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch, so that the network's output depends on its input
    with torch.no_grad():
        network.train()(images_of(8))
    folder = folder / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / get_model_weights(arch).DEFAULT.url.rpartition("/")[2])
    return network.eval()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Use an empty folder for downloaded weights, and block the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path / "torch"
