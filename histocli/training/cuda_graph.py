"""One training step as a CUDA graph: the CPU launches the whole step at once, not its thousand kernels one by one."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps: libraries choose algorithms and allocate in the first ones, which a graph cannot hold


class GraphedStep:
    """Run `step(images, labels) -> loss` eagerly a few times, then capture it once and replay it from then on.

    Each call is one step with the same results as `step` itself: the first `WARM_UP` calls run it, and the capture runs
    nothing. `step` must need nothing from the host, and must draw random numbers from the device's generator, which
    the caller seeds before each call. Images and labels keep their shapes; a call with other shapes runs `step`.

    See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream: torch.cuda.Stream | None = None
        self.images = self.labels = self.loss = torch.empty(0)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one step; return the loss, 0-dim."""
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._warm_up(images, labels)
        if self.graph is None:
            self.graph = self._capture(images, labels)
        if images.shape != self.images.shape:
            return self.step(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss.clone()

    def _warm_up(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run the step on the stream that will capture it."""
        current = torch.cuda.current_stream(images.device)
        self.stream = self.stream or torch.cuda.Stream(images.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            loss = self.step(images, labels)
        current.wait_stream(self.stream)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Record the step as a CUDA graph."""
        # Copies with the same strides: the step is recorded with the addresses and layout of these.
        self.images, self.labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.loss = self.step(self.images, self.labels)
        return graph
