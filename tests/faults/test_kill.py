"""Kill a process at each operation on a file, and let each operation fail as on a full or broken disk.

After a kill the workspace opens, and the same command, run again, gives the same files as without the kill. After a
failure there is one error, and the files that existed before are unchanged.

Most kills are simulated. One process copies the workspace after each of its operations and in the middle of each
write: these are the files that `kill -9` would leave at this moment. `make kill-test` tests all moments of all
commands; with `HISTO_KILL_TEST=20`, 20 of each command are tested. The normal run tests all moments of `balance` and a
few of the others. Some processes are really killed.
"""

import os
import random
import shutil
from functools import cached_property
from hashlib import sha256

import cv2
import numpy as np
import pytest

from histocli.slides.synthetic import draw_slide, plan_synthetic_slide, write_annotation
from histocli.workspace import Workspace
from tests.faults.conftest import TRAIN
from tests.faults.processes import Process, histo
from tests.faults.trees import check_whole, differences, tree
from tests.models.hub import SMALL, publish
from tests.sources.server import FileServer

KILL_TEST = os.environ.get("HISTO_KILL_TEST", "")
IS_COMPLETE = KILL_TEST == "all"
MOMENTS = FAULTS = int(KILL_TEST) if KILL_TEST.isdecimal() else 2  # of a slow command, unless all are walked
KILLS = 1
QUICK = {"balance"}
TUNE = ["tune", "--name", "killed", "--trials", 1, "--folds", 2, "--device", "cpu"]
PREDICT = ["predict", "--ckpt", "first", "--device", "cpu"]
COMMANDS = {
    "download": ["download", "--source", "pcam", "--name", "small"],
    "folder": ["download", "--source", "folder", "--from", "{IMAGES}", "--name", "more"],
    "pack": ["download", "--source", "synthetic", "--n", 40, "--name", "more", "--force"],
    "balance": ["balance", "--n", 24, "--seed", 1],
    "train": [*TRAIN[:-3], 1, "--name", "killed"],
    "frozen": [*TRAIN[:-3], 1, "--arch", SMALL, "--weights", "pretrained", "--freeze", "--name", "killed"],
    "tune": [*TUNE, "--arch", "histonet", "--epochs", 1, "--batch-size", 8, "--lr", 0.001, "--augment", "none"],
    "eval": ["eval", "--ckpt", "first", "--device", "cpu"],
    "compare": ["eval", "--compare", "a.json", "b.json"],
    "predict": [*PREDICT, "synthetic", "--out", "{OUT}"],
    "plot": ["plot"] if IS_COMPLETE else ["plot", "--kind", "curves", "--kind", "balance"],
    "jsonl": [*PREDICT, "synthetic", "--out", "{OUT}.jsonl", "--failed", "{OUT}.csv"],
    "parquet": [*PREDICT, "synthetic", "--out", "{OUT}.parquet"],
    "maps": [*PREDICT, "{SLIDES}", "--out", "{OUT}"],
    "eval maps": ["eval", "--maps", "{MAPS}", "--annotations", "{SLIDES}"],
    "report": ["report"],
    "folds": [*TRAIN[:-3], 1, "--folds", 2, "--name", "killed"],
    "remove": ["runs", "rm", "first"],
    "export": ["export", "--ckpt", "first", "--format", "pt2", "--out", "{OUT}"],
    "onnx": ["export", "--ckpt", "first", "--format", "onnx", "--out", "{OUT}.onnx"],
    "wsinfer": ["export", "--ckpt", "first", "--format", "wsinfer", "--out", "{OUT}"],
}
SLOW = {
    "folder",
    "frozen",
    "tune",
    "jsonl",
    "parquet",
    "eval maps",
    "folds",
    "export",
    "onnx",
    "wsinfer",
}  # or much like another one
NAMES = [name for name in COMMANDS if KILL_TEST or name not in SLOW]
FAILURES = ("ENOSPC", "EIO", "torn")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(pcam_files):
    with FileServer(pcam_files) as server:
        yield server


@pytest.fixture(scope="module")
def small_workspace(trained_workspace, tmp_path_factory):
    """The workspace without its run, which is nine tenths of its bytes: each moment of `balance` is copied and read."""
    copy = tmp_path_factory.mktemp("small") / "workspace"
    return shutil.copytree(trained_workspace, copy, ignore=shutil.ignore_patterns("runs", "checkpoints"))


@pytest.fixture(scope="module")
def evaluated_workspace(trained_workspace, slides, tmp_path_factory):
    """The workspace with two evaluations to compare, and the maps of slides."""
    root = shutil.copytree(trained_workspace, tmp_path_factory.mktemp("evaluated") / "workspace")
    for name, options in (("a", []), ("b", ["--tta"])):
        histo(root, "eval", "--ckpt", "first", "--device", "cpu", *options)
        (report,) = (path for path in (root / "metrics").glob("first-*.json") if path.stem not in ("a", "b"))
        for path in (report, report.with_suffix(".csv")):
            path.rename(path.with_stem(name) if path.suffix == ".json" else path)
    histo(root, "predict", slides, "--ckpt", "first", "--device", "cpu", "--out", root / "maps")
    return root


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides, each with its annotation."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        plan = plan_synthetic_slide(3, number, 1200, has_tumour=True)
        draw_slide(plan, folder / f"{plan.name}.tif")
        write_annotation(plan, folder / f"{plan.name}.xml")
    return folder


@pytest.fixture(scope="module")
def images(trained_workspace, tmp_path_factory):
    """Class folders with three patches each."""
    folder = tmp_path_factory.mktemp("images")
    for number, patch in enumerate(np.load(trained_workspace / "data" / "synthetic" / "patches.npy")[:6]):
        (folder / str(number % 2)).mkdir(exist_ok=True)
        cv2.imwrite(os.fspath(folder / str(number % 2) / f"{number}.png"), patch)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder that PyTorch takes published weights from, with random ones."""
    folder = tmp_path_factory.mktemp("published")
    publish(SMALL, folder)
    return folder


class FaultyCommand:
    """A command, the workspace `before` it, and the copy of this workspace in which it runs."""

    def __init__(self, name, before, folder, server, slides, images):
        self.before, self.folder, self.root = before, folder, folder / "workspace"
        self.moments = folder / "moments"
        places = {"OUT": self.root / "out", "MAPS": self.root / "maps", "SLIDES": slides, "IMAGES": images}
        self.line = [str(part).format_map(places) for part in COMMANDS[name]]
        self.line += ["--from", server.url().rstrip("/")] if name == "download" else []
        self.finished = set()  # the workspaces from which the command has ended as it should

    def reset(self, content):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(content, self.root)

    def run(self, **files):
        """Run the command, with a failure if one is named, and return its process; `count` then has its operations."""
        process = Process(self.root, *self.again(), NO_PROXY="*", faults={"files": {"count": str(self.count), **files}})
        process.wait()
        return process

    @cached_property
    def undisturbed(self):
        """The files after the command without a harm, and its number of operations; `moments` has those in between."""
        self.reset(self.before)
        shutil.rmtree(self.moments, ignore_errors=True)
        process = self.run(keep=str(self.moments))
        assert process.code == 0, process.stderr
        return tree(self.root), int(self.count.read_text())

    @property
    def count(self):
        return self.folder / "count"

    def again(self):
        """Return the command; for a run that exists already, the one that continues it.

        Where there is nothing left to do, it is another command, because this one would say so by an error.
        """
        if self.line[0] == "train" and any((self.root / "runs").glob("killed*")):
            return [*self.line, "--resume"]
        is_removed = self.line[:2] == ["runs", "rm"] and not (self.root / "runs" / "first").exists()
        is_exported = "wsinfer" in self.line and (self.root / "out").exists()
        return ["runs"] if is_removed or is_exported else self.line

    def finish(self, expected):
        """Run the command again to its end, unless it was run from the same files before."""
        digest = sha256()
        for path in sorted(self.root.rglob("*")):
            digest.update(os.fsencode(path.relative_to(self.root)) + b"\0")
            digest.update(sha256(path.read_bytes()).digest() if path.is_file() else b"")
        if digest.digest() not in self.finished:
            histo(self.root, *self.again(), NO_PROXY="*")
            Workspace(self.root).tidy()  # as the next command that writes does
            assert differences(tree(self.root), expected) == []
            self.finished.add(digest.digest())


@pytest.fixture(scope="module")
def faulty(request, trained_workspace, small_workspace, evaluated_workspace, tmp_path_factory, server, slides, images):
    """The command of both tests, which is run without a harm only once."""
    others = dict.fromkeys(("compare", "eval maps", "report"), evaluated_workspace) | {"balance": small_workspace}
    before = others.get(request.param, trained_workspace)
    command = FaultyCommand(request.param, before, tmp_path_factory.mktemp("faulty"), server, slides, images)
    yield command
    shutil.rmtree(command.folder)


@pytest.fixture(autouse=True)
def take_published_weights(published, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(published))


def choose(items, most):
    """Return all items with HISTO_KILL_TEST=all, else `most` of them at even distances, with the last one."""
    items = list(items)
    if IS_COMPLETE or len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


@pytest.mark.parametrize("faulty", NAMES, indirect=True, scope="module")
def test_a_command_killed_at_any_operation_and_run_again_gives_the_same_files(faulty, request, record_property):
    name = request.node.callspec.params["faulty"]
    undisturbed, operations = faulty.undisturbed
    moments = sorted(faulty.moments.iterdir())
    assert len(moments) > 2
    record_property("moments", f"{name}: {len(moments)}")
    for moment in choose(moments, len(moments) if name in QUICK else MOMENTS):
        faulty.reset(moment)
        check_whole(faulty.root)
        faulty.finish(undisturbed)
    chance = random.Random(name)
    faulty.reset(faulty.before)
    for _ in range(KILLS):  # the process is really killed
        faulty.run(at=chance.randrange(operations), harm="kill")
        check_whole(faulty.root)
    faulty.finish(undisturbed)


@pytest.mark.parametrize("faulty", NAMES, indirect=True, scope="module")
def test_an_operation_that_fails_is_one_error_and_nothing_is_lost(faulty, request, record_property):
    undisturbed, operations = faulty.undisturbed
    before = [str(path.relative_to(faulty.before)) for path in faulty.before.rglob("*") if path.is_file()]
    removed = set(before) - undisturbed.keys()
    plans = [(at, harm) for at in range(operations) for harm in FAILURES]
    if not IS_COMPLETE:
        plans = [(at, FAILURES[at % 3]) for at in range(operations)]
    record_property("failures", f"{request.node.callspec.params['faulty']}: {len(plans)} at {operations} operations")
    for at, harm in choose(plans, FAULTS):
        faulty.reset(faulty.before)
        process = faulty.run(at=at, harm=harm)
        where = f"operation {at} of {operations}, {harm}: {process.stderr}"
        assert process.code in (0, 1, 4), where  # 4: one slide of several could not be written
        assert "Traceback" not in process.stderr, where
        assert "bug" not in process.stderr, where
        assert process.stderr.count("error: ") == bool(process.code), where
        check_whole(faulty.root)
        lost = [path for path in before if not (faulty.root / path).is_file() and path not in removed]
        assert [path for path in lost if not path.endswith("dataset.json")] == [], where  # replaced by new ones
        faulty.finish(undisturbed)
