"""The features of frozen backbones on disk: reused, resumed, repaired, and filled by several processes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from histocli.data.feature_cache import FeatureCache, FeatureSource, hash_patches
from histocli.data.features import compute_features
from histocli.data.loaders import PatchLoader
from histocli.errors import HistoError
from histocli.models.checkpoint import load_checkpoint
from histocli.signals import Stopped
from histocli.training.listeners import Listener
from histocli.workspace import Workspace
from tests.cli import SUBSET, TRAIN
from tests.models.hub import FROZEN, SMALL, publish

SOURCE = FeatureSource("net", "ab" * 32, None, 3, "cpu", "fp32")


def patches_of(n=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 96, 96, 3), np.uint8)


def loader_of(patches, batch_size=8):
    return PatchLoader(patches, np.arange(len(patches)), np.zeros(len(patches)), batch_size, torch.device("cpu"))


class Backbone:
    """Computes the mean of each channel, counts the patches, and calls `before` with the number of each batch."""

    def __init__(self, before=lambda batch: None):
        self.patches, self.batches, self.before = 0, 0, before

    def __call__(self, images):
        self.before(self.batches)
        self.patches += len(images)
        self.batches += 1
        return images.float().mean((2, 3))


def expected(patches):
    return torch.from_numpy(patches).float().mean((1, 2))


def test_features_are_computed_once(tmp_path):
    patches, workspace = patches_of(), Workspace(tmp_path)
    first, again = Backbone(), Backbone()
    computed = compute_features(loader_of(patches), first, FeatureCache(workspace, SOURCE))
    assert (first.patches, computed.cached) == (40, 0)
    assert torch.allclose(computed.loader.features, expected(patches))
    mixed = np.concatenate([patches_of(5, seed=1), patches[::-1]])  # known by their pixels, wherever they are
    found = compute_features(loader_of(mixed), again, FeatureCache(workspace, SOURCE))
    assert (again.patches, found.cached) == (5, 40)
    assert torch.equal(found.loader.features[5:], computed.loader.features.flip(0))
    assert torch.allclose(found.loader.features, expected(mixed))


def test_equal_patches_are_computed_once(tmp_path):
    patches, backbone = np.repeat(patches_of(4), 3, axis=0), Backbone()
    computed = compute_features(loader_of(patches), backbone, FeatureCache(Workspace(tmp_path), SOURCE))
    assert backbone.patches == 4
    assert torch.allclose(computed.loader.features, expected(patches))


@pytest.mark.parametrize(
    "other", [{"backbone_sha256": "cd" * 32}, {"precision": "bf16"}, {"device": "cuda"}, {"side": 224}]
)
def test_features_of_another_backbone_or_precision_are_not_used(tmp_path, other):
    compute_features(loader_of(patches_of()), Backbone(), FeatureCache(Workspace(tmp_path), SOURCE))
    source = FeatureSource(**vars(SOURCE) | other)
    assert FeatureCache(Workspace(tmp_path), source).folder != FeatureCache(Workspace(tmp_path), SOURCE).folder
    backbone = Backbone()
    compute_features(loader_of(patches_of()), backbone, FeatureCache(Workspace(tmp_path), source))
    assert backbone.patches == 40


def test_an_interrupted_job_keeps_what_it_has_computed(tmp_path):
    def stop(batch):
        if batch == 3:
            raise Stopped(2)

    patches, workspace, rest = patches_of(), Workspace(tmp_path), Backbone()
    with pytest.raises(Stopped):
        compute_features(loader_of(patches), Backbone(stop), FeatureCache(workspace, SOURCE))
    computed = compute_features(loader_of(patches), rest, FeatureCache(workspace, SOURCE))
    assert (rest.patches, computed.cached) == (16, 24)
    assert torch.allclose(computed.loader.features, expected(patches))


@pytest.mark.parametrize("file", ["features.bin", "keys.bin"])
def test_features_that_a_killed_process_left_unfinished_are_computed_again(tmp_path, file):
    patches, workspace = patches_of(), Workspace(tmp_path)
    compute_features(loader_of(patches[:20]), Backbone(), FeatureCache(workspace, SOURCE))
    with (FeatureCache(workspace, SOURCE).folder / file).open("ab") as torn:
        torn.write(b"\7" * 17)
    computed = compute_features(loader_of(patches), Backbone(), FeatureCache(workspace, SOURCE))
    assert (computed.cached, computed.damaged) == (20, 0)
    assert torch.allclose(computed.loader.features, expected(patches))
    assert compute_features(loader_of(patches), Backbone(), FeatureCache(workspace, SOURCE)).cached == 40


def test_damaged_rows_are_computed_again(tmp_path):
    patches, workspace = patches_of(), Workspace(tmp_path)
    compute_features(loader_of(patches), Backbone(), FeatureCache(workspace, SOURCE))
    path = FeatureCache(workspace, SOURCE).folder / "features.bin"
    content = bytearray(path.read_bytes())
    content[5 * 12] ^= 1  # of row 5
    path.write_bytes(content[:-6])  # and the last row is cut
    computed = compute_features(loader_of(patches), Backbone(), FeatureCache(workspace, SOURCE))
    assert (computed.cached, computed.damaged) == (38, 2)
    assert torch.allclose(computed.loader.features, expected(patches))
    assert compute_features(loader_of(patches), Backbone(), FeatureCache(workspace, SOURCE)).damaged == 0


def test_two_jobs_share_the_work(tmp_path, monkeypatch):
    """While the first job computes its second batch, another job computes all patches."""
    patches, workspace, other = patches_of(80), Workspace(tmp_path), Backbone()
    monkeypatch.setattr("histocli.data.features._SAVE_PATCHES", 8)

    def compute_in_another_job(batch):
        if batch == 1:
            compute_features(loader_of(patches), other, FeatureCache(workspace, SOURCE))

    first = Backbone(compute_in_another_job)
    computed = compute_features(loader_of(patches), first, FeatureCache(workspace, SOURCE))
    assert other.patches == 72  # the first batch of the first job was there
    assert first.patches < 80  # it stopped after the batches that were read ahead
    assert torch.allclose(computed.loader.features, expected(patches))
    cache = FeatureCache(workspace, SOURCE)
    assert (cache.folder / "keys.bin").stat().st_size == 80 * 24  # no patch twice
    assert all(digest in cache for digest in hash_patches(patches, np.arange(80)))


def test_a_changed_description_is_refused(tmp_path):
    folder = FeatureCache(Workspace(tmp_path), SOURCE).folder
    (folder / "encoder.json").write_text(json.dumps(vars(SOURCE) | {"width": 4}))
    with pytest.raises(HistoError, match="describes another backbone than net"):
        FeatureCache(Workspace(tmp_path), SOURCE)


# histo train --freeze


def test_a_second_run_reads_all_features(histo, hub):
    publish(SMALL, hub)
    command = [*TRAIN, "--arch", SMALL, "--weights", "pretrained", "--freeze", "--epochs", 2]
    first = histo(*command, "--name", "one")
    again = histo(*command, "--name", "two")
    assert f"features: 0 of {SUBSET} patches were cached in" in " ".join(first.stderr.split())
    assert f"features: {SUBSET} of {SUBSET} patches were cached in" in " ".join(again.stderr.split())
    shutil.rmtree(histo.root / "features")  # it may be removed at any time
    third = histo(*command, "--name", "three")
    assert f"features: 0 of {SUBSET} patches were cached in" in " ".join(third.stderr.split())
    first, second, three = (load_checkpoint(histo.root / "runs" / name / "last.pt") for name in ("one", "two", "three"))
    for name, tensor in first.model.items():
        assert torch.equal(tensor, second.model[name])
        assert torch.equal(tensor, three.model[name])


class StopsInFeatures(Listener):
    """Ends the run while the features are computed."""

    def on_features(self, done, total):
        if done > 20:
            raise Stopped(2)


def test_a_run_that_stops_while_it_computes_features_continues(histo, hub):
    from histocli.commands.train import train

    publish(SMALL, hub)
    config = replace(FROZEN, epochs=1, name="stopped")
    with pytest.raises(Stopped):
        train(Workspace(histo.root), config, listener=StopsInFeatures())
    result = histo("train", "--resume", "--name", "stopped")
    found = int(" ".join(result.stderr.split()).partition("features: ")[2].split()[0])
    assert 20 < found < SUBSET
