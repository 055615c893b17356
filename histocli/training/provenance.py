"""What a run is known by: its name, the job that is at work on it, the versions and the commit it was made with."""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import histocli
from histocli.errors import HistoError
from histocli.fs import HeldError, hold
from histocli.workspace import Workspace, checked_name, read_json, write_json


def stem_of(arch: str) -> str:
    """What the names of runs of an architecture begin with: it, without what no file name may hold."""
    return re.sub(r"[^\w.-]+", "-", arch.partition("?")[0])


def _names(workspace: Workspace, arch: str) -> Iterator[str]:
    """The unused ones of `<arch>-1`, `<arch>-2`, ..."""
    names = (f"{stem_of(arch)}-{number}" for number in count(1))
    return (name for name in names if not workspace.run_dir(name).exists())


@contextmanager
def claimed(workspace: Workspace, name: str | None, arch: str) -> Iterator[str]:
    """Hold the name of a new run in this block; of several that begin at the same moment, one alone gets it.

    Raises:
        HistoError: there is a run of that name, or another process is at work on one.
    """
    with ExitStack() as held:
        for run in [name] if name else _names(workspace, arch):
            try:
                held.enter_context(at_work_on(workspace, run))
            except HeldError:
                if name:
                    raise
                continue
            if not workspace.run_dir(run).exists():
                break
            if name:
                raise name_taken(name)
            held.close()
        yield run


@contextmanager
def at_work_on(workspace: Workspace, run: str) -> Iterator[None]:
    """Hold a run in this block, so that no other process trains it; what killed ones left is cleaned up.

    Raises:
        HeldError: another one does.
    """
    with hold(workspace.runs_dir / f".{checked_name(run, 'run')}.lock", f"run {run!r}"):
        workspace.tidy()
        yield


def name_taken(name: str) -> HistoError:
    """The error of a new run whose name another has."""
    return HistoError(f"there is a run {name!r} already", "--resume goes on with it; another --name starts anew")


def note_job(run_dir: Path, agents: set[str]) -> None:
    """Write down which torchruns are at work on a run, for they may start their processes again."""
    if agents:
        write_json(run_dir / "job.json", {"agents": sorted(agents)})


def interrupted_run(workspace: Workspace, agents: set[str]) -> str | None:
    """The newest run that one of these torchruns was at before it started its processes again, if there is one."""
    notes = {run: workspace.run_dir(run) / "job.json" for run in workspace.run_names()}
    theirs = [run for run, path in notes.items() if path.is_file() and agents & set(read_json(path)["agents"])]
    resumable = [run for run in theirs if (workspace.run_dir(run) / "last.pt").is_file()]
    return max(resumable, key=lambda run: notes[run].stat().st_mtime_ns, default=None)


def versions() -> dict[str, str]:
    """The versions of this tool, Python, and the packages that decide what training comes to."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless")}
    return {"histo": histocli.__version__, "python": platform.python_version(), **packages}


def git_commit() -> str | None:
    """The commit of this tool's checkout, where it runs from one."""
    if not Path(histocli.__file__).parents[1].joinpath(".git").exists():
        return None
    command = ["git", "-C", os.fspath(Path(histocli.__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return done.stdout.strip() or None
