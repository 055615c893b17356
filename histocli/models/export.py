"""Networks in formats that run without this tool: ONNX, and torch.export's."""

import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histocli.config import ExportFormat
from histocli.errors import HistoError
from histocli.models import Classifier
from histocli.models.backbone import PATCH_SIDE

INPUT, FACTS = "images", "histo.json"
OUTPUTS = ["probability", "log_odds"]
Exported = Callable[["np.ndarray"], list["np.ndarray"]]


class Probability(nn.Module):
    """Float RGB images (N,3,96,96) in [0, 1] -> the probability of tumour (N,), and its log odds before calibration."""

    def __init__(self, model: Classifier, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify, and divide the log odds by the temperature."""
        logits = self.model(images)
        log_odds = logits[:, 1] - logits[:, 0]
        return torch.sigmoid(log_odds / self.temperature), log_odds


def require(format: ExportFormat) -> None:
    """Raise `HistoError` where what a format needs is not installed."""
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if format is ExportFormat.ONNX and absent:
        raise HistoError(f"--format onnx needs {' and '.join(absent)}", "pip install 'histocli[onnx]'")


def export(module: Probability, format: ExportFormat, path: Path, facts: dict[str, str]) -> Exported:
    """Write a network, for any number of images, with `facts` beside it in the file; give it back as read from there.

    What is given back takes float32 images (N,3,96,96) and gives `OUTPUTS`, each (N,); it runs on the CPU.

    Raises:
        HistoError: torch cannot trace the network.
    """
    write, read = {ExportFormat.ONNX: (_to_onnx, _run_onnx), ExportFormat.PT2: (_to_pt2, _run_pt2)}[format]
    try:
        write(module, path, facts)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HistoError(f"{module.model.arch} cannot be exported as {format}: {reason}") from error
    return read(path)


def _to_onnx(module: Probability, path: Path, facts: dict[str, str]) -> None:
    program = torch.onnx.export(
        module,
        _example(),
        dynamo=True,
        input_names=[INPUT],
        output_names=OUTPUTS,
        dynamic_shapes=({0: "N"},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(facts)
    program.save(path, external_data=False)


def _run_onnx(path: Path) -> Exported:
    session = onnx_session(path, torch.get_num_threads())
    return lambda images: [np.asarray(output) for output in session.run(OUTPUTS, {INPUT: images})]


def onnx_session(path: Path, threads: int) -> Any:
    """Open a network of ONNX Runtime's on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _to_pt2(module: Probability, path: Path, facts: dict[str, str]) -> None:
    program = torch.export.export(module, _example(), dynamic_shapes=({0: torch.export.Dim("N")},))
    with path.open("wb") as file, warnings.catch_warnings():  # a file, for a temporary name does not end in .pt2
        warnings.filterwarnings("ignore", "No complete tensor found")  # of constants cut from one; here all are whole
        torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})


def _run_pt2(path: Path) -> Exported:
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch's own, which writes nothing there
        module = torch.export.load(file).module()

    @torch.inference_mode()
    def run(images: "np.ndarray") -> list["np.ndarray"]:
        outputs: tuple[Tensor, ...] = module(torch.from_numpy(images))
        return [output.numpy() for output in outputs]

    return run


def _example() -> tuple[Tensor]:
    return (torch.rand(2, 3, PATCH_SIDE, PATCH_SIDE),)
