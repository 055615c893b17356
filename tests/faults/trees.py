"""Compare the files of workspaces bit for bit, and check that they are complete."""

import hashlib
import json
import re
import sqlite3
import zipfile
from contextlib import closing

import torch

from histocli.data.dataset import open_packed
from histocli.data.manifest import read_manifest
from histocli.data.overlaps import PAIR
from histocli.data.store import map_array, open_store
from histocli.models.checkpoint import load_checkpoint
from histocli.models.wsinfer import NETWORK
from histocli.training.resume import load_run_config
from histocli.workspace import Workspace

WHOLE = set()  # SHA-256 of the checkpoints that were built before: most tests leave the same ones as they are
KEY_BYTES = 24  # of a row in the keys of a feature cache
TIMED = {"seconds", "patches_per_second", "epoch_stats", "mtime_ns"}


def without_times(value):
    """Return a value without times and dates, with tensors as bytes."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMED}
    if isinstance(value, (list, tuple)):
        return [without_times(item) for item in value]
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return value


def content(path):
    if path.suffix == ".pt" and path.name != NETWORK:
        return without_times(torch.load(path, weights_only=True))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.name in ("features.bin", "keys.bin"):  # the order of their rows is that in which they were computed
        return split_rows(path)
    if path.suffix == ".db":  # a study, with times
        with closing(sqlite3.connect(path)) as study:
            return study.execute("SELECT number FROM trials WHERE state = 'COMPLETE'").fetchall()
    return path.read_bytes()


def split_rows(path):
    """Return the rows of a file of a feature cache, sorted."""
    rows = path.with_name("keys.bin").stat().st_size // KEY_BYTES
    data = path.read_bytes()
    size = len(data) // max(rows, 1)
    return sorted(data[first : first + size] for first in range(0, len(data), max(size, 1)))


def tree(root):
    """Return the content of every file below a folder, including hidden files."""
    return {str(path.relative_to(root)): content(path) for path in root.rglob("*") if path.is_file()}


def stamps(root):
    """Return the size, the time of the last change and the number of every file below a folder, for `differences`.

    They also show that a file was replaced by an equal one; no file is read, and no checkpoint is loaded.
    """
    found = {str(path.relative_to(root)): path.stat() for path in root.rglob("*") if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


def differences(first, second):
    """Return the names of the files in which two trees differ."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def check_whole(root):
    """Check that every file with its final name can be read, and that all data sets and runs can be opened."""
    for path in root.rglob("*"):
        if path.is_file() and not re.search(r"/\.[^/]+|\.part(\.json)?$", str(path.relative_to(root.parent))):
            check_file(path)
    workspace = Workspace(root)
    for name in workspace.list_datasets():
        store, manifest = open_packed(workspace, name)
        assert len(store) == len(manifest)
    for run in workspace.list_runs():
        assert load_run_config(workspace, run)[0] == run


def check_file(path):
    if path.name == NETWORK:
        assert zipfile.ZipFile(path).testzip() is None
    elif path.suffix == ".pt":
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in WHOLE:
            checkpoint = load_checkpoint(path)
            if not checkpoint.backbone_sha256 or path.with_name("best.pt").exists():  # else the backbone is published
                checkpoint.build()
            WHOLE.add(digest)
    elif path.suffix in (".json", ".jsonl"):
        content(path)
    elif path.name.startswith("overlaps-"):
        assert map_array(path).dtype == PAIR
    elif path.suffix == ".npy":
        open_store(path)
    elif path.suffix == ".csv" and path.parent.name == "manifests":
        read_manifest(path)
    elif path.suffix in (".csv", ".md"):
        assert path.read_bytes().endswith(b"\n")
