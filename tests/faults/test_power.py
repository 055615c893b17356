"""Power loss: a file under its final name is on the disk, and so are the folders above it.

No test can pull the plug. What decides is the order of the system calls: a file is flushed before it gets its name, the
folder after, and a folder that was made before anything is put into it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from histocli.atomic import create_folder_atomically, write_json
from histocli.fs import make_folder
from tests.cli import REPOSITORY


@pytest.fixture
def calls(monkeypatch):
    """Record the system calls on files, in order."""
    done = []
    names = {}

    def note(name, call):
        def do(*args, **options):
            result = call(*args, **options)
            if name == "open":
                names[result] = str(args[0])
            else:
                done.append((name, *(names.get(arg, str(arg)) for arg in args[:2])))
            return result

        return do

    for name in ("open", "fsync", "replace", "rename", "mkdir"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    return done


def test_a_file_is_flushed_before_its_rename_and_its_folder_after(tmp_path, calls):
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {})
    words = [(name, *(re.sub(r"\.[0-9a-f]{16}\.tmp", ".TMP", arg) for arg in args)) for name, *args in calls]
    temporary = str(path.with_name(".x.json.TMP"))
    assert [word[:3] for word in words] == [
        ("mkdir", str(tmp_path / "a"), "511"),
        ("fsync", str(tmp_path)),
        ("mkdir", str(tmp_path / "a" / "b"), "511"),
        ("fsync", str(tmp_path / "a")),
        ("fsync", temporary),
        ("replace", temporary, str(path)),
        ("fsync", str(path.parent)),
    ]


def test_a_folder_and_its_files_are_flushed_before_the_rename(tmp_path, calls):
    with create_folder_atomically(tmp_path / "run") as folder:
        write_json(folder / "config.json", {})
    kinds = [name for name, *_ in calls]
    assert kinds == ["mkdir", "fsync", "replace", "fsync", "fsync", "rename", "fsync"]
    assert calls[-1] == ("fsync", str(tmp_path))


def test_an_existing_folder_is_not_flushed(tmp_path, calls):
    make_folder(tmp_path)
    assert calls == []


def parse_trace(log):
    """(call, path) of a trace, with descriptors named by what they were opened for."""
    found = []
    for line in log.read_text().splitlines():
        if match := re.search(r"fsync\(\d+<(.+?)>\)\s+= 0", line):
            found.append(("fsync", match[1]))
        elif match := re.search(r'rename(?:at2?)?\(.*?"([^"]+)",.*?"([^"]+)".*\)\s+= 0', line):
            found.append(("rename", match[2]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")
@pytest.mark.parametrize(
    "line", [["download", "--source", "synthetic", "--n", "40", "--name", "small"], ["balance", "--n", "24"]]
)
def test_every_rename_of_a_command_is_followed_by_a_flush_of_its_folder(root, tmp_path, line):
    log = tmp_path / "trace"
    command = [sys.executable, "-m", "histocli", "-w", root, *line]
    strace = ["strace", "-f", "-y", "-o", log, "-e", "trace=fsync,rename,renameat,renameat2"]
    subprocess.run([*strace, *command], cwd=REPOSITORY, check=True, capture_output=True)
    done = parse_trace(log)
    renamed = [i for i, (call, _) in enumerate(done) if call == "rename"]
    assert len(renamed) >= 2
    for i in renamed:
        path = Path(done[i][1])
        assert ("fsync", str(path.parent)) in done[i + 1 :], path
        assert any(call == "fsync" and Path(name).name.startswith(f".{path.name}.") for call, name in done[:i]), path
