"""last.pt with a training state that `histo train` cannot have written: one error that names the file and the field."""

import json
from copy import deepcopy

import pytest
import torch

from tests.faults.processes import histo

pytestmark = pytest.mark.attack


def put(*keys):
    """Return a function that puts a value at these keys of a training state."""

    def change(state, value):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


NAN = float("nan")
OPTIMIZER = ("trainer", "optimizer")
CHANGES = {
    "step None": (put("trainer", "step"), None, "the field trainer.step is None, not a whole number"),
    "step NaN": (put("trainer", "step"), NAN, "the field trainer.step is nan, not a whole number"),
    "step tensor": (put("trainer", "step"), torch.ones(2), "the field trainer.step is a Tensor, not a whole number"),
    "step of another epoch": (put("trainer", "step"), 10**9, "step 1,000,000,000 is not one of the epoch after 2"),
    "step before the last epoch": (put("trainer", "step"), 1, "step 1 is not one of the epoch after 2"),
    "losses of two dimensions": (put("trainer", "losses"), torch.ones(2, 2), "weights or losses are not finite"),
    "losses NaN": (put("trainer", "losses"), torch.tensor([NAN]), "weights or losses are not finite"),
    "momentum huge": (put(*OPTIMIZER, "momentum"), 10**400, "the optimiser's momentum is missing, or has another"),
    "momentum of one number": (put(*OPTIMIZER, "momentum"), torch.tensor(1.0), "the optimiser's momentum is missing"),
    "steps negative": (put(*OPTIMIZER, "steps"), torch.tensor([-7]), "the optimiser's steps has an impossible value"),
    "scale NaN": (put(*OPTIMIZER, "loss_scale"), torch.tensor(NAN), "the optimiser's loss_scale has an impossible"),
    "whole weights": (put("trainer", "model", "mean"), torch.ones(1, 3, 1, 1).int(), "weights have another type"),
    "adapters a text": (put("adapters"), "none", "the field adapters is 'none', not an object"),
    "history of one epoch": (put("history"), {}, "the field history is {}, not a list"),
    "loss NaN": (put("history", 0, "train_loss"), NAN, "the field history[0].train_loss is nan, not a number"),
    "epoch a text": (put("history", 1, "epoch"), "two", "the field history[1].epoch is 'two', not a whole number"),
    "best AUC NaN": (put("best", "val_auc"), NAN, "the field best.val_auc is nan, not a number"),
    "AUC below 0": (put("history", 1, "val_auc"), -7.0, "the field history[1].val_auc is -7.0, not at least 0"),
    "best loss None": (put("best", "val_loss"), None, "the field best.val_loss is None, not a number"),
    "processes of a tensor": (put("processes"), torch.ones(2), "the field processes is a Tensor, not a whole number"),
    "no processes": (put("processes"), -7, "the field processes is -7, not at least 1"),
}


@pytest.fixture(scope="module")
def good(trained_workspace):
    return torch.load(trained_workspace / "runs" / "first" / "last.pt", weights_only=True)


@pytest.mark.parametrize(("change", "value", "why"), CHANGES.values(), ids=CHANGES)
def test_a_training_state_that_histo_cannot_have_written_is_one_error(root, good, change, value, why):
    """Most were a bug in histo; some were trained on, such as the momentum of one number, which filled the buffer."""
    content = {**good, "training": deepcopy(good["training"])}
    change(content["training"], value)
    last = root / "runs" / "first" / "last.pt"
    torch.save(content, last)
    line = ["train", "--resume", "--name", "first", "--epochs", 3, "--device", "cpu"]
    error = histo(root, *line, code=1).stderr
    assert f"error: {last}" in error
    assert why in error
    assert error.count("error: ") == 1


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_damaged_history_is_written_again_from_the_checkpoint(root, epochs):
    """Bytes that are no text were a bug in histo, and with more epochs "0 are trained" was the answer."""
    history = root / "runs" / "first" / "history.jsonl"
    whole = history.read_text()
    history.write_bytes(b"\xff\xfe" + bytes(99))
    histo(root, "train", "--resume", "--name", "first", "--device", "cpu", "--epochs", epochs)
    assert history.read_text().startswith(whole)
    assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()] == [1, 2, 3][:epochs]
