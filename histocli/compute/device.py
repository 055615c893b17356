"""Choose the device, the number format, the threads, and deterministic algorithms."""

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from histocli.compute.memory import keep_freed_memory
from histocli.compute.rendezvous import find_backend, is_distributed
from histocli.enums import Device, Precision
from histocli.errors import HistoError, read_first_line
from histocli.text import format_count
from histocli.threads import count_threads

DEVICE_FILES = Path("/dev")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Compute capabilities, times 10, for which PyTorch's builds for CUDA 12.6 have code, and those for CUDA 13 have none.
_CUDA_12_ONLY = range(50, 75)
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """The device and the number format of the model.

    `reason` says why they were chosen, `warning` why a GPU of the machine cannot be used; both are texts for the user.
    """

    device: torch.device
    precision: Precision
    reason: str
    warning: str = ""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context for forward passes."""
        dtype = torch.float16 if self.precision is Precision.FP16 else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision is not Precision.FP32)


def choose_compute(device: Device = Device.AUTO, precision: Precision = Precision.AUTO) -> Compute:
    """Choose the device (CUDA, then MPS, then CPU) and its fastest precision.

    Raises:
        HistoError: the given device does not exist or cannot be used.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    problem = _prepare_gpu() if device in (Device.AUTO, Device.CUDA) else None
    if device is Device.CUDA and (problem or not cuda):
        raise HistoError(f"--device cuda: {problem or 'no GPU was found'}", "--device cpu, or --device auto")
    if device is Device.MPS and not mps:
        raise HistoError("--device mps: no Apple GPU was found", "--device auto uses what the machine has")
    cuda = cuda and not problem
    kind = device.value if device is not Device.AUTO else "cuda" if cuda else "mps" if mps else "cpu"
    reason = "given" if device is not Device.AUTO else {"cuda": "found", "mps": "no CUDA"}.get(kind, "no GPU found")
    warning = f"the GPU cannot be used: {problem}" if problem else ""
    if problem:
        reason = "the GPU cannot be used"
    name = torch.cuda.get_device_name() if kind == "cuda" else format_count(count_threads(), "thread")
    chosen, why = (precision, "given") if precision is not Precision.AUTO else _choose_precision(kind)
    if kind == "cuda" and chosen is Precision.FP32:
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default: 10 bits of mantissa in convolutions
    name = "Apple GPU" if kind == "mps" else name
    is_one_of_several = kind == "cuda" and is_distributed()
    place = torch.device("cuda", torch.cuda.current_device()) if is_one_of_several else torch.device(kind)
    return Compute(place, chosen, f"{kind} ({name}; {reason}), {chosen} ({why})", warning)


def find_memory_format(device: torch.device) -> torch.memory_format:
    """Return how images and convolutions lie in memory on a device: channels last, but contiguous on MPS.

    On MPS, several versions of PyTorch compute wrong gradients of batch norm and max-pooling where the channels are
    last: https://github.com/pytorch/pytorch/issues/175189. They are last in the result of a convolution if they are
    last in its images or in its weight.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def move_model(model: Module, device: torch.device) -> Module:
    """Move a network to a device; on MPS, its weights become contiguous: see `find_memory_format`."""
    if find_memory_format(device) is torch.contiguous_format:
        model.to(memory_format=torch.contiguous_format)
    return model.to(device)


def select_local_gpu() -> None:
    """Select the GPU of this process, one of several on this machine.

    Raises:
        HistoError: this process sees fewer GPUs than there are processes on the machine.
    """
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    # A scheduler, or a script that torchrun starts, lets each process see only its own GPU. Otherwise, the processes of
    # torchrun and of --processes see the same one, which gloo can share, and NCCL cannot.
    visible = os.environ.get(_VISIBLE, "").strip()
    is_own = "TORCHELASTIC_RUN_ID" not in os.environ or visible == str(number)
    if count == 1 and visible and (is_own or "nccl" not in find_backend()):
        number = 0
    if number >= count:
        raise HistoError(
            f"there are more processes than GPUs: local rank {number} on {socket.gethostname()} sees "
            f"{format_count(count, 'GPU')}",
            f"--processes {count} (with torchrun: --nproc-per-node {count}), or --device cpu",
        )
    torch.cuda.set_device(number)


def _prepare_gpu() -> str | None:
    """Return why the GPU of this process cannot be used; None if it can be used, or if the machine has none.

    In a job of several processes, this selects the GPU of the process.
    """
    if not torch.cuda.is_available():
        return _explain_unavailable_gpu() if _has_nvidia_gpu() else None
    try:
        if is_distributed():
            # Before anything is computed: else each process would compute on GPU 0 first, and take memory there.
            select_local_gpu()
        # PyTorch for AMD's GPUs, which has no `torch.version.cuda`, names architectures otherwise, such as gfx90a.
        if torch.version.cuda and (problem := _find_architecture_problem()):
            return problem
        torch.zeros(1, device="cuda")
    except RuntimeError as error:  # another process holds all of its memory, or the GPU for itself
        return f"{read_first_line(error)}; nvidia-smi shows which processes use the GPU{_suggest_another_gpu()}"
    return None


def _has_nvidia_gpu() -> bool:
    """Return whether the machine has an NVIDIA GPU, even if PyTorch cannot use it.

    Linux has a file for the driver, and one for each GPU. Windows has none, and in WSL `dxg` is there for any GPU; both
    have nvidia-smi if NVIDIA's driver is installed. On Linux, nvidia-smi alone does not show that there is a GPU.
    """
    if any((DEVICE_FILES / name).exists() for name in ("nvidiactl", "nvidia0")):
        return True
    return (os.name == "nt" or (DEVICE_FILES / "dxg").exists()) and shutil.which("nvidia-smi") is not None


def _explain_unavailable_gpu() -> str:
    """Return why PyTorch does not find the machine's GPU."""
    if not torch.version.cuda:
        return "this build of PyTorch has no CUDA; install the build that pytorch.org gives for your system"
    reason = "PyTorch does not find it"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason = read_first_line(error)
    visible = os.environ.get(_VISIBLE)
    return reason if visible is None else f"{reason}; {_VISIBLE} is {visible[:40]!r}"


def _suggest_another_gpu() -> str:
    """Return how to choose the second GPU of the machine, or "" where there is none or torchrun has chosen."""
    if torch.cuda.device_count() < 2 or is_distributed():
        return ""
    second = os.environ.get(_VISIBLE, "0,1").split(",")[1].strip()
    return f"; {_VISIBLE}={second} chooses another GPU"


def _find_architecture_problem() -> str | None:
    """Return why this PyTorch has no code for the current NVIDIA GPU; None if it has."""
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    parts = [arch.partition("_") for arch in torch.cuda.get_arch_list()]  # such as sm_80, sm_90a and compute_90
    builds = [(kind, int(number.rstrip("af"))) for kind, _, number in parts]
    # Binary code (`sm`) runs on newer GPUs of the same generation only, portable code (`compute`) on all newer ones.
    if any(built <= capability and (kind != "sm" or built // 10 == major) for kind, built in builds):
        return None
    built_for = ", ".join(f"{built / 10:.1f}" for kind, built in builds if kind == "sm")
    fix = "install the newest build from pytorch.org"
    if capability < min(_CUDA_12_ONLY):
        fix = "PyTorch 2.10 and later have no code for such an old GPU"
    elif capability in _CUDA_12_ONLY:
        fix = (
            "install the build for CUDA 12.6: pip uninstall torch torchvision, then pip install torch torchvision "
            "--index-url https://download.pytorch.org/whl/cu126"
        )
    return (
        f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this PyTorch is built for "
        f"{built_for}; {fix}"
    )


@contextmanager
def apply_compute_settings() -> Iterator[None]:
    """Use `count_threads` threads and keep freed memory in this block; afterwards restore both settings."""
    before = torch.get_num_threads()
    torch.set_num_threads(count_threads())
    try:
        with keep_freed_memory():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def make_deterministic(is_wanted: bool) -> Iterator[None]:
    """Use only CUDA algorithms that give the same bits each time in this block, if `is_wanted`.

    Without it, cuDNN chooses by its heuristics. Letting it measure (torch.backends.cudnn.benchmark) took 7 to 10
    seconds for each batch size on an H100, and the steps were no faster (2.76 ms against 2.73 ms).

    Enter this block before the first computation: https://docs.pytorch.org/docs/stable/notes/randomness.html

    Raises:
        HistoError: the network uses an operation that has no deterministic algorithm.
    """
    if not is_wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise HistoError(f"--deterministic: {str(error).splitlines()[0]}", "leave it out, or --device cpu") from error
    finally:
        torch.use_deterministic_algorithms(before)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the random number generator that new tensors on `device` use."""
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _choose_precision(kind: str) -> tuple[Precision, str]:
    """Return the fastest number format of a kind of device, and why: emulated bf16 is slower than fp32."""
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision.BF16, "the GPU has bf16 units"
        return Precision.FP16, "the GPU has no bf16 units"
    if kind == "cpu" and _has_cpu_feature("amx_tile"):
        return Precision.BF16, "the processor has AMX"
    if kind == "cpu" and _has_cpu_feature("avx512_bf16"):
        if _is_intel():  # bf16 trains three quarters as many patches per second as fp32: benchmarks/README.md
            return Precision.FP32, "faster than bf16 without AMX"
        return Precision.BF16, "the processor has bf16 units"
    return Precision.FP32, "no bf16 units"


def _has_cpu_feature(feature: str) -> bool:
    """Return whether the processor has `amx_tile` or `avx512_bf16`."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get(feature))
    return bool(getattr(torch.cpu, f"_is_{feature}_supported")())  # an older PyTorch has no public function for it


def _is_intel() -> bool:
    """Return whether Intel made the processor."""
    info = Path("/proc/cpuinfo")
    return "GenuineIntel" in (info.read_text() if info.is_file() else platform.processor())
