"""Predictors: averages, temperatures and thresholds of small networks, and streams with unreadable patches."""

import cv2
import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from histocli.compute.device import Compute
from histocli.data.loaders import PatchLoader
from histocli.data.transforms import make_d4_views
from histocli.enums import Device, Engine, Precision, Resize
from histocli.errors import HistoError, UsageError
from histocli.inference import checkpoints
from histocli.inference.checkpoints import load_predictor
from histocli.inference.forward import _join_views, compute_log_odds
from histocli.inference.inputs import open_inputs
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork, _average_log_odds
from histocli.models import create_model
from histocli.models.backbone import Head
from histocli.models.checkpoint import Checkpoint, save_checkpoint
from histocli.models.knn import KnnHead
from histocli.patch import Patch
from histocli.workspace import Workspace
from tests.listeners import RecordingListener

TEMPERATURES = {"one": 2.0, "other": 0.5}
THRESHOLDS = {"one": 0.3, "other": 0.6}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a workspace with two runs that differ in weights, temperature and threshold."""
    root = Workspace(tmp_path_factory.mktemp("scoring"))
    rng = np.random.default_rng(8)
    odds = rng.normal(size=200).astype(np.float32)
    validation = {"labels": (rng.random(200) < expit(odds)).astype(np.uint8), "log_odds": odds}
    for seed, run in enumerate(TEMPERATURES):
        torch.manual_seed(seed)
        model = create_model("histonet")
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(20)  # without this, an untrained network gives about 0.5 for every patch
        made = Checkpoint("histonet", model.state_dict(), run, 1, {}, {}, "ab" * 32, THRESHOLDS[run], TEMPERATURES[run])
        made.validation = {name: torch.from_numpy(values) for name, values in validation.items()}
        save_checkpoint(made, root.run_dir(run) / "best.pt")
    return root


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(9).integers(0, 256, (6, 3, 96, 96), np.uint8))


def to_pixels(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.fixture
def predictor(one_thread, workspace):
    """Make a predictor from some of these runs."""
    return lambda *names, **options: load_predictor(workspace, names, Device.CPU, Precision.FP32, **options)


def raw_probabilities(predictor, run, images):
    model = predictor(run).members[0].checkpoint.build().eval()
    with torch.no_grad():
        return model(images.float() / 255).double().softmax(1)[:, 1].numpy()


def test_log_odds_are_divided_by_the_temperature(predictor, images):
    expected = raw_probabilities(predictor, "one", images)
    scores = predictor("one").predict_array(to_pixels(images))
    assert scores.raw == pytest.approx(expected, abs=1e-5)
    assert scores.probs == pytest.approx(expit(logit(expected) / 2), abs=1e-5)
    assert predictor("one", uncalibrated=True).predict_array(to_pixels(images)).probs == pytest.approx(
        expected, abs=1e-5
    )
    assert (scores.spread == 0).all()


def test_an_ensemble_is_the_mean_of_calibrated_probabilities(predictor, images):
    alone = [predictor(run).predict_array(to_pixels(images)).probs for run in TEMPERATURES]
    assert predictor("one", "other").predict_array(to_pixels(images)).probs == pytest.approx(
        np.mean(alone, 0), abs=1e-6
    )


def test_views_are_averaged_before_the_temperature_is_applied(predictor, images):
    views = [raw_probabilities(predictor, "other", view) for view in make_d4_views(images)]
    scores = predictor("other", tta=True).predict_array(to_pixels(images))
    assert scores.raw == pytest.approx(np.mean(views, 0), abs=1e-5)
    assert logit(scores.probs) == pytest.approx(logit(np.mean(views, 0)) / 0.5, abs=1e-3)
    assert scores.spread == pytest.approx(np.ptp(expit(logit(views) / 0.5), 0), abs=1e-4)
    plain = predictor("other", should_compute_spread=True).predict_array(to_pixels(images))
    assert plain.spread == pytest.approx(scores.spread, abs=1e-6)
    assert plain.raw == pytest.approx(views[0], abs=1e-5)


@pytest.fixture
def network():
    """Return a network that is not in a checkpoint and has no temperature."""
    torch.manual_seed(3)
    return create_model("histonet")


def uncalibrated(network, **options):
    return BatchPredictor([CalibratedNetwork(network)], Compute(torch.device("cpu"), Precision.FP32, ""), **options)


def loader(images, size):
    pixels = to_pixels(images)
    return PatchLoader(pixels, np.arange(len(pixels)), np.zeros(len(pixels)), size, torch.device("cpu"))


def test_packed_data_arrays_and_streams_get_the_same_scores_for_any_batch_size(one_thread, network, images):
    predictor = uncalibrated(network)
    expected = predictor.predict_array(to_pixels(images)).probs
    assert ((expected > 0) & (expected < 1)).all()
    pixels = to_pixels(images)
    patches = [Patch(str(i), lambda i=i: pixels[i]) for i in range(6)]
    for size in (1, 4, 6):
        assert predictor.predict_packed(loader(images, size)).probs == pytest.approx(expected, abs=1e-5)
        assert predictor.predict_array(pixels, size).probs == pytest.approx(expected, abs=1e-5)
        chunks = list(predictor.predict_patches(patches, size))
        assert np.concatenate([chunk.scores.probs for chunk in chunks]) == pytest.approx(expected, abs=1e-5)


def test_scores_that_are_not_finite_are_an_error(network, images):
    with torch.no_grad():
        list(network.parameters())[-1].fill_(float("nan"))
    with pytest.raises(HistoError, match="not finite") as caught:
        uncalibrated(network).predict_packed(loader(images, 4))
    assert "--precision fp32" in caught.value.hint


@pytest.mark.parametrize("tta", [False, True])
def test_no_patches_have_no_scores(network, images, tta):
    predictor = uncalibrated(network, tta=tta)
    assert predictor.predict_packed(loader(images[:0], 4)).probs.shape == (0,)
    assert predictor.predict_array(np.empty((0, 96, 96, 3), np.uint8)).probs.shape == (0,)
    assert list(predictor.predict_patches([], 4)) == []


def test_progress_counts_the_patches_of_a_loader(network, images):
    reported = []
    uncalibrated(network).predict_packed(loader(images, 4), reported.append)
    assert reported == [4, 6]


def test_the_mean_over_views_is_exact_near_0_and_1():
    odds = np.array([[-800.0, 60.0, 0.0, 3.0], [-800.0, 50.0, 0.0, -1.0]])
    found = _average_log_odds(odds)
    assert found[0] == pytest.approx(-800)
    assert found[1] == pytest.approx(-np.log((np.exp(-60) + np.exp(-50)) / 2))
    assert found[2:] == pytest.approx(logit(expit(odds).mean(0)[2:]))


def test_thresholds_by_number_as_stored_and_by_rule(predictor):
    assert predictor("one").find_threshold("0.7") == 0.7
    assert predictor("one").find_threshold() == 0.3
    assert predictor("one", "other").find_threshold("stored") == pytest.approx(0.45)
    assert predictor("one", uncalibrated=True).find_threshold() == pytest.approx(expit(2 * logit(0.3)))
    alone, both = (predictor(*names, prevalence=0.05).find_threshold() for names in (("one",), ("one", "other")))
    assert logit(both) - logit(0.45) == pytest.approx(logit(alone) - logit(0.3))  # as the mean of the probabilities
    by_rule = predictor("one").find_threshold("sensitivity=0.9")
    assert predictor("one", uncalibrated=True).find_threshold("sensitivity=0.9") == pytest.approx(
        expit(2 * logit(by_rule))
    )
    with pytest.raises(UsageError, match="is not a threshold"):
        predictor("one").find_threshold("highest")


@pytest.mark.parametrize("cores", ["1", "3"])
def test_a_stream_keeps_its_order_without_unreadable_patches(predictor, images, cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", cores)
    pixels = to_pixels(images)

    def broken():
        raise HistoError("broken")

    patches = [Patch(str(i), broken if i in (1, 5) else lambda i=i: pixels[i]) for i in range(6)]
    listener = RecordingListener()
    chunks = list(predictor("one").predict_patches(iter(patches), 2, listener))
    assert [patch.id for chunk in chunks for patch in chunk.patches] == ["0", "2", "3", "4"]
    assert [str(error) for chunk in chunks for _, error in chunk.failures] == ["broken"] * 2
    assert listener.progress == [2, 4, 6]
    expected = predictor("one").predict_array(to_pixels(images)).probs[[0, 2, 3, 4]]
    assert np.concatenate([chunk.scores.probs for chunk in chunks]) == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def many_patches(monkeypatch, images):
    """Return 120 patches, which are more than three cores read in advance, and a list of those that were read."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    pixels, read = to_pixels(images), []

    def load(i):
        read.append(i)
        return pixels[i % 6]

    return [Patch(str(i), lambda i=i: load(i)) for i in range(120)], read


def test_many_chunks_on_several_cores_stay_in_order(predictor, images, many_patches):
    patches, _ = many_patches
    chunks = predictor("one").predict_patches(iter(patches), 3)
    scored = [(chunk.patches, chunk.scores.probs) for chunk in chunks]
    assert [patch for some, _ in scored for patch in some] == patches
    expected = np.tile(predictor("one").predict_array(to_pixels(images)).probs, 20)
    assert np.concatenate([probs for _, probs in scored]) == pytest.approx(expected, abs=1e-5)


def test_stopping_early_reads_few_unused_patches(predictor, many_patches):
    patches, read = many_patches
    chunks = predictor("one").predict_patches(iter(patches), 3)
    next(chunks)
    chunks.close()
    assert 3 <= len(read) <= 3 * (2 * 3 + 1)


def test_an_exception_of_a_thread_is_raised_in_order(predictor, many_patches):
    patches, _ = many_patches
    patches[31] = Patch("31", lambda: 1 // 0)
    chunks = predictor("one").predict_patches(iter(patches), 3)
    assert len([next(chunks) for _ in range(10)]) == 10
    with pytest.raises(ZeroDivisionError):
        next(chunks)


def test_a_cpu_uses_small_chunks(predictor):
    assert [predictor("one").choose_chunk_size(size) for size in (8, 64, 256)] == [8, 64, 64]


def test_the_same_checkpoint_twice_is_refused(predictor, workspace):
    with pytest.raises(UsageError, match="is given twice"):
        predictor("one", "other", str(workspace.run_dir("one") / "best.pt"))


@pytest.fixture
def gpu_code(monkeypatch):
    """Run the code for GPUs on this CPU: processes decode, and a chunk is started before the last one is used."""
    monkeypatch.setattr(BatchPredictor, "has_gpu", True)
    monkeypatch.setattr("histocli.images.early.count_threads", lambda: 4)
    monkeypatch.setattr("histocli.images.stream._THREADED_PATCHES", 0)


def test_the_code_for_gpus_gives_the_same_scores_and_errors(predictor, images, tmp_path, gpu_code):
    for i, pixels in enumerate(to_pixels(images)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), pixels[:, :, ::-1])
    for i in (2, 3):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    opened = open_inputs([str(tmp_path)], Workspace(tmp_path), Resize.CROP)
    listener = RecordingListener()
    loaded = predictor("one")
    chunks = list(loaded.predict_patches(opened.patches, 2, listener))
    assert [[patch.id for patch in chunk.patches] for chunk in chunks] == [["0", "1"], [], ["4", "5"]]
    assert [str(error)[:5] for chunk in chunks for _, error in chunk.failures] == ["2.png", "3.png"]
    assert listener.progress == [2, 4, 6]
    expected = loaded.predict_array(to_pixels(images)).probs[[0, 1, 4, 5]]
    assert np.concatenate([chunk.scores.probs for chunk in chunks]) == pytest.approx(expected, abs=1e-5)
    assert loaded.choose_chunk_size(256) == 256


def test_a_gpu_gets_the_next_chunk_before_scores_are_used(predictor, images, gpu_code):
    loaded, started = predictor("one"), []
    start = loaded._start_scoring
    loaded._start_scoring = lambda chunk: started.append(chunk) or start(chunk)
    pixels = to_pixels(images)
    chunks = loaded.predict_patches([Patch(str(i), lambda i=i: pixels[i]) for i in range(6)], 2)
    next(chunks)
    assert len(started) == 2
    chunks.close()


def test_views_are_joined_into_one_batch_on_a_gpu_only():
    cpu = [torch.empty(4, 3, 8, 8) for _ in range(8)]
    gpu = [view.to("meta") for view in cpu]
    assert _join_views(cpu) is cpu
    assert [len(batch) for batch in _join_views(gpu)] == [32]
    large = [torch.empty(1000, 3, 8, 8, device="meta") for _ in range(8)]
    assert [len(batch) for batch in _join_views(large)] == [2000] * 4
    assert [len(batch) for batch in _join_views(gpu[:1])] == [4]


@pytest.mark.parametrize("views", [1, 8])
def test_joined_views_give_the_same_log_odds(network, images, monkeypatch, views):
    compute = Compute(torch.device("cpu"), Precision.FP32, "")
    network.eval()
    expected = compute_log_odds(network, images, compute, tta=views == 8)
    monkeypatch.setattr("histocli.inference.forward._join_views", lambda views: [torch.cat(views)])
    joined = compute_log_odds(network, images, compute, tta=views == 8)
    assert joined.shape == (views, 6)
    assert torch.allclose(joined, expected, atol=1e-5)


@pytest.mark.parametrize("arch", ["histonet", "p4m-densenet", "resnet18"])
@pytest.mark.parametrize("number", [torch.bfloat16, torch.float16])
def test_the_head_computes_in_fp32_under_autocast(arch, number):
    torch.manual_seed(0)
    model = create_model(arch).eval()
    seen = []
    head = model.network.head
    linear = (
        head if isinstance(head, torch.nn.Linear) else [m for m in head.modules() if isinstance(m, torch.nn.Linear)][-1]
    )
    linear.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.no_grad(), torch.autocast("cpu", number):
        logits = model(torch.rand(2, 3, 96, 96))
    assert seen == [(torch.float32, torch.float32)]
    assert logits.dtype is torch.float32


def test_scores_in_bf16_are_not_quantised(network):
    images = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (64, 3, 96, 96), np.uint8))
    compute = Compute(torch.device("cpu"), Precision.BF16, "")
    odds = compute_log_odds(network.eval(), images, compute)[0]
    assert len(odds.unique()) >= 60


@pytest.mark.parametrize("name", ["linear", "knn"])
def test_a_head_on_features_is_computed_in_fp32(name):
    torch.manual_seed(0)
    features = torch.randn(64, 32)
    head = Head(32).eval()
    if name == "knn":
        head = KnnHead(32, 200).eval()
        head.remember(torch.randn(200, 32), torch.arange(200) % 2)
    odds = [
        compute_log_odds(head, features, Compute(torch.device("cpu"), precision, ""))
        for precision in (Precision.FP32, Precision.BF16)
    ]
    assert torch.equal(*odds)


def export_network(workspace, predictor, monkeypatch):
    """Make an empty file where `histo export` writes, replace the code that would open it, and return its path."""
    path = workspace.export_path(predictor("one").members[0].sha256, "onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    monkeypatch.setattr(checkpoints, "OnnxNetwork", lambda path, sha256: lambda images: torch.zeros(len(images), 2))
    monkeypatch.setattr("histocli.packages.find_spec", lambda name: object())
    return path


def test_the_engine_is_chosen_and_named(predictor, workspace, monkeypatch):
    path = export_network(workspace, predictor, monkeypatch)
    try:
        by_onnx = predictor("one")
        assert by_onnx.members[0].engine == "ONNX Runtime"
        assert "by ONNX Runtime (with the file of histo export; --engine torch ignores it)" in by_onnx.reason
        assert predictor("one", engine=Engine.TORCH).members[0].engine == "torch"
        assert predictor("one", engine=Engine.TORCH).reason.endswith("by PyTorch")
        onnx = load_predictor(workspace, ["one"], Device.AUTO, Precision.AUTO, Engine.ONNX)
        assert onnx.members[0].engine == "ONNX Runtime"
        assert (onnx.compute.device.type, onnx.compute.precision) == ("cpu", Precision.FP32)
        assert load_predictor(workspace, ["one"], Device.CPU, Precision.BF16).members[0].engine == "torch"
        assert predictor("one").kind != predictor("one", engine=Engine.TORCH).kind
    finally:
        path.unlink()


def test_an_engine_that_is_not_available_is_an_error_with_a_hint(predictor, workspace, monkeypatch):
    with pytest.raises(UsageError, match="--engine onnx does not run with --precision bf16"):
        load_predictor(workspace, ["one"], Device.AUTO, Precision.BF16, Engine.ONNX)
    with pytest.raises(UsageError, match="--engine onnx does not run with --device cuda"):
        load_predictor(workspace, ["one"], Device.CUDA, Precision.AUTO, Engine.ONNX)
    monkeypatch.setattr("histocli.packages.find_spec", lambda name: object())
    with pytest.raises(HistoError, match="no ONNX file of run one") as caught:
        predictor("one", engine=Engine.ONNX)
    assert "histo export --ckpt" in caught.value.hint
    monkeypatch.setattr("histocli.packages.find_spec", lambda name: None)
    with pytest.raises(HistoError, match="--engine onnx needs the package onnxruntime"):
        predictor("one", engine=Engine.ONNX)
