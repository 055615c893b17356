"""Full disks: one clear error with the needed space; existing files do not change.

The disk is a small tmpfs where this user may mount one. A limit on the size of files does it for anybody: it fails
the write that goes over it, whichever of a command's writes that is.
"""

import re
import shutil
import signal
import subprocess

import pytest

from histocli.models.checkpoint import load_checkpoint
from tests.faults.conftest import TINY
from tests.faults.processes import Process, histo
from tests.faults.trees import check_whole, differences, stamps, tree

SPACE = r"\(((more than )?[1-9][\d.]* (bytes|KB|MB|GB) needed, )?[\d.]+ (bytes|KB|MB|GB) free\)"
LINES = {
    "download": ["download", "--source", "synthetic", "--n", 80, "--name", "more"],
    "balance": ["balance", "--n", 40],
    "train": ["train", *TINY, "--name", "another"],
    "eval": ["eval", "--ckpt", "first", "--device", "cpu"],
    "predict": ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--out", "OUT"],
    "plot": ["plot", "--kind", "curves", "--kind", "samples"],
    "report": ["report"],
}
LIMITS = [1_000, 30_000, 300_000, 3_000_000]  # of the size of a file
LARGEST_LIMIT = {"download": 300_000, "train": 3_000_000, "plot": 300_000}  # with which a write fails; else 1,000


@pytest.fixture
def disk(tmp_path):
    """Makes a file system of its own of so many bytes."""
    mounted = []

    def mount(size):
        place = tmp_path / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place, leave):
    """Fill a file system but for so many bytes."""
    free = shutil.disk_usage(place).free
    (place / "filler").write_bytes(bytes(max(0, free - leave)))


def fails(root, *line, **options):
    """Return the error message of a command that fails because the disk is full."""
    process = histo(root, *line, code=1, **options)
    assert "Traceback" not in process.stderr
    assert "bug" not in process.stderr
    assert process.stderr.count("error: ") == 1
    assert "hint: free some space on the disk of /" in process.stderr
    assert "or choose another folder (--workspace, --out)" in process.stderr
    return process.stderr


@pytest.mark.parametrize(
    ("name", "limit"), [(name, limit) for name in LINES for limit in LIMITS if limit <= LARGEST_LIMIT.get(name, 1_000)]
)
def test_a_failed_write_is_one_error_and_changes_no_file(root, name, limit):
    before = stamps(root)
    line = [root / "preds.csv" if part == "OUT" else part for part in LINES[name]]
    process = Process(root, *line, limits={"file": limit})
    assert process.wait() == 1, process.stderr
    assert re.search(rf"error: cannot write {root}/.*: File too large {SPACE}", process.stderr), process.stderr
    assert process.stderr.count("error: ") == 1
    check_whole(root)
    changed = differences(stamps(root), before)
    assert [path for path in changed if path in before or path.rpartition("/")[2].startswith(".")] == []


def test_a_data_set_larger_than_the_free_space_is_refused_first(disk):
    root = disk(1 << 20) / "workspace"
    error = fails(root, "download", "--source", "synthetic", "--n", 72)
    assert f"{root}/data/synthetic/patches.npy needs 2.0 MB, and" in error
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_unpacking_without_enough_space_names_the_needed_space(disk, pcam_folder):
    root = disk(2 << 20) / "workspace"
    error = fails(root, "download", "--source", "pcam", "--from", pcam_folder)
    assert re.search(r"unpacking .*train_x.h5.gz needs 1.7 MB, and .* free", error) or re.search(SPACE, error)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_full_disk_while_packing_leaves_no_files(disk, pcam_folder):
    """PCam's duplicates are dropped, so the final size is not known before packing."""
    root = disk(9 << 18) / "workspace"
    error = fails(root, "download", "--source", "pcam", "--from", pcam_folder)
    assert re.search(rf"cannot (write|unpack) .*: No space left on device {SPACE}", error) or "needs" in error
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("leave", [0, 100_000, 4_000_000, 6_000_000])
def test_a_full_disk_keeps_the_last_checkpoint_and_training_can_be_resumed(trained_workspace, disk, leave):
    place = disk(80 << 20)
    root = shutil.copytree(trained_workspace, place / "workspace")
    expected = tree(root / "runs" / "first")["best.pt"]  # a run with the same options that nothing stopped
    process = Process(root, "train", *TINY, "--name", "long")
    process.until(lambda: (root / "runs" / "long" / "last.pt").is_file())
    process.signal(signal.SIGTERM)
    process.wait()
    last = root / "runs" / "long" / "last.pt"
    step = load_checkpoint(last).training["trainer"]["step"]
    fill(place, leave)
    error = fails(root, "train", "--resume", "--name", "long")
    assert re.search(rf"cannot write {root}/.*: No space left on device|{root}/.* needs [\d.]+ MB, and .* free", error)
    assert load_checkpoint(last).training["trainer"]["step"] >= step
    check_whole(root)
    (place / "filler").unlink()
    histo(root, "train", "--resume", "--name", "long")
    ended = tree(root / "runs" / "long")["best.pt"]
    assert ended["model"] == expected["model"]
    assert not list(root.rglob(".*"))


def test_results_that_cannot_be_written_do_not_replace_the_old_ones(trained_workspace, disk):
    place = disk(40 << 20)
    root = shutil.copytree(trained_workspace, place / "workspace")
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--out", root / "preds.csv"]
    histo(root, *line)
    before = tree(root)
    fill(place, 0)
    assert re.search(rf"cannot write {root}/.preds.csv.lock: No space left on device {SPACE}", fails(root, *line))
    assert "cannot write" in fails(root, "balance", "--n", 40)
    assert "cannot write" in fails(root, "eval", "--ckpt", "first", "--device", "cpu")
    (place / "filler").unlink()
    assert differences(tree(root), before) == []
