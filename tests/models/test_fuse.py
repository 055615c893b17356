"""A network whose batch norms are fused into its convolutions gives the outputs of the original network."""

import copy

import pytest
import torch
from torch import nn

from histocli.models import create_model
from histocli.models.fuse import fuse_batch_norm


def count_batch_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("arch", "remaining"), [("histonet", 2), ("mobilenet_v3_small", 0), ("densenet121", 120)])
def test_a_network_with_fused_batch_norm_gives_the_same_scores(arch, remaining):
    torch.manual_seed(0)
    model = create_model(arch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training; some weights are negative
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_(1, 0.5)
            module.bias.data.normal_(0, 0.1)
    fused = copy.deepcopy(model)
    fuse_batch_norm(fused)
    assert count_batch_norms(model) > count_batch_norms(fused) == remaining
    images = torch.rand(3, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), model.eval()(images), rtol=1e-3, atol=1e-4)
