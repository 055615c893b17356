"""Each default is defined once: the command line, the Python API and docs/cli.md take it from histocli.config."""

import inspect
import re
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

import pytest
import typer

import histocli.config
from histocli import api
from histocli.cli import app
from histocli.config import (
    BalanceConfig,
    EvalConfig,
    ExportConfig,
    PlotConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
    TuneConfig,
    choose_batch_size,
)

CONFIGS = {
    "balance": BalanceConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "plot": PlotConfig,
    "report": ReportConfig,
}
MODES = {  # options that say how the command runs, and not what it computes
    "balance": {"json"},
    "train": {"processes", "json"},
    "tune": {"json"},
    "eval": {"compare", "json", "maps", "annotations", "choose_on", "scores"},
}
COMMANDS = {(info.name or info.callback.__name__): info for info in app.registered_commands}


def plain(value):
    """A default as text or a plain value, whether it comes from a dataclass, an option or a page."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value] or None
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path | int | float) and not isinstance(value, bool) else value


def defaults(config):
    return {field.name: plain(field.default) for field in fields(config) if field.default is not MISSING}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_with_a_metavar_names_its_flag(command):
    """Typer 0.27 takes the metavar for the flag where none is named: `--NAME NAME`."""
    for parameter in inspect.signature(COMMANDS[command].callback, eval_str=True).parameters.values():
        for info in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(info, typer.models.OptionInfo) and info.metavar:
                flags = info.default, *(info.param_decls or ())  # in Annotated, the first one takes the default's place
                assert any(isinstance(flag, str) and flag.startswith("-") for flag in flags), parameter.name


@pytest.mark.parametrize("command", CONFIGS)
def test_the_command_line_has_the_options_and_defaults_of_the_dataclass(command):
    expected = defaults(CONFIGS[command])
    for name in ("can_halve_batch", "extended_after"):  # which --batch-size auto and --resume set
        expected.pop(name, None)
    parameters = inspect.signature(COMMANDS[command].callback).parameters
    found = {
        name: plain(parameter.default)
        for name, parameter in parameters.items()
        if name not in {"ctx", "inputs", "raw", "flags"}
    }
    assert found.keys() - MODES.get(command, set()) == expected.keys()
    differing = {name for name in expected if found[name] != expected[name]}
    assert differing <= {"kind"}  # of plot: not given means all


def test_download_has_the_same_defaults_on_the_command_line_and_in_python():
    command = inspect.signature(COMMANDS["download"].callback).parameters
    function = inspect.signature(api.download).parameters
    for name in ("source", "name", "n", "seed", "force"):
        assert plain(command[name].default) == plain(function[name].default), name


@pytest.mark.parametrize("command", CONFIGS)
def test_the_reference_shows_these_defaults(command):
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.split(r"^## histo ", text, flags=re.MULTILINE)
    (section,) = [part for part in section if part.startswith(f"{command}\n")]
    rows = dict(
        re.findall(r"^\| `--([a-z-]+)`[^|]*\|[^|]*\| ([^|]*) \|", section.replace("INTEGER|", ""), re.MULTILINE)
    )
    checked = 0
    for name, value in defaults(CONFIGS[command]).items():
        shown = rows.get({"location": "from"}.get(name, name).replace("_", "-"))
        if shown and shown.startswith("`"):
            values = value if isinstance(value, list) else [str(value)]
            assert shown.replace("`", "").split(", ") == values, name
            checked += 1
    assert checked


@pytest.mark.parametrize("name", ["balance", "train", "tune", "evaluate"])
def test_api_functions_accept_the_dataclass_of_their_command(name):
    config = inspect.signature(getattr(api, name)).parameters["config"]
    assert config.annotation == CONFIGS[{"evaluate": "eval"}.get(name, name)] | None


def test_load_has_the_defaults_of_predict():
    parameters = inspect.signature(api.load).parameters
    for name in ("tta", "uncalibrated", "prevalence", "device", "precision", "batch_size"):
        assert parameters[name].default == getattr(PredictConfig, name)


def test_other_modules_import_the_dataclasses_from_histocli_config():
    folder = Path(histocli.config.__file__).parent
    files = [path for path in folder.parent.rglob("*.py") if path.parent != folder]
    assert len(files) > 200
    assert [path for path in files if "histocli.config." in path.read_text(encoding="utf-8")] == []


def test_every_command_that_computes_has_a_dataclass():
    assert set(typer.main.get_command(app).commands) == {*CONFIGS, "download", "demo", "data", "runs"}


@pytest.mark.parametrize(
    ("device", "patches", "expected"), [("cpu", 200_000, 128), ("cuda", 29_999, 128), ("cuda", 30_000, 512)]
)
def test_the_default_batch_is_larger_for_many_patches_on_a_gpu(device, patches, expected):
    assert choose_batch_size(device, patches) == expected
    assert TrainConfig().batch_size is None


def test_the_learning_rate_grows_with_the_square_root_of_the_batch():
    rates = [TrainConfig(batch_size=size).learning_rate for size in (None, 128, 512)]
    assert rates == [0.003, 0.003, 0.006]
    assert TrainConfig(batch_size=512, lr=0.001).learning_rate == 0.001
