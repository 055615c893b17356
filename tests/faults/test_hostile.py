"""Files from anyone: each ends with a value or one error, under a memory limit, and nothing outside a file is read.

The generators make the same files each time. `FUZZ=20 pytest tests/faults/test_hostile.py` tries twenty times as many,
from other seeds; `make fuzz` does so. What such a run finds is kept in `corpus/`.
"""

import json
import os
import shutil
import sys

import pytest

from tests.faults import hostile_annotations, hostile_images
from tests.faults.processes import Process, histo

pytestmark = pytest.mark.attack

MIB = 1 << 20
LIMIT = 512 * MIB  # of address space, for all that a file takes
PEAK = 300  # MiB of memory in use: a chunk of HDF5, packed and unpacked, and the rows that it belongs to
MORE = int(os.environ.get("FUZZ", "1"))
SEEDS = range(MORE)
SOUND = {"sound as it should be"}  # must be read; what is only damaged by chance may be

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is told in /proc")


@pytest.fixture(scope="module")
def evaluated_workspace(trained_workspace, tmp_path_factory):
    """A copy of the workspace, with an evaluation of its run."""
    root = shutil.copytree(trained_workspace, tmp_path_factory.mktemp("evaluated") / "workspace")
    histo(root, "eval", "--ckpt", "first", "--device", "cpu")
    return root


def tries(kind, count, folder, workspace, seed):
    process = Process(workspace, kind, seed, count, folder, workspace, LIMIT, module="tests.faults.hostile")
    assert process.wait() == 0, process.stderr[-3000:]
    result = json.loads(process.stdout)
    assert result["failures"] == []
    assert max(result["peaks"].values()) < PEAK, result["peaks"]
    return result


@linux
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kind", "count"),
    [("arrays", 120), ("checkpoints", 120), ("metrics", 150), ("images", 80), ("annotations", 120)],
)
def test_hostile_files_are_refused_in_little_memory(evaluated_workspace, tmp_path, kind, count, seed):
    result = tries(kind, count, tmp_path, evaluated_workspace, seed)
    assert sum(result["tried"].values()) == count
    assert not result["refused"].keys() & SOUND
    always = {"external", "link", "virtual", "bomb", "filters", "never_stored", "odd_width", "enumeration"}
    always |= {"shared_storage", "scores"}
    always |= hostile_images.ALWAYS | hostile_annotations.ALWAYS
    for name in always & result["tried"].keys():
        assert result["refused"][name] == result["tried"][name], name


@linux
def test_hostile_files_of_earlier_attacks_are_refused(evaluated_workspace, tmp_path):
    result = tries("corpus", 0, tmp_path, evaluated_workspace, 0)
    read = {name for name in result["tried"] if name not in result["refused"]}
    assert read <= {"nul.csv"}
    assert len(result["tried"]) > 30


@pytest.mark.parametrize("name", ["external-0.h5", "link-0.h5", "virtual-0.h5"])
def test_predict_reads_nothing_outside_an_array(trained_workspace, name):
    path = f"tests/faults/corpus/{name}"
    result = histo(trained_workspace, "predict", path, "--ckpt", "first", "--device", "cpu", code=1)
    assert result.stdout == ""
    assert f"error: {path}" in result.stderr


def test_compare_reads_no_file_that_a_report_names_elsewhere(evaluated_workspace, tmp_path):
    [report] = evaluated_workspace.glob("metrics/first-*.json")
    values = json.loads(report.read_text())
    for scores in ("/etc/passwd", "../x.csv", "..", "pipe"):
        path = tmp_path / "theirs.json"
        path.write_text(json.dumps({**values, "scores": scores}))
        if scores == "pipe":
            os.mkfifo(tmp_path / "pipe")
        result = histo(evaluated_workspace, "eval", "--compare", path, report.name, code=1)
        assert str(tmp_path) in result.stderr.partition("error: ")[2]
