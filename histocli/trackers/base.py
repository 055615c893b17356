"""The data that is sent to a tracker, and the base class of trackers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from histocli.enums import Track

Value = bool | int | float | str
Status = Literal["finished", "stopped", "failed"]


class TrackedRun(NamedTuple):
    """A run as trackers see it.

    Attributes:
        name: the run's name.
        group: the name of the folds or seeds that the run belongs to; "" for a single run.
        folder: the run's folder, which has its checkpoints.
        workspace: the root of the workspace.
        config: the options, the sizes of the splits, hashes and versions, as in the run's `config.json`.
        tags: values by which a user finds runs, such as the architecture.
        id: the tracker's own id of the run, if it has tracked this run before; else "".
    """

    name: str
    group: str
    folder: Path
    workspace: Path
    config: dict[str, Value]
    tags: dict[str, str]
    id: str


class Summary(NamedTuple):
    """The data that is sent at the end: the final metrics, pictures (PNG files by name), and the model card.

    The pictures are deleted when `Tracker.summarise` has returned.
    """

    metrics: Mapping[str, float]
    pictures: Mapping[str, Path]
    card: Path


class StartedTracking(NamedTuple):
    """A message that says where the user finds the run.

    `is_empty` is true if the metrics go to a new place, which has no earlier epochs: then all epochs are sent.
    """

    message: str
    is_empty: bool = False


class Tracker(ABC):
    """One tracker of one run; any of its methods may raise any exception of the tracker's library.

    `id` is the tracker's own id of the run, "" before `start`.
    """

    def __init__(self, kind: Track) -> None:
        self.kind, self.id = kind, ""

    @abstractmethod
    def start(self, run: TrackedRun) -> StartedTracking:
        """Start to track a run, or continue one that has an id; set `id`."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send the metrics of a training step, by name."""

    @abstractmethod
    def summarise(self, summary: Summary) -> None:
        """Send the final metrics and pictures, and the model card if the tracker shows texts."""

    def log_run_metrics(self, metrics: Mapping[str, float]) -> None:
        """Send metrics that belong to the run as a whole, such as those of `histo eval`: by default at step 0."""
        self.log(metrics, 0)

    @abstractmethod
    def close(self, status: Status) -> None:
        """End the tracking of this run."""
