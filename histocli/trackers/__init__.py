"""Send the progress of training runs to experiment trackers: TensorBoard, Weights & Biases and MLflow."""

from histocli.trackers.base import Tracker
from histocli.trackers.listener import TrackerListener
from histocli.trackers.registry import check_packages

__all__ = ["Tracker", "TrackerListener", "check_packages"]
