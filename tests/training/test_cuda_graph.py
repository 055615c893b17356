"""When a step is launched, captured and replayed; without a GPU, because the functions of torch.cuda are replaced."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from histocli.training.cuda_graph import WARM_UP, GraphedStep


def test_a_step_is_captured_once_after_the_warm_up_and_then_replayed(monkeypatch):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "current_stream": lambda device: stream,
        "Stream": lambda device: stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: replayed.append(graphed.images.clone())),
        "graph": lambda graph, **options: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    launched, replayed = [], []

    def step(images, labels):
        launched.append(images)
        return images.sum()

    graphed = GraphedStep(step)
    batches = [torch.full((2, 3), float(number)) for number in range(WARM_UP + 3)]
    for number, images in enumerate(batches):
        graphed(images, torch.zeros(2))
        assert (graphed.graph is None) == (number < WARM_UP)
    assert [id(images) for images in launched[:-1]] == [id(images) for images in batches[:WARM_UP]]
    assert launched[-1] is graphed.images  # the capture; the batch itself is not kept
    assert [float(images[0, 0]) for images in replayed] == [WARM_UP, WARM_UP + 1, WARM_UP + 2]
    assert float(graphed(torch.ones(1, 3), torch.zeros(1))) == 3  # another shape is launched as it is
    assert (len(launched), len(replayed)) == (WARM_UP + 2, 3)
