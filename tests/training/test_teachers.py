"""What a student is told of a patch: its teachers' mean probability, and some of its label."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from histocli.choices import Augment, Precision
from histocli.compute.device import Compute
from histocli.data.augment import resized
from histocli.data.batches import Batch
from histocli.models import create_model
from histocli.models.checkpoint import Checkpoint
from histocli.training.teachers import TRUST, Teachers
from histocli.training.trainer import Recipe, Trainer

FP32 = Compute(torch.device("cpu"), Precision.FP32, "")


def checkpoint(arch, seed):
    torch.manual_seed(seed)
    model = create_model(arch)
    return Checkpoint(model.arch, model.state_dict(), "run", 1, {}, {}, "")


def tumour(taught, images):
    with torch.no_grad():
        return taught.build()(images).softmax(1)[:, 1]


def test_a_target_is_the_teachers_mean_and_some_of_the_smoothed_label():
    taught = [checkpoint("histonet", seed) for seed in (0, 1)]
    images, labels = torch.rand(70, 3, 64, 64), torch.arange(70) % 2
    targets = Teachers(taught, FP32).targets(images, labels, 0.1)
    mean = torch.stack([tumour(one, images) for one in taught]).mean(0)
    expected = TRUST * mean + (1 - TRUST) * torch.where(labels == 1, 0.95, 0.05)
    torch.testing.assert_close(targets[:, 1], expected)
    torch.testing.assert_close(targets.sum(1), torch.ones(70))
    assert not targets.requires_grad


def test_a_step_learns_the_targets():
    teachers = Teachers([checkpoint("histonet", 0)], FP32)
    torch.manual_seed(5)
    made = Trainer(create_model("histonet"), Recipe(1e-3, 4, seed=0, augment=Augment.NONE), FP32, teachers=teachers)
    images, labels = torch.randint(0, 256, (8, 3, 96, 96), dtype=torch.uint8), torch.arange(8) % 2
    seen = resized(images, 64).float() / 255
    made.model.train()
    expected = cross_entropy(made.model(seen), teachers.targets(seen, labels, Recipe.label_smoothing))
    torch.testing.assert_close(made.train_step(Batch(images, labels)), expected.detach())


@pytest.mark.parametrize(("teacher", "side"), [("histonet", 64), ("resnet18", None)])
def test_a_teacher_of_patches_of_another_size_sees_them_in_full(teacher, side):
    teachers = Teachers([checkpoint(teacher, 0)], FP32)
    made = Trainer(create_model("histonet"), Recipe(1e-3, 4, seed=0), FP32, teachers=teachers)
    assert made.side == side
    images = torch.rand(2, 3, 96, 96)
    targets = teachers.targets(resized(images, made.side), torch.tensor([0, 1]), 0.0)
    expected = tumour(checkpoint(teacher, 0), resized(images, side))
    torch.testing.assert_close(targets[:, 1], TRUST * expected + (1 - TRUST) * torch.tensor([0.0, 1.0]))
