"""Record the provenance of a run: its name, the job that trains it, the versions of packages, and the commit."""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import histocli
from histocli.atomic import read_json, write_json
from histocli.errors import HistoError, UsageError
from histocli.locks import HeldError, hold
from histocli.models import packaged
from histocli.reports.run import list_members
from histocli.workspace import Workspace, check_name, make_name

_MAX_STEM = 80  # characters of a stem, so that there is room for a number


def find_unused_names(workspace: Workspace, arch: str) -> Iterator[str]:
    """Yield the names `<arch>-1`, `<arch>-2`, ... that no run, no study, and no set of folds or seeds has."""
    # The stem has only characters that file names may have.
    stem = make_name(re.sub(r"[^A-Za-z0-9_.-]+", "-", arch.partition("?")[0])[:_MAX_STEM].strip(".-"))
    for number in count(1):
        name = f"{stem}-{number}"
        is_taken = workspace.run_dir(name).exists() or workspace.study_path(name).parent.exists()
        if not is_taken and not list_members(workspace, name):
            yield name


def check_run_name(name: str | None) -> None:
    """Check the name that a user gives to a new run; None means that histo chooses one.

    Raises:
        UsageError: a folder cannot have the name, or `--ckpt` would take it for another checkpoint.
    """
    if name is None:
        return
    check_name(name, "run")
    if name.endswith(".pt") or name == packaged.NAME:
        raise UsageError(
            f"--name {name}: a run cannot have this name, because --ckpt {name} means another checkpoint",
            "give the run another name",
        )


@contextmanager
def reserve_name(workspace: Workspace, name: str | None, arch: str) -> Iterator[str]:
    """Choose and lock the name of a new run in this block, so that no other process can use the same name.

    Raises:
        HistoError: there is a run of that name, or another process is training one.
        UsageError: a run cannot have this name.
    """
    check_run_name(name)
    with ExitStack() as lock:
        for run in [name] if name else find_unused_names(workspace, arch):
            try:
                lock.enter_context(lock_run(workspace, run))
            except HeldError:
                if name:
                    raise
                continue
            if not workspace.run_dir(run).exists():
                break
            if name:
                raise make_name_taken_error(name)
            lock.close()
        yield run


def check_name_unused(workspace: Workspace, name: str) -> None:
    """Raise `HistoError` if there is a run of that name."""
    if workspace.run_dir(name).exists():
        raise make_name_taken_error(name)


@contextmanager
def lock_run(workspace: Workspace, run: str) -> Iterator[None]:
    """Lock a run in this block, so that no other process trains it; remove the temporary files of killed processes.

    Raises:
        HeldError: another process has locked it.
    """
    with hold(workspace.run_lock_path(run), f"run {run!r}"):
        workspace.tidy()
        yield


def make_name_taken_error(name: str) -> HistoError:
    """Return the error for a new run with the name of another."""
    return HistoError(f"there is a run {name!r} already", "--resume continues it; another --name starts a new run")


def write_job(run_dir: Path, agents: set[str]) -> None:
    """Store which torchrun agents train a run, because they may restart their processes."""
    if agents:
        write_json(run_dir / "job.json", {"agents": sorted(agents)})


def _read_agents(path: Path) -> set[str]:
    """Return the torchrun agents in a `job.json`.

    The set is empty if the file is missing or damaged: it may be of another job, and must not stop this one.
    """
    try:
        return set(map(str, read_json(path)["agents"])) if path.is_file() else set()
    except (HistoError, KeyError, TypeError):
        return set()


def find_interrupted_run(workspace: Workspace, agents: set[str]) -> str | None:
    """Return the newest run that one of these torchrun agents trained before it restarted its processes, or None."""
    if not agents:
        return None
    notes = {run: workspace.run_dir(run) / "job.json" for run in workspace.list_runs()}
    same_job = [run for run, path in notes.items() if agents & _read_agents(path)]
    resumable = [run for run in same_job if (workspace.run_dir(run) / "last.pt").is_file()]
    return max(resumable, key=lambda run: notes[run].stat().st_mtime_ns, default=None)


def find_versions() -> dict[str, str]:
    """Return the versions of this tool, of Python, and of the packages that influence the result of training."""
    from importlib.metadata import version

    packages = {
        name: version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless", "simplejpeg")
    }
    return {"histo": histocli.__version__, "python": platform.python_version(), **packages}


def find_git_commit() -> str | None:
    """Return the commit of this tool's git checkout; None if it does not run from one, or git cannot tell."""
    if not Path(histocli.__file__).parents[1].joinpath(".git").exists():
        return None
    command = ["git", "-C", os.fspath(Path(histocli.__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    except OSError:  # git is not installed
        return None
    return result.stdout.strip() or None
