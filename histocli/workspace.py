"""The paths in the workspace."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from histocli.config import SUBSET
from histocli.errors import HistoError, UsageError
from histocli.temporary import remove_strays

MAX_NAME = 100  # the largest number of characters of a name
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
RUN_FILES = (
    *("best.pt", "last.pt", "config.json", "history.jsonl", "manifest.csv", "model_card.md", "job.json"),
    "trackers.json",
)
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file can have these names on Windows


@dataclass(frozen=True)
class Workspace:
    """The folder that all commands share; its folders are created when something is written to them.

    Attributes and methods whose names end with `_dir` or `_path` are paths. They only join names, as those of `pathlib`
    do, so they are not verbs: the file need not exist.
    """

    root: Path

    def __post_init__(self) -> None:
        """Make `root` a path, because the Python API may be given text."""
        object.__setattr__(self, "root", Path(self.root))

    @property
    def data_dir(self) -> Path:
        """The packed data sets, one folder each."""
        return self.root / "data"

    @property
    def manifests_dir(self) -> Path:
        """One CSV file per data set and per subset, such as `balanced.csv`."""
        return self.root / "manifests"

    @property
    def downloads_dir(self) -> Path:
        """Downloaded files, complete and partial."""
        return self.root / "downloads"

    @property
    def runs_dir(self) -> Path:
        """One folder per training run."""
        return self.root / "runs"

    @property
    def checkpoints_dir(self) -> Path:
        """`best.pt` and `last.pt` of the newest finished run that is not a fold or one of several seeds."""
        return self.root / "checkpoints"

    @property
    def exports_dir(self) -> Path:
        """The networks that `histo export` wrote."""
        return self.root / "exports"

    @property
    def metrics_dir(self) -> Path:
        """The JSON and CSV files that commands write, and that `histo plot` reads."""
        return self.root / "metrics"

    @property
    def features_dir(self) -> Path:
        """The features of patches that frozen backbones computed, one folder each; they can be removed."""
        return self.root / "features"

    @property
    def plots_dir(self) -> Path:
        """The plots."""
        return self.root / "plots"

    @property
    def tuning_dir(self) -> Path:
        """One folder per study of `histo tune`, with its SQLite file."""
        return self.root / "tuning"

    def study_path(self, study: str) -> Path:
        """Return the path of `study.json`: the record of the study `study` of `histo tune`, written when it starts."""
        return self.tuning_dir / check_name(study, "study") / "study.json"

    def dataset_dir(self, name: str) -> Path:
        """Return the folder of the packed data set `name`."""
        return self.data_dir / check_name(name, "data set")

    def patches_path(self, name: str) -> Path:
        """Return the path of the memory-mapped array (N,96,96,3) uint8 of the data set `name`."""
        return self.dataset_dir(name) / "patches.npy"

    def dataset_path(self, name: str) -> Path:
        """Return the path of `dataset.json`: the origin, counts and checksums of the data set `name`."""
        return self.dataset_dir(name) / "dataset.json"

    def manifest_path(self, name: str) -> Path:
        """Return the path of the manifest of a data set (one row per patch, in the order of the array) or subset."""
        return self.manifests_dir / f"{check_name(name, 'data set')}.csv"

    def run_dir(self, run: str) -> Path:
        """Return the folder of the training run `run`."""
        return self.runs_dir / check_name(run, "run")

    def run_lock_path(self, run: str) -> Path:
        """Return the path of the lock file that a process holds while it trains or removes a run."""
        return self.runs_dir / f".{check_name(run, 'run')}.lock"

    def export_path(self, sha256: str, format: str) -> Path:
        """Return the path of the exported network of the checkpoint with this SHA-256."""
        return self.exports_dir / f"{sha256[:16]}.{format}"

    def balance_path(self, subset: str) -> Path:
        """Return the path of the report of `histo balance` on a subset."""
        return self.metrics_dir / ("balance.json" if subset == SUBSET else f"{subset}-balance.json")

    def list_balance_reports(self) -> list[Path]:
        """Return the reports of `histo balance` on all subsets, that of the default subset first."""
        default = self.balance_path(SUBSET)
        return [path for path in (default, *sorted(self.metrics_dir.glob("*-balance.json"))) if path.is_file()]

    def describe_datasets(self) -> str:
        """Return a hint with the names of the packed data sets; if there are none, how to make one."""
        names = ", ".join(self.list_datasets())
        return f"data sets: {names}" if names else "there are no data sets yet: histo download packs one"

    def list_datasets(self) -> list[str]:
        """Return the names of all packed data sets, sorted."""
        if not self.data_dir.is_dir():
            return []
        return sorted(p.parent.name for p in self.data_dir.glob("[!.]*/dataset.json"))

    def list_incomplete(self) -> list[str]:
        """Return the names of the data sets with packed patches and no `dataset.json`, which is written last."""
        if not self.data_dir.is_dir():
            return []
        packed = {path.parent.name for path in self.data_dir.glob("[!.]*/patches.npy")}
        return sorted(packed.difference(self.list_datasets()))

    def check_complete(self, *names: str) -> None:
        """Raise `HistoError` if one of the data sets has packed patches and no `dataset.json`."""
        for name in set(self.list_incomplete()).intersection(names):
            raise HistoError(
                f"{self.dataset_path(name)} is missing: packing did not end, or the file was removed",
                f"pack the data set again: histo download --name {name}, with the options that it was made with",
            )

    def list_runs(self) -> list[str]:
        """Return the names of all training runs, sorted by when they were trained last; the newest is the last."""
        if not self.runs_dir.is_dir():
            return []
        runs = [path.parent.name for path in self.runs_dir.glob("[!.]*/config.json")]
        return sorted(runs, key=lambda run: (self.find_training_time(run), run))

    def find_training_time(self, run: str) -> int:
        """Return when a run was trained last, in ns: when its last.pt was written, or config.json if that is gone."""
        last = self.runs_dir / run / "last.pt"
        return (last if last.is_file() else last.with_name("config.json")).stat().st_mtime_ns

    def list_subsets(self) -> list[str]:
        """Return the names of all manifests that are not of a packed data set: subsets and folds.

        A file with a name that a subset cannot have, such as `balanced copy.csv`, is left out.
        """
        datasets = {*self.list_datasets(), *self.list_incomplete()}
        names = {path.stem for path in self.manifests_dir.glob("[!.]*.csv")} - datasets
        return sorted(name for name in names if make_name(name) == name)

    def list_checkpoints(self) -> list[str]:
        """Return the names that `--ckpt` takes: of the checkpoints in the workspace, and of runs with a best.pt."""
        published = sorted(path.name for path in self.checkpoints_dir.glob("[!.]*.pt"))
        return [*published, *(run for run in self.list_runs() if (self.run_dir(run) / "best.pt").is_file())]

    def is_workspace_file(self, path: Path) -> bool:
        """Return whether `path` is a file of this workspace that commands wrote and read again."""
        try:
            parts = path.resolve().relative_to(self.root.resolve()).parts
        except ValueError:  # it is outside
            return False
        folder, *inner = parts or ("",)
        if folder == self.runs_dir.name:
            return len(inner) > 1 and inner[1] in RUN_FILES
        if folder == self.metrics_dir.name:  # predictions may be here too, without a report of the same name
            return path.suffix == ".json" or path.with_suffix(".json").is_file()
        others = self.data_dir, self.manifests_dir, self.downloads_dir, self.checkpoints_dir, self.tuning_dir
        return folder in {directory.name for directory in (*others, self.features_dir)}

    def tidy(self) -> None:
        """Remove the temporary files of killed processes; those of running processes are not removed."""
        for folder in (
            *(self.data_dir, self.manifests_dir, self.downloads_dir, self.runs_dir),
            *(self.checkpoints_dir, self.exports_dir, self.metrics_dir, self.plots_dir),
        ):
            remove_strays(folder)
        for folder in (*self.data_dir.glob("*"), *self.runs_dir.glob("*"), *self.features_dir.glob("*")):
            remove_strays(folder)


def find_workspace() -> Workspace:
    """Return the workspace that HISTO_WORKSPACE names, or else the one in the platform's data folder.

    Raises:
        UsageError: neither is known.
    """
    if path := os.environ.get("HISTO_WORKSPACE"):
        return Workspace(Path(path))
    from platformdirs import user_data_path

    folder = find_user_folder(user_data_path)
    if folder is None:
        raise UsageError("this user has no home folder for the workspace", "give a folder with --workspace")
    return Workspace(folder)


def find_user_folder(find: Callable[..., Path]) -> Path | None:
    """Return histo's folder that a function of platformdirs finds, or None if the user has no home folder."""
    try:
        path = find("histo", appauthor=False)
    except RuntimeError:  # of newer versions of platformdirs
        return None
    return None if path.parts[0] == "~" else path


def is_path(name: str) -> bool:
    """Return whether a name that a user gave is a path: a path has a separator, such as `./best.pt`."""
    return "/" in name or os.sep in name


def check_name(name: str, what: str) -> str:
    """Return `name`, after checking that it can be the name of a file or folder on every platform.

    Raises:
        UsageError: it is empty, has a separator or more than 100 characters, begins or ends with a dot, or is the name
            of a device on Windows.
    """
    if len(name) > MAX_NAME:
        raise UsageError(
            f"{name[:20]!r}... cannot name a {what}: it has {len(name)} characters", f"use {MAX_NAME} at most"
        )
    if not _NAME.fullmatch(name) or _DEVICE.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a {what}",
            "use letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    return name


def make_name(text: str) -> str:
    """Return `text` if it can be the name of a file, else a similar name that can; different texts stay different."""
    if len(text) <= MAX_NAME and _NAME.fullmatch(text) and not _DEVICE.fullmatch(text):
        return text
    start = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[: MAX_NAME - 9]
    return f"{start or 'file'}-{sha256(os.fsencode(text)).hexdigest()[:8]}"
