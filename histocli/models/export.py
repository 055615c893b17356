"""Write networks in formats that run without this tool: ONNX, and the format of torch.export."""

import json
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histocli.enums import ExportFormat
from histocli.errors import HistoError
from histocli.models import Classifier
from histocli.patch import PATCH_SIDE

INPUT, METADATA_FILE = "images", "histo.json"
OUTPUTS = ["probability", "log_odds"]
_FATAL = 4  # the highest level of ONNX Runtime's log
Exported = Callable[["np.ndarray"], list["np.ndarray"]]


class Probability(nn.Module):
    """The network that is exported: float RGB images (N,3,96,96) in [0, 1] -> probabilities and log odds, each (N,)."""

    def __init__(self, model: Classifier, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the calibrated probabilities of tumour (N,), and the log odds (N,) before calibration."""
        logits = self.model(images)
        log_odds = logits[:, 1] - logits[:, 0]
        return torch.sigmoid(log_odds / self.temperature), log_odds


def export(module: Probability, format: ExportFormat, path: Path, metadata: dict[str, str]) -> Exported:
    """Write a network for any number of images, with `metadata` in the same file, and return the network in this file.

    The returned function takes float32 images (N,3,96,96) and returns `OUTPUTS`, each (N,); it runs on the CPU.

    Raises:
        HistoError: PyTorch cannot trace the network.
    """
    write = {ExportFormat.ONNX: _export_to_onnx, ExportFormat.PT2: _export_to_pt2}[format]
    try:  # torch.export's errors have no public name; their public base class, RuntimeError, would hide our bugs
        return write(module, path, metadata)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HistoError(f"{module.model.arch} cannot be exported as {format}: {reason}") from error


def _export_to_onnx(module: Probability, path: Path, metadata: dict[str, str]) -> Exported:
    """Write the network and its metadata as an ONNX file, and return the network in it."""
    program = torch.onnx.export(
        module,
        _make_example(),
        dynamo=True,
        input_names=[INPUT],
        output_names=OUTPUTS,
        dynamic_shapes=({0: "N"},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)
    del program  # its copy of the weights
    session = open_onnx_session(path, torch.get_num_threads())
    return lambda images: [np.asarray(output) for output in session.run(OUTPUTS, {INPUT: images})]


def open_onnx_session(path: Path, threads: int) -> Any:
    """Open an ONNX file with ONNX Runtime, to run on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL  # errors are raised too; its own lines would repeat names in the file
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _export_to_pt2(module: Probability, path: Path, metadata: dict[str, str]) -> Exported:
    """Write the network and its metadata as a `torch.export` file, and return the network in it."""
    program = torch.export.export(module, _make_example(), dynamic_shapes=({0: torch.export.Dim("N")},))
    content = BytesIO()  # PyTorch does not report a full disk clearly, and may end the process
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # about constants that are views: there are none
        torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata)})
    path.write_bytes(content.getbuffer())
    del program, content  # each has a copy of the weights
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # PyTorch reads from it and never writes
        network = torch.export.load(file).module()

    @torch.inference_mode()
    def run(images: "np.ndarray") -> list["np.ndarray"]:
        outputs: tuple[Tensor, ...] = network(torch.from_numpy(images))
        return [output.numpy() for output in outputs]

    return run


def _make_example() -> tuple[Tensor]:
    return (torch.rand(2, 3, PATCH_SIDE, PATCH_SIDE),)
