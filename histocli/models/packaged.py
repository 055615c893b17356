"""The trained network that comes with `histo`. `weights/histonet-pcam.md` is its model card."""

from pathlib import Path

import torch
from torch import nn

NAME = "histonet-pcam"
PATH = Path(__file__).with_name("weights") / f"{NAME}.pt"
NOTICE = (
    f"{NAME} comes with histo: it was trained on 31,157 patches of PCam's training slides, which are also Kaggle's. "
    "Research use only: it is not a medical device."
)
NOTE = (
    f"{NAME} was trained on 31,157 training patches of PCam, and Kaggle has the same slides. On patches of these "
    "slides the AUC is too high: compare it on other slides only"
)


def load_packaged_weights(model: nn.Module) -> None:
    """Copy the weights of the packaged network into a model of its architecture."""
    model.load_state_dict(torch.load(PATH, map_location="cpu", weights_only=True)["model"])
