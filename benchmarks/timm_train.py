"""Run timm's training script with `histonet` as one of its models: `python -m benchmarks.timm_train TRAIN_PY ARGS...`.

`benchmarks.gpu` calls it, to compare `histo train` with timm on the same network. Patches are TIFF files in the layout
of ImageFolder.
"""

import runpy
import sys
from typing import Any

from timm.data.readers import add_img_extensions
from timm.models import register_model
from torch import nn

from histocli.models.histonet import HistoNet


@register_model
def histonet(pretrained: bool = False, num_classes: int = 2, **options: Any) -> nn.Module:
    """Return the default network of histo."""
    if pretrained or num_classes != 2:
        raise ValueError("histonet has two classes and no pretrained weights")
    network = HistoNet()
    network.num_classes = num_classes  # type: ignore[assignment]  # timm's script reads it
    return network


if __name__ == "__main__":
    add_img_extensions(".tif")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
