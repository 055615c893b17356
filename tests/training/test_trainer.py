"""Training steps, schedules, stopping and resuming, on a few patches."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from histocli.compute import device
from histocli.compute.cores import MIN_PIECE
from histocli.compute.device import Compute, choose_compute
from histocli.data import transforms
from histocli.data.loaders import PatchLoader
from histocli.enums import Augment, Device, Precision, Rotate
from histocli.errors import HistoError
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.models import create_model
from histocli.training.optim import LOSS_SCALE
from histocli.training.trainer import NotFiniteError, Recipe, Trainer

CPU = torch.device("cpu")
FP32 = Compute(CPU, Precision.FP32, "")
BF16 = Compute(CPU, Precision.BF16, "")


def make_loader(n=24, size=4):
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 128, (n, 96, 96, 3), np.uint8) + 100 * labels[:, None, None, None].astype(np.uint8)
    return PatchLoader(pixels, np.arange(n), labels, size, CPU)


def make_trainer(compute=FP32, total_steps=12, arch="histonet", **changes):
    torch.manual_seed(3)
    return Trainer(create_model(arch), Recipe(1e-3, total_steps, seed=3, **changes), compute)


def make_small_trainer(compute=FP32, total_steps=12, lr=0.03, **changes):
    """Return a trainer of two small convolutions, for tests that do not depend on the network."""
    torch.manual_seed(3)
    first, second = (
        [nn.Conv2d(before, after, 4, 4), nn.BatchNorm2d(after), nn.ReLU()] for before, after in ((3, 8), (8, 16))
    )
    model = nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    return Trainer(model, Recipe(lr, total_steps, seed=3, **changes), compute)


def have_equal_tensors(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


def test_the_loss_of_a_pair_is_the_mean_of_the_losses_of_its_networks():
    """And not the loss of the mean of their probabilities, which is lower."""
    trainer = make_trainer(arch="histonet-pair", augment=Augment.NONE)
    batch = next(make_loader().eval_batches())
    with torch.no_grad():
        logits = [copy.deepcopy(part.network)(part.augment(batch.images, Augment.NONE)) for part in trainer.members]
        losses = [F.cross_entropy(each, batch.labels, label_smoothing=0.05) for each in logits]
        of_mean = F.cross_entropy(torch.stack(logits).softmax(2).mean(0).log(), batch.labels, label_smoothing=0.05)
    expected = float(sum(losses)) / 2
    assert float(of_mean) < expected * (1 - 1e-4)
    assert trainer.train_step(batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("rotate", "expected"),
    [(Rotate.AUTO, [False, True]), (Rotate.ANY, [True, True]), (Rotate.RIGHT, [False, False])],
)
def test_each_network_of_a_pair_is_augmented_as_if_it_were_trained_alone(rotate, expected):
    members = make_trainer(arch="histonet-pair", rotate=rotate).members
    assert [member.any_angle for member in members] == expected
    images = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
    assert [member.augment(images, Augment.FULL).shape[-1] for member in members] == [96, 64]


@pytest.mark.parametrize(
    ("augment", "rotate"), [*((level, Rotate.RIGHT) for level in Augment), (Augment.FULL, Rotate.ANY)]
)
def test_a_step_changes_every_weight_and_the_ema(augment, rotate):
    # Without weight decay, which changes weights that have no gradient.
    trainer = make_trainer(augment=augment, rotate=rotate, weight_decay=0)
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    loss = trainer.train_step(next(make_loader().eval_batches()))
    assert loss.isfinite()
    assert loss.item() > 0
    assert trainer.step == 1
    # Some biases before a batch norm always have a zero gradient. All other weights have more than one dimension.
    assert not any(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters() if p.ndim > 1)
    assert not any(torch.equal(p, before[name]) for name, p in trainer.ema_model.named_parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("compute", "make"), [(FP32, make_trainer), (BF16, make_small_trainer)], ids=["histonet-fp32", "small-bf16"]
)
def test_training_learns_an_easy_task(compute, make):
    """On a processor without bf16 a step of HistoNet takes seconds; `test_options_are_used_and_stored` trains one."""
    data, trainer = make_loader(48, 8), make(compute, total_steps=24, augment=Augment.FLIPS)
    for _ in range(4):
        trainer.train_epoch(data)
    probs = BatchPredictor([CalibratedNetwork(trainer.ema_model)], compute).predict_packed(data).probs
    labels = data.labels.numpy()
    assert probs[labels == 1].min() > probs[labels == 0].max()
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_the_learning_rate_rises_to_its_maximum_and_falls_to_almost_zero():
    trainer, rates = make_small_trainer(total_steps=12, lr=1e-3), []
    for _ in range(2):
        trainer.train_epoch(make_loader(), lambda step: bool(rates.append(trainer.learning_rate)))
    peak = rates.index(max(rates))
    assert 0.9e-3 < rates[peak] <= 1e-3
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < 1e-5


def test_norms_and_biases_have_no_weight_decay():
    """Without gradients only weight decay changes weights, and it changes only those with several dimensions."""
    trainer = make_trainer(weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.optimizer.step()
    for name, parameter in trainer.model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (parameter.ndim > 1), name


@pytest.fixture(scope="module")
def uninterrupted_trainer():
    """Return a trainer after two epochs, and the losses."""
    data, uninterrupted = make_loader(), make_trainer()
    return uninterrupted, [uninterrupted.train_epoch(data), uninterrupted.train_epoch(data)]


@pytest.mark.parametrize("stop_at", [1, 6, 9])
def test_a_run_stopped_after_any_step_continues_bit_for_bit(uninterrupted_trainer, stop_at):
    data, (uninterrupted, expected) = make_loader(), uninterrupted_trainer
    first = make_trainer()
    losses = []
    while first.step < stop_at:
        losses.append(first.train_epoch(data, lambda step: step == stop_at))
    second = make_trainer()
    torch.manual_seed(0)  # random numbers depend on the step only, not on the state of PyTorch's generator
    second.load_state(first.collect_state(), first.ema_model.state_dict())
    while second.step < 12:
        losses.append(second.train_epoch(data))
    assert [loss for loss in losses if loss is not None] == expected
    assert have_equal_tensors(second.model.state_dict(), uninterrupted.model.state_dict())
    assert have_equal_tensors(second.ema_model.state_dict(), uninterrupted.ema_model.state_dict())


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("compute", [FP32, BF16])
def test_batch_norm_uses_the_whole_batch_for_any_number_of_threads(compute):
    trainer = make_small_trainer(compute)
    first = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    trainer.model.train()
    first.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    size = 2 * MIN_PIECE  # which inference would divide between the two threads
    trainer.train_step(next(make_loader(size, size).eval_batches()))
    assert seen == [size]


@pytest.mark.usefixtures("two_threads")
def test_a_run_with_several_threads_continues_bit_for_bit():
    data = make_loader(48, 16)
    uninterrupted, first, second = (make_trainer(total_steps=6) for _ in range(3))
    losses = [uninterrupted.train_epoch(data), uninterrupted.train_epoch(data)]
    assert first.train_epoch(data, lambda step: step == 2) is None
    second.load_state(first.collect_state(), first.ema_model.state_dict())
    assert [second.train_epoch(data), second.train_epoch(data)] == losses
    assert have_equal_tensors(second.model.state_dict(), uninterrupted.model.state_dict())
    assert have_equal_tensors(second.ema_model.state_dict(), uninterrupted.ema_model.state_dict())


def test_equal_seeds_give_equal_runs_and_other_seeds_other_runs():
    data = make_loader()
    first, second, other = (make_small_trainer(lr=1e-3) for _ in range(3))
    other.recipe = Recipe(1e-3, 12, seed=4)
    losses = [trainer.train_epoch(data) for trainer in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]


def test_an_infinite_loss_is_an_error_with_the_step_and_a_hint():
    data, trainer = make_loader(), make_small_trainer(lr=1e-3)

    def make_infinite(step):
        if step == 2:
            with torch.no_grad():
                next(p for p in trainer.model.parameters() if p.ndim == 4).fill_(float("inf"))
        return False

    with pytest.raises(HistoError, match="the loss of step 3 is not finite") as caught:
        trainer.train_epoch(data, make_infinite)
    assert "--lr (it is 0.001)" in caught.value.hint
    assert "--precision fp32" in caught.value.hint


def test_a_state_with_an_infinite_loss_is_never_saved():
    trainer = make_trainer()
    trainer.losses = [torch.tensor(0.7), torch.tensor(float("nan"))]
    trainer.step = 2
    with pytest.raises(HistoError, match="the loss of step 2 is not finite"):
        trainer.collect_state()


def test_gradients_that_are_never_finite_in_fp16_are_noticed_although_the_loss_is_finite():
    trainer = make_small_trainer(Compute(CPU, Precision.FP16, ""), total_steps=36)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    assert trainer.train_epoch(make_loader()) is not None
    trainer.optimizer.loss_scale.fill_(2.0**-9)  # as after 25 steps
    with pytest.raises(NotFiniteError, match="by step 12, the gradients of too many steps were not finite"):
        trainer.train_epoch(make_loader())


@pytest.mark.parametrize("arch", ["histonet-64", "p4m-densenet"])
def test_where_channels_must_not_be_last_no_layer_gets_them_last(monkeypatch, arch):
    """As on MPS; no other device needs it."""
    for module in (device, transforms):
        monkeypatch.setattr(module, "find_memory_format", lambda place: torch.contiguous_format)
    trainer, layouts = make_trainer(arch=arch), []

    def record(layer, inputs, output):
        layouts.extend(maps.is_contiguous() for maps in (*inputs, output))

    for layer in trainer.model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(record)
    trainer.train_step(next(make_loader().eval_batches()))
    assert len(layouts) > 20
    assert all(layouts)


def test_the_channels_are_last_in_memory_except_on_mps():
    formats = [device.find_memory_format(torch.device(name)) for name in ("cpu", "cuda", "mps")]
    assert formats == [torch.channels_last, torch.channels_last, torch.contiguous_format]


def test_the_device_is_chosen_and_the_reason_given(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    auto = choose_compute()
    assert auto.device.type == "cpu"
    assert "no GPU found" in auto.reason
    assert "bf16 (given)" in choose_compute(Device.CPU, Precision.BF16).reason
    for asked in (Device.CUDA, Device.MPS):
        with pytest.raises(HistoError, match=f"--device {asked}") as caught:
            choose_compute(asked)
        assert "--device auto" in caught.value.hint


@pytest.mark.parametrize(
    ("amx", "bf16", "intel", "expected"),
    [
        (True, True, True, Precision.BF16),
        (False, True, False, Precision.BF16),
        (False, True, True, Precision.FP32),
        (False, False, False, Precision.FP32),
    ],
)
def test_a_cpu_computes_in_bf16_if_that_is_faster(monkeypatch, amx, bf16, intel, expected):
    capabilities = {"amx_tile": amx, "avx512_bf16": bf16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(device, "_is_intel", lambda: intel)
    assert choose_compute(Device.CPU).precision is expected


@pytest.mark.parametrize("total_steps", range(1, 13))
def test_a_run_of_any_length_completes_its_schedule(total_steps):
    trainer = make_small_trainer(total_steps=total_steps, lr=1e-3)
    batch = next(make_loader().eval_batches())
    rates = []
    for _ in range(total_steps):
        trainer.train_step(batch)
        rates.append(trainer.learning_rate)
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert rates[-1] < 1e-4


def test_a_run_saved_without_a_loss_scale_continues_with_one():
    first = make_trainer()
    first.train_step(next(make_loader().eval_batches()))
    state, average = first.collect_state(), first.ema_model.state_dict()
    second = make_trainer(Compute(CPU, Precision.FP16, ""))
    second.load_state(state, average)
    assert second.step == 1
    assert have_equal_tensors(second.model.state_dict(), first.model.state_dict())
    assert float(second.optimizer.loss_scale) == LOSS_SCALE


class FakeGpu:
    """Replaces the functions of torch.cuda that describe a GPU with those of a GPU that does not exist."""

    def __init__(
        self, monkeypatch, tmp_path, *, available=True, capability=(9, 0), init=None, zeros=None, visible=None, count=1
    ):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "compute_90"])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *args: "Tesla P100")
        monkeypatch.setattr(torch.cuda, "init", self._raise(init))
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        if zeros:
            monkeypatch.setattr(device.torch, "zeros", self._raise(zeros))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        (tmp_path / "nvidia0").touch()
        monkeypatch.setattr(device, "DEVICE_FILES", tmp_path)

    @staticmethod
    def _raise(message):
        def call(*args, **kwargs):
            if message:
                raise RuntimeError(message)

        return call


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ({"available": False, "init": "The NVIDIA driver on your system is too old (found version 11040)."}, "too old"),
        (
            {"capability": (6, 0)},
            "Tesla P100 has compute capability 6.0, and this PyTorch is built for 7.5, 8.0, 9.0; install the build for "
            "CUDA 12.6: ",
        ),
        ({"capability": (3, 7)}, "7.5, 8.0, 9.0; PyTorch 2.10 and later have no code for such an old GPU"),
        (
            {"available": False, "init": "No CUDA GPUs are available", "visible": "7"},
            "No CUDA GPUs are available; CUDA_VISIBLE_DEVICES is '7'",
        ),
        (
            {"zeros": "CUDA error: out of memory\nmore", "count": 2},
            "CUDA error: out of memory; nvidia-smi shows which processes use the GPU; CUDA_VISIBLE_DEVICES=1 chooses",
        ),
        (
            {"zeros": "CUDA error: out of memory", "count": 2, "visible": "4,6"},
            "CUDA_VISIBLE_DEVICES=6 chooses another",
        ),
    ],
    ids=["driver", "old", "very old", "hidden", "memory", "memory of a visible one"],
)
def test_auto_uses_the_cpu_and_explains_why_the_gpu_cannot_be_used(monkeypatch, tmp_path, gpu, words):
    FakeGpu(monkeypatch, tmp_path, **gpu)
    with pytest.raises(HistoError, match="--device cuda: ") as caught:
        choose_compute(Device.CUDA)
    assert words in str(caught.value)
    assert "--device cpu" in caught.value.hint
    chosen = choose_compute(Device.AUTO)
    assert chosen.device.type == "cpu"
    assert words in chosen.warning
    assert "the GPU cannot be used" in chosen.reason


@pytest.mark.parametrize(
    ("files", "has_tool", "warns"),
    [
        (["nvidiactl", "nvidia3"], False, True),  # a container with the fourth GPU
        (["dxg"], True, True),  # WSL
        (["dxg"], False, False),  # WSL with another maker's GPU
        ([], True, False),  # a node of a cluster without a GPU
    ],
)
def test_a_machine_with_a_gpu_is_recognised_without_pytorch(monkeypatch, tmp_path, files, has_tool, warns):
    FakeGpu(monkeypatch, tmp_path, available=False, init="the driver is too old")
    (tmp_path / "nvidia0").unlink()
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}" if has_tool else None)
    assert choose_compute(Device.AUTO).warning == ("the GPU cannot be used: the driver is too old" if warns else "")


@pytest.mark.parametrize("capability", [(7, 5), (8, 6), (9, 0), (12, 0)])
def test_code_built_for_an_older_gpu_runs_on_a_newer_one(monkeypatch, tmp_path, capability):
    FakeGpu(monkeypatch, tmp_path, capability=capability, zeros=None)
    monkeypatch.setattr(device.torch, "zeros", lambda *args, **kwargs: None)
    assert choose_compute(Device.CUDA, Precision.BF16).device == torch.device("cuda")


def record_calls(monkeypatch, set_device=lambda number: None):
    """Replace functions of PyTorch that use a GPU; return a list that gets their names and numbers."""
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: (calls.append(f"use {number}"), set_device(number)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: calls.append("describe") or (9, 0))
    monkeypatch.setattr(device.torch, "zeros", lambda *args, **kwargs: calls.append("compute"))
    return calls


@pytest.fixture
def second_of_two(monkeypatch, tmp_path):
    """Let this be the second process of a job, on a machine with two GPUs."""
    FakeGpu(monkeypatch, tmp_path)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.mark.usefixtures("second_of_two")
def test_a_process_of_a_job_selects_its_gpu_before_it_computes(monkeypatch):
    calls = record_calls(monkeypatch)
    assert choose_compute(Device.AUTO, Precision.BF16).device == torch.device("cuda", 1)
    assert calls == ["use 1", "describe", "compute"]
    calls.clear()
    assert choose_compute(Device.CPU).device == CPU
    assert calls == []


@pytest.mark.usefixtures("second_of_two")
def test_a_gpu_of_a_job_that_another_program_has_for_itself_is_explained(monkeypatch):
    record_calls(monkeypatch, FakeGpu._raise("CUDA error: all CUDA-capable devices are busy or unavailable"))
    chosen = choose_compute(Device.AUTO)
    assert chosen.device == CPU
    assert "devices are busy or unavailable; nvidia-smi shows which processes use the GPU" in chosen.warning


@pytest.mark.usefixtures("second_of_two")
def test_the_processes_of_torchrun_share_one_gpu_only_by_gloo(monkeypatch):
    """A scheduler may show each process another GPU as its only one; torchrun shows the same one to all."""
    calls = record_calls(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    choose_compute(Device.CUDA, Precision.BF16)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    with pytest.raises(HistoError, match=r"more processes than GPUs: local rank 1 on .* sees 1 GPU$") as caught:
        choose_compute(Device.CUDA, Precision.BF16)
    assert caught.value.hint.startswith("--processes 1 ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # a script that torchrun starts may do so too
    choose_compute(Device.CUDA, Precision.BF16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("HISTO_DISTRIBUTED_BACKEND", "gloo")
    choose_compute(Device.CUDA, Precision.BF16)
    assert calls == ["use 0", "describe", "compute"] * 3


def test_a_gpu_of_amd_is_used_whatever_its_architecture_is_called(monkeypatch, tmp_path):
    FakeGpu(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a", "gfx942"])
    calls = record_calls(monkeypatch)
    assert choose_compute(Device.CUDA, Precision.BF16).device == torch.device("cuda")
    assert calls == ["compute"]


def test_the_network_is_one_graph_for_torch_compile():
    """A break in the graph would compile it in pieces, which is slower than not to compile it."""
    compiled = torch.compile(create_model("histonet"), backend="eager", fullgraph=True)
    for training in (True, False):
        compiled.train(training)
        assert compiled(torch.rand(2, 3, 96, 96)).shape == (2, 2)
    with torch.inference_mode():
        assert compiled(torch.rand(2, 3, 96, 96)).shape == (2, 2)


def test_amx_is_recognised_with_pytorch_2_10(monkeypatch):
    """Newer versions have a public function."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert choose_compute(Device.CPU).reason.endswith("(the processor has AMX)")
