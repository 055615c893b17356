"""A process with little memory reads hostile files, one after the other, and says how much memory they took.

`main` prints a JSON object; a process of `fork_server.py` calls it. Reading a file must end with a value or a
`HistoError`; each other exception, and each file that takes long, is one of the `failures`.
"""

import json
import random
import re
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from histocli.compute.device import apply_compute_settings
from histocli.data.manifest import read_manifest
from histocli.enums import Device, Resize
from histocli.errors import HistoError
from histocli.files.file import make_file
from histocli.images.decode import decode_patch
from histocli.inference.checkpoints import load_predictor
from histocli.inference.comparison import compare_evaluations
from histocli.inference.inputs import open_inputs
from histocli.inference.qc import Flagger
from histocli.inference.score_table import read_scores
from histocli.labels.table_files import read_labels as read_table_labels
from histocli.labels.table_files import read_slides
from histocli.slides.annotations import label_squares, read_tumour
from histocli.slides.grid import Grid
from histocli.slides.lesions import find_lesions
from histocli.sources.hdf5 import read_labels
from histocli.workspace import Workspace
from tests.faults import hostile_annotations, hostile_arrays, hostile_checkpoints, hostile_images, hostile_metrics

MIB = 1 << 20
SUFFIXES = {"checkpoints": ".pt", "arrays": ".h5", "metrics": ".json", "images": ".png"}
SECONDS = 30  # of the processor, for one file
_NO_MEMORY = re.compile("allocate|not enough memory", re.IGNORECASE)
LONGEST = 300  # seconds in all: a file that makes its reader wait takes no time of the processor
PATCHES = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)


def use_checkpoint(path, workspace):
    """All that a command asks of a checkpoint."""
    predictor = load_predictor(workspace, [str(path)], Device.CPU)
    checkpoint = predictor.members[0].checkpoint
    assert checkpoint.describe().encode()
    assert np.isfinite(predictor.predict_array(PATCHES).probs).all()
    Flagger(workspace, [checkpoint])
    assert 0 <= predictor.find_threshold("youden") <= 1
    workspace.run_dir(checkpoint.run)


def use_array(path, workspace):
    failed = None
    for read in (lambda: read_patches(path, workspace), lambda: read_labels(path, path.parent)):
        try:
            read()
        except HistoError as error:
            failed = failed or error
    if failed:
        raise failed


def use_metrics(path, workspace):
    sound = path.with_name("sound.json")
    compare_evaluations(sound if sound.exists() else path, path)


def use_image(path, workspace):
    patch = decode_patch(path.read_bytes(), path.name)
    assert (patch.shape, patch.dtype) == ((96, 96, 3), np.uint8)


def use_annotation(path, workspace):
    """All that a command asks of an annotation of a slide of 8,192 x 8,192 pixels."""
    areas = read_tumour(path)
    edges = np.arange(0, 8193, 128)
    label_squares(areas, Grid(0, 32, 0.972, (4.0, 4.0), edges, edges, 1.0, (8192, 8192)))
    find_lesions(areas, (8192, 8192), (0.243, 0.243))


def use_table(path, workspace):
    """All readers of tables; a file that is no manifest may be another table."""
    file = make_file(path)
    for read in (partial(read_table_labels, file), partial(read_slides, file), partial(read_scores, path)):
        with suppress(HistoError):
            read()
    read_manifest(path)


def read_patches(path, workspace):
    inputs = open_inputs([str(path)], workspace, Resize.CROP)
    pixels = [patch.load() for patch, _ in zip(inputs.patches, range(50), strict=False)]
    assert all(patch.shape == (96, 96, 3) for patch in pixels)
    assert not any(b"TOPSECRET" in patch.tobytes() or (patch == 7).all() for patch in pixels), "another file was read"


def status(name):
    """A number of bytes in /proc/self/status."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def attempts(kind, seed, count, folder, workspace):
    """Yield the name of each variant, and the function that reads it."""
    rng = random.Random(seed)
    if kind == "corpus":
        uses = {".pt": use_checkpoint, ".h5": use_array, ".csv": use_table, ".json": use_metrics}
        uses |= dict.fromkeys((".jp2", ".jpg", ".avif", ".qoi", ".tif"), use_image)
        uses |= dict.fromkeys((".geojson", ".xml"), use_annotation)
        for path in sorted(Path(__file__).with_name("corpus").iterdir()):
            yield path.name, partial(uses[path.suffix], path, workspace)
        return
    if kind == "checkpoints":
        good = torch.load(workspace.run_dir("first") / "best.pt", weights_only=True)
    if kind == "metrics":
        [report] = workspace.metrics_dir.glob("first-*.json")
        content, table = json.loads(report.read_text()), report.with_suffix(".csv").read_text()
        content["scores"] = "x.csv"
        (folder / "sound.json").write_text(json.dumps({**content, "scores": "sound.csv"}))
        (folder / "sound.csv").write_text(table)
    for number in range(count):
        if kind == "annotations":
            path, name = hostile_annotations.write(rng, folder, number)
            yield name, partial(use_annotation, path, workspace)
            continue
        stem = "x" if kind == "metrics" else f"x{number}"  # HDF5 may keep a file open
        path = folder / f"{stem}{SUFFIXES[kind]}"
        if kind == "images":
            (name, is_sound), use = hostile_images.write(rng, path), use_image
            name += " as it should be" if is_sound else ""
        elif kind == "checkpoints":
            name, use = hostile_checkpoints.write(rng, good, path), use_checkpoint
        elif kind == "arrays":
            (name, is_sound), use = hostile_arrays.write(rng, folder, path), use_array
            name += " as it should be" if is_sound else ""
        else:
            name = hostile_metrics.write(rng, content, table, path)
            use = use_metrics
        yield name, partial(use, path, workspace)


def too_long(*_):
    raise TimeoutError(f"more than {SECONDS} seconds of the processor, or {LONGEST} in all")


def main(kind, seed, count, folder, root, limit):
    seed, count, folder, workspace, limit = int(seed), int(count), Path(folder), Workspace(Path(root)), int(limit)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_long)
    tried, refused, failures, peaks = Counter(), Counter(), [], {}
    with apply_compute_settings():
        for number, (name, use) in enumerate(attempts(kind, seed, count, folder, workspace)):
            if number == 0:  # what is imported and allocated once is not a file's
                use_checkpoint(workspace.run_dir("first") / "best.pt", workspace)
                used = status("VmSize")
                resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
            before = status("VmRSS")
            tried[name] += 1
            signal.alarm(LONGEST)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                with warnings.catch_warnings(action="error"):
                    use()
            except HistoError as error:
                refused[name] += 1
                # An error of memory is no refusal: the limit stopped what should not have begun.
                if len(message := str(error)) > 2000 or "\n" in message or _NO_MEMORY.search(message):
                    failures.append(f"{name} {number}: {message[:300]!r}")
            except Exception:
                failures.append(f"{name} {number}: {traceback.format_exc(limit=-4)}")
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
            peaks[name] = max(peaks.get(name, 0), status("VmHWM") - before)
    result = {
        "tried": tried,
        "refused": refused,
        "peaks": {k: v // MIB for k, v in peaks.items()},
        "failures": failures,
    }
    sys.stdout.write(json.dumps(result))
