"""Send the progress of training runs to experiment trackers: TensorBoard, Weights & Biases and MLflow."""

from histocli.trackers.listener import TrackerListener
from histocli.trackers.registry import check_packages

__all__ = ["TrackerListener", "check_packages"]
