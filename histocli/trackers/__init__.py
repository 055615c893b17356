"""Send the progress of training runs to experiment trackers: TensorBoard, Weights & Biases and MLflow."""

from histocli.trackers.base import Tracker, check_packages
from histocli.trackers.listener import TrackerListener

__all__ = ["Tracker", "TrackerListener", "check_packages"]
