"""The architectures: what their names build, how they process images, and how pretrained weights are loaded."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from histocli.architectures import ARCHITECTURES
from histocli.commands.train import train
from histocli.compute.ddp import SINGLE_PROCESS
from histocli.compute.device import choose_compute
from histocli.data.loaders import Batch
from histocli.data.transforms import make_d4_views
from histocli.enums import Device, Precision, Weights
from histocli.errors import HistoError, UsageError
from histocli.models import Classifier, blurred_pool, create_model, create_network, rebuild_model
from histocli.models.backbone import Head
from histocli.models.blurred_pool import BlurredMaxPool
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.models.torchvision_models import list_torchvision_names
from histocli.signals import Stopped
from histocli.training.probe import copy_head_weights, select_head_state
from histocli.training.resume import load_run_config
from histocli.training.setup import make_model
from histocli.training.trainer import Recipe, Trainer
from histocli.workspace import Workspace
from tests.cli import REPOSITORY, TRAIN
from tests.listeners import StopAfterEpoch
from tests.models.hub import FROZEN, SMALL, images_of, publish

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_16",
    "vit_h_14",
    "wide_resnet50_2",
]


def with_statistics(model):
    """Return the model in evaluation mode, with batch norm statistics that differ from the initial ones."""
    with torch.no_grad():
        model.train()(images_of(4))
    return model.eval()


def save_and_load(model, path):
    """Return the model that is built from its checkpoint."""
    made = Checkpoint(model.arch, model.state_dict(), "run", 1, {}, {}, "ab" * 32)
    save_checkpoint(made, path)
    return load_checkpoint(path).build()


# the p4m network


def test_p4m_densenet_is_invariant_to_the_eight_symmetries():
    torch.manual_seed(1)
    model = with_statistics(create_model("p4m-densenet"))
    images = images_of(3)
    with torch.no_grad():
        logits = [model(view) for view in make_d4_views(images)]
    assert all(torch.allclose(output, logits[0], atol=1e-5) for output in logits)
    assert (logits[0][0] - logits[0][1]).abs().max() > 1e-3  # different patches have different logits


@pytest.mark.parametrize(
    ("arch", "side"),
    [("histonet", 96), ("histonet-64", 64), ("histonet-wide", 96), ("histonet-pair", 96), ("p4m-densenet", 96)],
)
def test_parameters_and_flops_are_those_in_the_docstrings(arch, side):
    from torch.utils.flop_counter import FlopCounterMode

    network = create_network(arch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(images_of(1, side))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    costs = f"{parameters:,} parameters, {counter.get_total_flops() / 1e6:,.0f} MFLOP"
    line = f"`{arch}` {costs}" if arch.startswith("histonet") else costs
    assert line in " ".join(network.__doc__.split())


def test_histonet_pair_gives_the_mean_of_the_probabilities_of_histonet_and_histonet_64():
    torch.manual_seed(1)
    pair, members = (
        with_statistics(create_model("histonet-pair")),
        [create_model("histonet"), create_model("histonet-64")],
    )
    for number, member in enumerate(members):
        prefix = f"network.members.{number}."
        own = {name.removeprefix(prefix): value for name, value in pair.state_dict().items() if name.startswith(prefix)}
        member.network.load_state_dict(own)
    with torch.no_grad():
        probs = [model.eval()(images_of(3)).softmax(1) for model in (pair, *members)]
    assert torch.allclose(probs[0], (probs[1] + probs[2]) / 2, atol=1e-6)
    assert (probs[1] - probs[2]).abs().max() > 1e-3


def test_blurred_pooling_does_not_depend_on_the_position_of_stripes():
    stripes = torch.tensor([1.0, 1, 0, 0]).repeat(8).expand(1, 3, 32, 32)
    seen = {
        type(pool).__name__: [float(pool(stripes.roll(shift, 3))[..., 2:-2].mean()) for shift in range(4)]
        for pool in (BlurredMaxPool(3), nn.MaxPool2d(2))
    }
    assert seen == {"BlurredMaxPool": [0.75] * 4, "MaxPool2d": [0.5, 1, 0.5, 1]}


def test_blurred_pooling_is_equivariant_and_the_same_without_gradients():
    pool, maps = BlurredMaxPool(3), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert pool(maps).shape == (2, 3, 4, 4)
    pooled = pool(maps)
    for view, other in zip(make_d4_views(maps), make_d4_views(pooled), strict=True):
        assert torch.allclose(pool(view), other, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(pool(maps), pooled)


def test_blurred_pooling_in_bf16_has_the_values_and_gradients_of_the_operations_of_pytorch():
    """With small whole numbers: bf16 is exact, and many neighbours are equal. One block does not hold all patches."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(4, (17, 16, 96, 96), generator=generator).float()
    grads = torch.randint(-2, 3, (17, 16, 48, 48), generator=generator).float() * 16
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        maps = values.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        pooled = BlurredMaxPool(16)(maps)
        pooled.backward(grads.to(dtype))
        results.append((pooled, maps.grad))
    (expected, expected_grad), (pooled, grad) = results
    assert type(expected.grad_fn).__name__ == "ConvolutionBackward0"
    assert torch.equal(pooled.float(), expected)
    assert torch.equal(grad.float(), expected_grad)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_pooling_by_triton_has_the_values_and_gradients_of_the_operations_of_pytorch():
    """On a CPU, by Triton's interpreter. tests/cuda compares the compiled kernels."""
    pytest.importorskip("triton")
    line = [sys.executable, "-m", "benchmarks.pooling", "--device", "cpu"]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"TRITON_INTERPRET": "1"}
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count("the largest differences are 0 of the values and 0 of the gradients") == 6


def test_training_goes_on_with_the_operations_of_pytorch_where_triton_cannot_compile(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(blurred_pool, "is_installed", lambda package: True)
    monkeypatch.setitem(sys.modules, "histocli.models.triton_pool", None)
    monkeypatch.delattr("histocli.models.triton_pool", raising=False)  # if another test has imported it
    blurred_pool.find_triton_kernels.cache_clear()
    for dtype in (torch.float16, torch.bfloat16):  # a GPU may have units for one of them only
        with pytest.warns(UserWarning, match="Triton cannot compile the pooling, so training on the GPU is slower"):
            assert blurred_pool.find_triton_kernels(dtype) is None
        assert blurred_pool.find_triton_kernels(dtype) is None  # warns only once
    blurred_pool.find_triton_kernels.cache_clear()
    fail = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory"))  # which the batch size can cause
    monkeypatch.setitem(sys.modules, "histocli.models.triton_pool", Mock(TritonBlurredMaxPool=Mock(apply=fail)))
    monkeypatch.setattr(torch, "zeros", lambda *args, **options: None)
    with pytest.raises(torch.OutOfMemoryError):
        blurred_pool.find_triton_kernels(torch.float16)
    blurred_pool.find_triton_kernels.cache_clear()


# names


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *FAMILIES])
def test_every_family_maps_patches_to_two_logits(arch):
    # shapes without numbers, but for one family that computes with them while it is built
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):
        logits = create_model(arch).eval()(torch.zeros(2, 3, 96, 96))
    assert logits.shape == (2, 2)


def test_the_families_cover_all_torchvision_classifiers():
    stems = {re.match(r"[a-z]+", name)[0] for name in list_torchvision_names()}
    assert stems == {re.match(r"[a-z]+", name)[0] for name in FAMILIES}


@pytest.mark.parametrize(
    ("arch", "close"),
    [
        ("resnet81", "resnet18"),
        ("p4m-densnet", "p4m-densenet"),
        ("histo-net", "histonet"),
        ("zzzz", "timm/NAME"),
        ("UNI", "uni"),
        ("someone/net", "--arch timm/hf-hub:someone/net --weights pretrained"),
    ],
)
def test_an_unknown_architecture_gets_suggestions(arch, close):
    with pytest.raises(UsageError, match=f"there is no architecture '{arch}'") as caught:
        create_model(arch)
    assert close in caught.value.hint


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_networks_of_this_project_have_no_pretrained_weights(arch):
    with pytest.raises(UsageError, match=f"{arch} has no pretrained weights"):
        create_model(arch, Weights.PRETRAINED)


@pytest.mark.parametrize("arch", ["histonet", "p4m-densenet", SMALL, "squeezenet1_1", "mobilenet_v3_small"])
def test_a_checkpoint_builds_its_network(arch, tmp_path):
    torch.manual_seed(4)
    model = with_statistics(create_model(arch))
    rebuilt = save_and_load(model, tmp_path / "a.pt")
    assert not rebuilt.training
    with torch.no_grad():
        assert torch.equal(rebuilt(images_of()), model(images_of()))


# input


@pytest.mark.parametrize(("arch", "side"), [("vit_b_16", 224), ("vit_h_14", 518), ("inception_v3", 299), (SMALL, None)])
def test_patches_are_resized_if_the_network_needs_one_size(arch, side):
    with torch.device("meta"):
        assert create_model(arch).side == side


@pytest.mark.parametrize("side", [48, 96, 224])
def test_resizing_keeps_the_content_of_a_patch(side):
    model = Classifier(nn.Identity(), "none", side=side)
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 96, 96)
    prepared = model.preprocess(ramp)
    assert prepared.shape == (1, 3, side, side)
    plain = Classifier(nn.Identity(), "none").preprocess(ramp)
    assert (prepared.mean() - plain.mean()).abs() < 1e-4
    assert (prepared[..., 1:] >= prepared[..., :-1]).all()


# pretrained weights


@pytest.mark.parametrize("arch", [SMALL, "googlenet"])
def test_published_weights_give_the_same_features_as_in_their_library(arch, hub, tmp_path):
    network = publish(arch, hub)
    network.fc = nn.Identity()
    model = create_model(arch, Weights.PRETRAINED).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    images = images_of()
    with torch.no_grad():
        expected = network((images - mean) / std)
        assert (expected[0] - expected[1]).abs().max() > 0.1
        assert torch.allclose(
            model.compute_features(images), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())
        )
        again = save_and_load(model, tmp_path / "a.pt")
        assert torch.equal(again(images), model(images))


def test_weights_that_cannot_be_downloaded_are_an_error_with_the_folder_for_them(hub):
    with pytest.raises(HistoError, match=f"the pretrained weights of {SMALL} cannot be loaded") as caught:
        create_model(SMALL, Weights.PRETRAINED)
    assert str(hub / "hub" / "checkpoints") in caught.value.hint
    assert "--weights random" in caught.value.hint


def test_a_pretrained_backbone_learns_at_its_own_rate(one_thread):
    torch.manual_seed(3)
    model = create_model(SMALL)
    compute = choose_compute(Device.CPU, Precision.FP32)
    moved = {}
    for fraction in (1.0, 0.1):
        made = Trainer(copy.deepcopy(model), Recipe(1e-2, 10, seed=0, muon=False, backbone_lr=fraction), compute)
        made.train_step(Batch((images_of(4) * 255).byte(), torch.tensor([0, 1, 0, 1])))
        before = dict(model.named_parameters())
        moves = {name: (p - before[name]).abs().median().item() for name, p in made.model.named_parameters()}
        moved[fraction] = [
            max(move for name, move in moves.items() if name.startswith("network.backbone.") is backbone)
            for backbone in (True, False)
        ]
    (backbone, head), (slow_backbone, same_head) = moved[1.0], moved[0.1]
    assert same_head == pytest.approx(head)
    assert slow_backbone == pytest.approx(0.1 * backbone, rel=0.05)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--freeze"], "--freeze is for pretrained networks"),
        (["--backbone-lr", 0.1], "--backbone-lr is for pretrained networks"),
        (["--weights", "pretrained", "--backbone-lr", 0], "--backbone-lr 0"),
        (["--weights", "pretrained", "--backbone-lr", 0.1, "--freeze"], "--freeze does not train the backbone"),
        (["--weights", "pretrained", "--freeze", "--augment", "none"], "--augment has no meaning with --freeze"),
        (["--weights", "pretrained", "--freeze", "--compile"], "--compile has no meaning with --freeze"),
        (["--augment", "none", "--rotate", "any"], "--rotate has no meaning with --augment none"),
    ],
)
def test_options_without_effect_are_refused(histo, options, why):
    error, _ = histo.fails("train", "--arch", SMALL, *options, code=2)
    assert why in error


@pytest.mark.parametrize("options", [["--freeze"], ["--lora", 4], ["--backbone-lr", 0.1], ["--freeze", "--shots", 4]])
def test_options_for_a_backbone_are_refused_for_the_network_that_comes_with_histo(histo, options):
    error, hint = histo.fails("train", "--weights", "histonet-pcam", *options, code=2)
    assert error == f"{options[0]} is for pretrained networks, and not for those of histo"
    assert "--arch resnet18 --weights pretrained" in hint
    assert [path.name for path in (histo.root / "runs").iterdir()] == ["first"]


# --freeze


def freeze(histo, *options):
    histo(*TRAIN, "--arch", SMALL, "--weights", "pretrained", "--freeze", *options)


def check_backbone(checkpoint, network):
    """Check that the backbone in a checkpoint has the weights of a published network."""
    backbone = {name: tensor for name, tensor in checkpoint.model.items() if name.startswith("network.backbone.")}
    published = network.state_dict()
    assert backbone
    for name, tensor in backbone.items():
        assert torch.equal(tensor, published[name.removeprefix("network.backbone.")]), name


def test_freeze_trains_the_head_and_not_the_backbone(histo, hub):
    network = publish(SMALL, hub)
    freeze(histo, "--epochs", 4, "--lr", 0.003, "--name", "head")
    run = histo.root / "runs" / "head"
    best = load_checkpoint(run / "best.pt")
    check_backbone(best, network)
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    # the checkpoint has the whole network, and gives the scores of the averaged head
    report = json.loads(histo("eval", "--ckpt", "head", "--raw", "--json", "--device", "cpu").stdout)
    assert report["metrics"]["auc"] == pytest.approx(best.metrics["val_auc"])
    assert report["metrics"]["log_loss"] == pytest.approx(best.metrics["val_loss"], rel=1e-5)


def test_imagenet_weights_can_be_frozen(histo, hub):
    network = publish(SMALL, hub)
    histo(*TRAIN, "--arch", SMALL, "--weights", "imagenet", "--freeze", "--epochs", 1, "--name", "imagenet")
    check_backbone(load_checkpoint(histo.root / "runs" / "imagenet" / "best.pt"), network)


def test_a_feature_with_almost_no_variance_is_not_magnified():
    head = Head(3)
    features = torch.randn(100, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 2.0, 0.0])
    head.standardise(features)
    standardised = (features - head.mean) / head.std
    assert torch.allclose(standardised[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert (head(features + 1) - head(features)).abs().max() < 20


def test_the_state_of_a_frozen_model_has_the_averaged_head():
    model = create_model(SMALL)
    average = Head(model.backbone_and_head.width)
    whole = model.state_dict() | copy_head_weights(average)
    assert whole.keys() == model.state_dict().keys()
    assert torch.equal(whole["network.head.linear.weight"], average.linear.weight)
    average.load_state_dict(select_head_state(whole))


def test_a_frozen_run_continues_bit_for_bit_without_a_download(histo, hub):
    publish(SMALL, hub)
    freeze(histo, "--epochs", 3, "--name", "uninterrupted")
    config = replace(FROZEN, epochs=3, name="interrupted")
    with pytest.raises(Stopped):
        train(Workspace(histo.root), config, listener=StopAfterEpoch())
    shutil.rmtree(hub)
    histo("train", "--resume", "--name", "interrupted")
    for file in ("last.pt", "best.pt"):
        first, second = (
            load_checkpoint(histo.root / "runs" / name / file) for name in ("interrupted", "uninterrupted")
        )
        assert first.epoch == second.epoch
        assert first.model.keys() == second.model.keys()
        assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())


def test_the_last_checkpoint_of_a_frozen_run_has_only_the_head(histo, hub, tmp_path):
    network = publish(SMALL, hub)
    freeze(histo, "--epochs", 1, "--name", "head")
    run = histo.root / "runs" / "head"
    last = load_checkpoint(run / "last.pt")
    assert all(name.startswith("network.head.") for name in last.model)
    assert (run / "last.pt").stat().st_size < 0.1 * (run / "best.pt").stat().st_size
    rebuilt, best = last.build().state_dict(), load_checkpoint(run / "best.pt").build().state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in rebuilt.items())  # with the backbone of best.pt
    alone = tmp_path / "last.pt"
    shutil.copy(run / "last.pt", alone)
    with pytest.raises(HistoError, match=r"has the weights of the head only, and .*best.pt does not exist"):
        load_checkpoint(alone).build()
    other = load_checkpoint(run / "best.pt")
    other.model[next(iter(other.model))].add_(1)
    save_checkpoint(other, tmp_path / "best.pt")
    with pytest.raises(HistoError, match="was trained with another backbone than that of"):
        load_checkpoint(alone).build()
    (run / "best.pt").unlink()  # as if stopped in the first epoch: the pretrained weights are loaded again
    published = network.state_dict()
    model = make_model(load_run_config(Workspace(histo.root), "head")[1], torch.device("cpu"), SINGLE_PROCESS, run)
    assert all(
        torch.equal(tensor, published[name]) for name, tensor in model.backbone_and_head.backbone.state_dict().items()
    )


def test_a_checkpoint_of_the_default_network_is_loaded_without_the_compiler():
    """Importing torch._dynamo takes as long as importing torch."""
    code = "import sys; from histocli.models import create_model; from histocli.models.limits import build_for\n"
    code += "build_for('histonet', create_model('histonet').state_dict()); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "False\n"


# timm


def test_without_timm_its_networks_are_an_error_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(HistoError, match="timm/resnet18 needs the package timm") as caught:
        create_model("timm/resnet18")
    assert caught.value.hint == "pip install 'histocli[timm]'"


@pytest.fixture(name="timm")
def timm_fixture(hub, monkeypatch):
    """Return timm, with an empty hub cache and no connection to the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("timm", reason="timm is not installed (the extra `timm`)")


def store_network(timm, folder, arch, **options):
    """Save a timm model in a folder, as timm publishes models; return the network."""
    torch.manual_seed(6)
    network = timm.create_model(arch, **options)
    timm.models.save_for_hf(network, folder, model_args=options, safe_serialization=True)
    return network.eval()


@pytest.mark.parametrize(("arch", "side"), [("test_resnet", None), ("test_vit", 160), ("test_vit?img_size=96", 96)])
def test_timm_networks_are_built_by_name_and_rebuilt(timm, arch, side, tmp_path):
    model = with_statistics(create_model(f"timm/{arch}"))
    assert (model.arch, model.side) == (f"timm/{arch}", side)
    with torch.no_grad():
        assert torch.equal(save_and_load(model, tmp_path / "a.pt")(images_of()), model(images_of()))


@pytest.mark.parametrize(
    ("arch", "options", "name"),
    [("test_resnet", {}, "timm/test_resnet"), ("test_vit", {"img_size": 64}, "timm/test_vit")],
)
def test_a_published_timm_model_is_rebuilt_without_its_source(timm, arch, options, name, tmp_path):
    network = store_network(timm, tmp_path / "published", arch, num_classes=5, **options)
    model = create_model(f"timm/local-dir:{tmp_path / 'published'}", Weights.PRETRAINED).eval()
    shutil.rmtree(tmp_path / "published")
    wanted = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(wanted[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = images_of(side=64)
    network.reset_classifier(0)
    assert model.arch.partition("?")[0] == name
    with torch.no_grad():
        assert torch.allclose(model.compute_features(images), network((images - mean) / std), atol=1e-5)
        assert torch.equal(save_and_load(model, tmp_path / "a.pt")(images_of()), model(images_of()))


@pytest.mark.parametrize(
    ("arch", "error", "why"),
    [
        ("timm/test_resnt", UsageError, "timm has no architecture 'test_resnt'"),
        ("timm/test_resnet?wings=2", UsageError, "wings"),
        ("timm/test_resnet?checkpoint_path=/etc/passwd", UsageError, "checkpoint_path"),
        ("timm/hf-hub:someone/something", HistoError, "cannot be loaded"),
        ("timm/local-dir:/nowhere", HistoError, "cannot be loaded"),
        ("timm/local-dir:{foreign}", HistoError, "does not name a timm architecture"),
    ],
)
def test_networks_that_timm_cannot_build_are_an_error(timm, tmp_path, arch, error, why):
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit"}')
    with pytest.raises(error, match=why) as caught:
        create_model(arch.format(foreign=tmp_path), Weights.PRETRAINED)
    assert caught.value.hint


def test_loading_a_checkpoint_never_uses_a_hub():
    with pytest.raises(HistoError, match="cannot be built without its hub or folder"):
        rebuild_model("timm/hf-hub:someone/something")
