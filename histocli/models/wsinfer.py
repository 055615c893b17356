"""Write a network for WSInfer, and so for QuPath's extension of that name: TorchScript and a config.json.

The format is that of the WSInfer Model Zoo: https://github.com/SBU-BMI/wsinfer-zoo
"""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from histocli.atomic import write_json
from histocli.config import PATCH_MPP
from histocli.data.transforms import resize_images
from histocli.errors import HistoError
from histocli.models import Classifier
from histocli.models.export import Exported
from histocli.patch import PATCH_SIDE

NETWORK, CONFIG = "torchscript_model.pt", "config.json"
CLASS_NAMES = ["Normal", "Tumor"]  # every QuPath project has a class Tumor


def _resample(images: Tensor, side: int) -> Tensor:
    """Resample images (N,3,H,W) in [0, 1] to (N,3,side,side) as slides are, by area, and round them to 256 levels.

    TorchScript compiles this function, because its steps depend on the size of the images.
    """
    height, width = images.shape[2], images.shape[3]
    if height == side and width == side:
        return images
    images = (images * 255).round()  # whole numbers, whose sums are exact, so that halves are rounded as by OpenCV
    if height < side or width < side:
        images = nn.functional.interpolate(images, [side, side], mode="bilinear", align_corners=False)
    else:
        weights: list[Tensor] = []
        for size in (height, width):
            edges = torch.arange(side + 1, device=images.device, dtype=images.dtype) * (size / side)
            pixels = torch.arange(size, device=images.device, dtype=images.dtype)
            ends = torch.minimum(edges[1:, None], pixels + 1)
            weights.append((ends - torch.maximum(edges[:-1, None], pixels)).clamp(min=0) * (side / size))
        images = weights[0] @ images @ weights[1].t()
        if height == 2 * side and width == 2 * side:
            images = images + 0.01  # for this size OpenCV rounds halves up, otherwise to even numbers
    return images.round() / 255


class CalibratedLogits(nn.Module):
    """The network that WSInfer runs: float RGB images (N,3,H,W) in [0, 1] -> logits (N,2), of which it takes softmax.

    Images of another size than 96x96 are resampled by the network: WSInfer's own `Resize` filters differently, which
    changes the scores. The logits are divided by the temperature, so that the softmax gives calibrated probabilities.
    """

    def __init__(self, model: Classifier, temperature: float) -> None:
        super().__init__()
        self.resample = torch.jit.script(_resample)
        # Not the classifier itself: TorchScript would evaluate its properties, and one of them fails for most networks.
        self.network, self.side, self.temperature = model.network, model.side, temperature
        self.mean, self.std = nn.Buffer(model.mean), nn.Buffer(model.std)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,2) of normal and tumour."""
        patches = resize_images(self.resample(images, PATCH_SIDE), self.side)
        inputs = torch.addcmul(-self.mean / self.std, patches, 1 / self.std)
        logits: Tensor = self.network(inputs) / self.temperature
        return logits


def write_wsinfer(model: Classifier, temperature: float, folder: Path) -> Exported:
    """Write `torchscript_model.pt` and `config.json` into a folder, and return the network that was read from the file.

    The returned function takes float32 images (N,3,96,96) and returns the calibrated probabilities (N,).

    Raises:
        HistoError: PyTorch cannot trace the network.
    """
    path = folder / NETWORK
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch advises against TorchScript, which WSInfer needs
            traced = torch.jit.trace(CalibratedLogits(model, temperature), torch.rand(2, 3, PATCH_SIDE, PATCH_SIDE))
            content = BytesIO()  # PyTorch does not report a full disk clearly, and may end the process
            torch.jit.save(traced, content)
            path.write_bytes(content.getbuffer())
            network = torch.jit.load(str(path))
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HistoError(f"{model.arch} cannot be exported for WSInfer: {reason}") from error
    write_json(folder / CONFIG, make_config(model.arch))

    @torch.inference_mode()
    def run(images: "np.ndarray") -> list["np.ndarray"]:
        return [network(torch.from_numpy(images)).softmax(1)[:, 1].numpy()]

    return run


def make_config(arch: str) -> dict[str, object]:
    """Return the content of config.json."""
    return {
        "spec_version": "1.0",
        "architecture": arch,
        "num_classes": len(CLASS_NAMES),
        "class_names": CLASS_NAMES,
        "patch_size_pixels": PATCH_SIDE,
        "spacing_um_px": PATCH_MPP,
        "transform": [{"name": "ToTensor"}],  # the network resamples
    }
