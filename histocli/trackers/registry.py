"""Every tracker, by its name."""

from collections.abc import Iterable

from histocli.enums import Track
from histocli.packages import require_packages
from histocli.trackers.base import Tracker
from histocli.trackers.mlflow import MLflowTracker
from histocli.trackers.tensorboard import TensorBoardTracker
from histocli.trackers.wandb import WandbTracker


def check_packages(track: Iterable[Track]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        HistoError: one is not installed.
    """
    for kind in track:
        require_packages(f"--track {kind.value}", kind.value, extra=kind.value)


def make_tracker(kind: Track) -> Tracker:
    """Return a tracker of a kind; its library is imported when it starts."""
    trackers: dict[Track, type[Tracker]] = {
        Track.TENSORBOARD: TensorBoardTracker,
        Track.WANDB: WandbTracker,
        Track.MLFLOW: MLflowTracker,
    }
    return trackers[kind](kind)
