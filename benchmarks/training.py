"""Compare the steps of `histo train` with one fixed batch, and with widely used data loaders."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from benchmarks.data import BenchmarkData
from benchmarks.pairs import Row, alternate, row
from histocli.compute.device import choose_compute
from histocli.data.dataset import open_subset, select_labelled
from histocli.data.loaders import PatchLoader
from histocli.enums import Augment, Device, Precision, SplitName
from histocli.models import create_model
from histocli.training.trainer import Recipe, Trainer

BATCH = 128
STEPS = {"histonet": 24, "resnet18": 4}
WORKERS = 2


class Ours:
    """Measures the steps of `histo train`, and the same network, optimiser and precision on a fixed batch."""

    def __init__(self, data: BenchmarkData, arch: str, level: Augment = Augment.FULL) -> None:
        self.compute = choose_compute(Device.AUTO, Precision.AUTO)
        subset = open_subset(data.workspace, data.workspace.manifest_path("balanced"))
        train = select_labelled(subset, SplitName.TRAIN)
        self.batches = PatchLoader(train.store, train.rows, train.labels, BATCH, self.compute.device)
        self.steps = min(STEPS[arch], self.batches.steps)
        recipe = Recipe(3e-3, 100_000, seed=0, augment=level)
        self.trainer = Trainer(create_model(arch), recipe, self.compute)
        batch = next(iter(self.batches.eval_batches()))
        (self.member,) = self.trainer.members
        self.images = self.member.augment(batch.images, level)
        self.labels = batch.labels

    def train(self) -> float:
        """Return patches per second of whole steps: gathering, augmentation, network, optimiser and EMA."""
        last = self.trainer.step + self.steps
        began = time.perf_counter()
        while self.trainer.step < last:
            self.trainer.train_epoch(self.batches, lambda step: step >= last)
        self._wait()
        return self.steps * BATCH / (time.perf_counter() - began)

    def measure_fixed_batch(self) -> float:
        """Return patches per second of the network and the optimiser only."""
        trainer = self.trainer
        trainer.model.train()
        began = time.perf_counter()
        for _ in range(self.steps):
            with self.compute.autocast():
                logits = self.member.network(self.images)
                loss = F.cross_entropy(logits, self.labels, label_smoothing=trainer.recipe.label_smoothing)
            loss.backward()
            trainer.optimizer.step()
        self._wait()
        return self.steps * BATCH / (time.perf_counter() - began)

    def _wait(self) -> None:
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize()


class Theirs:
    """A network trained with AdamW on what another loader gives, all in the default memory format or channels last."""

    def __init__(
        self, arch: str, batches: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]], *, best: bool
    ) -> None:
        self.compute = choose_compute(Device.AUTO, Precision.AUTO if best else Precision.FP32)
        self.format = torch.channels_last if best else torch.contiguous_format
        self.model = create_model(arch).to(self.compute.device).to(memory_format=self.format)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.steps = STEPS[arch]
        self.batches = batches

    def train(self) -> float:
        """Return patches per second from the second batch on, without the start of the workers."""
        batches = self.batches()
        next(batches)
        began, done = time.perf_counter(), 0
        self.model.train()
        for images, labels in islice(batches, self.steps):
            device = self.compute.device
            with self.compute.autocast():
                logits = self.model(images.to(device, memory_format=self.format))
                loss = F.cross_entropy(logits, labels.to(device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            done += len(images)
        loss.item()
        return done / (time.perf_counter() - began)


def plain_loader(folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`ImageFolder`, PIL and torchvision's transforms, as tutorials have it."""
    from torchvision import datasets, transforms

    several = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomVerticalFlip(),
        transforms.RandomRotation(180),
        transforms.ColorJitter(0.1, 0.1, 0.1, 0.02),
        transforms.ToTensor(),
    ]
    data = datasets.ImageFolder(folder, transforms.Compose(several))
    return _repeat_forever(DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True))


def timm_loader(folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return timm's loader with its default augmentation for training."""
    from timm.data import create_dataset, create_loader
    from timm.data.readers import add_img_extensions

    add_img_extensions(".tif")
    data = create_dataset("", str(folder))
    loader = create_loader(
        data,
        input_size=(3, 96, 96),
        batch_size=BATCH,
        is_training=True,
        num_workers=WORKERS,
        device=torch.device("cpu"),
        persistent_workers=False,
        vflip=0.5,
    )
    return _repeat_forever(loader)


def fastai_loader(folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fastai's `ImageDataLoaders` with its `aug_transforms`, as its book has it."""
    from fastai.vision.all import ImageDataLoaders, aug_transforms

    turned = aug_transforms(flip_vert=True)
    loaders = ImageDataLoaders.from_folder(
        folder, valid_pct=0.1, seed=0, bs=BATCH, num_workers=WORKERS, device="cpu", batch_tfms=turned
    )
    for images, labels in _repeat_forever(loaders.train):
        yield images.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)


def _repeat_forever(loader: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from loader


def measure(data: BenchmarkData) -> list[Row]:
    """The default network against its roofline and a plain loop; resnet18 against timm and fastai where installed."""
    full, bare = Ours(data, "histonet"), Ours(data, "histonet", Augment.NONE)
    plain = Theirs("histonet", lambda: plain_loader(data.folder), best=False)
    names = {
        "`histo train`": full.train,
        "the network and the optimiser only, on one batch that is in memory": full.measure_fixed_batch,
        "`histo train --augment none`": bare.train,
        "the network and the optimiser only, on one batch that is not augmented": bare.measure_fixed_batch,
        "`ImageFolder`, torchvision, `DataLoader`, fp32": plain.train,
    }
    found = alternate(names)
    ours, fixed, none, none_fixed, people = names
    rows = [
        row(found, ours, fixed, "patches/s", "at least 0.95"),
        row(found, none, none_fixed, "patches/s", "at least 0.98"),
        row(found, ours, people, "patches/s", "at least 1.5 without bf16, 3 with"),
    ]
    return rows + _resnet(data)


def _resnet(data: BenchmarkData) -> list[Row]:
    """Return a row for each library that is installed."""
    arch = "resnet18"
    ours = Ours(data, arch)
    mine, fixed = f"`histo train --arch {arch}`", "the network and the optimiser only, on one batch that is in memory"
    ways, goals = {mine: ours.train, fixed: ours.measure_fixed_batch}, {fixed: ""}
    loaders = [
        ("timm", timm_loader, True, "at least 1.25"),
        ("timm", timm_loader, False, "at least 2"),
        ("fastai", fastai_loader, False, "at least 2"),
    ]
    for package, loader, best, goal in loaders:
        if find_spec(package):
            name = f"{arch}, {package}'s loader, {'best precision, channels last' if best else 'fp32, default format'}"
            ways[name] = Theirs(arch, partial(loader, data.folder), best=best).train
            goals[name] = goal
    found = alternate(ways)
    return [row(found, mine, other, "patches/s", goal) for other, goal in goals.items()]
