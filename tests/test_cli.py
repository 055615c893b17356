"""The command line: help, version, exit codes, streams, environment variables, signals."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import warnings
from datetime import datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import histocli
import histocli.commands.balance
from histocli.cli import app
from histocli.models.checkpoint import load_checkpoint
from histocli.signals import catch_signals, raise_on_termination
from tests.cli import REPOSITORY, TRAIN, pseudo_terminal, write_images
from tests.faults.processes import Process

COMMANDS = [
    "download",
    "balance",
    "train",
    "tune",
    "eval",
    "predict",
    "export",
    "plot",
    "report",
    "runs",
    "data",
    "demo",
]


def run(*args):
    return CliRunner().invoke(app, list(args))


def test_importing_the_cli_loads_nothing_heavy():
    code = "import histocli.cli, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    heavy = {"torch", "torchvision", "cv2", "matplotlib", "sklearn", "pandas", "numpy", "h5py", "kagglehub", "scipy"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["predict", ""], "an argument is empty"),
        (["plot", "--kind", "explain", "--", ""], "an argument is empty"),
        (["download", "--source", "folder", "--from", ""], "the value of --from is empty"),
        (["report", "--maps="], "the value of --maps is empty"),
        (["-w", "", "data"], "the value of -w is empty"),
    ],
)
def test_an_empty_value_is_not_the_current_folder(histo, tmp_path, monkeypatch, args, what):
    folder = tmp_path / "here"
    write_images(histo, folder, 2)
    monkeypatch.chdir(folder)
    assert histo.fails(*args, code=2) == (what, "perhaps a variable of the shell is not set; . is the current folder")


def test_help_lists_every_command_without_truncation():
    result = run("--help")
    assert result.exit_code == 0
    assert not result.stderr
    listed = re.findall(r"^  (\w+)  +[A-Z].*$", result.stdout, re.M)
    assert listed == COMMANDS
    assert "..." not in result.stdout.partition("Commands:")[2]  # no summary is cut off


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command):
    result = run(command, "-h")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: histo {command}")
    for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)(.*\n(?: {10,}.*\n)*)", result.stdout, re.M):
        assert re.search(r"[A-Za-z]{3}", option[1]), f"{option[0]} says nothing"
    assert not re.search(r"list\[|<(str|int|float|path|int range)>|RANGE", result.stdout)  # but plain words
    if command != "data":  # it has only --json
        assert "default: " in result.stdout
        assert re.search(rf"HISTO_{command.upper()}_\w+", result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_ends_with_two_examples_that_parse(command):
    text = run(command, "--help").stdout
    examples = re.findall(r"^  (histo .*)$", text.partition("\nExamples:\n")[2], re.M)
    assert len(examples) == 2
    assert text.rstrip().endswith(examples[-1])
    for example in examples:
        _, name, *arguments = shlex.split(example)
        assert name == command
        typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_the_help_of_eval_offers_no_table_of_resolutions():
    assert "slide,mpp" not in run("eval", "--help").stdout


def test_train_help_groups_options_in_panels():
    text = run("train", "--help").stdout
    assert re.findall(r"^(\w+):$", text, re.M) == [
        "Data",
        "Model",
        "Training",
        "Runs",
        "Computing",
        "Options",
        "Examples",
    ]
    panel = text[text.index("\nTraining:") : text.index("\nRuns:")]
    assert re.findall(r"^  (--[a-z-]+)", panel, re.M) == ["--epochs", "--batch-size", "--lr", "--backbone-lr"]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["trian"], "train"),
        (["train", "--epoch", "2"], "--epochs"),
        (["help", "train"], "histo -h"),
        (["train", "help"], "histo train -h"),
    ],
)
def test_a_misspelt_command_or_option_gets_a_suggestion(empty, line, meant):
    error = empty(*line, code=2).stderr.partition("Error: ")[2]
    assert re.search(rf"(Did you mean|Possible options:).*{meant}\b", error)


def test_processes_of_one_job_get_the_arguments_of_the_application(empty, monkeypatch):
    """They do not get `sys.argv`, which belongs to the program that calls the application."""
    launched = []
    monkeypatch.setattr("histocli.compute.launch.launch", lambda *args: launched.append(args))
    empty("train", "--processes", 2, "--batch-size", "auto", "--threshold", "sensitivity=0.9")
    line = ["train", "--processes", "2", "--batch-size", "auto", "--threshold", "sensitivity=0.9"]
    assert launched == [(["-w", str(empty.root), *line], 2)]


@pytest.mark.parametrize("command", ["data", "runs", "eval"])
def test_a_file_as_workspace_is_refused(tmp_path, command):
    path = tmp_path / "patch.png"
    path.write_bytes(b"")
    result = run("-w", str(path), command)
    assert result.exit_code == 2
    assert "is a file" in result.stderr
    assert "hint: give a folder" in result.stderr


def test_help_keeps_square_brackets_and_ranges():
    text = re.sub(r"\s+", " ", run("predict", "--help").stdout)
    assert "[env var: HISTO_CKPT; default: best.pt]" in text
    assert "0<=x<=4294967295" in re.sub(r"\s+", " ", run("train", "--help").stdout)


def test_version_prints_the_version():
    result = run("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"histo {histocli.__version__}\n", "")


def test_the_variable_histo_version_is_ignored(monkeypatch):
    monkeypatch.setenv("HISTO_VERSION", "1.2.3")
    assert run("plot", "--help").exit_code == 0


@pytest.mark.parametrize(
    "line",
    [
        ["bogus"],
        ["train", "--bogus"],
        ["train", "--epochs", "many"],
        ["train", "--seed", "-1"],
        ["train", "--seed", str(2**64)],
        ["train", "--device", "tpu"],
        ["predict"],
        ["predict", "x", "--batch-size", "0"],
        ["eval", "--split", "half"],
        ["download", "--source", "nowhere"],
        ["download", "--n", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_names_the_problem(empty, line):
    result = empty(*line, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: histo")
    wrong = next((word for word in line if word.startswith("--")), {"predict": "inputs"}.get(line[0], line[0]))
    assert wrong in result.stderr.partition("Error: ")[2].lower()  # typer once wrote INPUTS


@pytest.mark.parametrize(
    "line",
    [
        "train --threshold sensitivity=95",
        "train --lr 0 --folds 3",
        "train --threshold bad --resume",
        "eval --threshold 7 --data nowhere",
        "eval --threshold 0_1 --data nowhere",
        "eval --prevalence 2 --data nowhere",
        "eval --mpp 40x --data nowhere",
        "eval --mpp 0_5 --data nowhere",
        "eval --classes tumour --data nowhere",
        "eval --slide-pattern ( --data nowhere",
        "eval --threshold 7 --scores nowhere.csv",
        "eval --engine onnx --precision bf16 --ckpt nowhere",
        "predict --threshold 7 nowhere",
        "balance --val-fraction 2 --data nowhere",
        "balance --group hospital --split slide --data nowhere",
        "balance --n 7 --data nowhere",
        "tune --lr 1:0.1 --trials 1",
        "tune --lr 0_001:1 --trials 1",
        "plot --mpp far --kind map --run nowhere",
        "plot --kind confusion --run nowhere --run elsewhere",
        "report --mpp far --run nowhere",
        "download --classes tumour --source folder --from nowhere",
        "download --mpp far --source slides --from nowhere --annotations nowhere",
    ],
)
def test_values_are_checked_before_files(empty, line):
    command, option, *rest = line.split()
    if command == "tune":
        pytest.importorskip("optuna", reason="optuna is not installed (the extra `tune`)")
    error, _ = empty.fails(command, option, *rest, code=2)
    assert option in error


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a/b", "'a/b' cannot name a run"),
        ("best.pt", "--ckpt best.pt means another"),
        ("histonet-pcam", "--ckpt histonet-pcam means another"),
    ],
)
def test_the_name_of_a_run_is_checked_before_files(empty, name, why):
    assert why in empty.fails("train", "--name", name, code=2)[0]


def test_an_expected_failure_is_two_lines_on_stderr(empty):
    error, hint = empty.fails("train")
    assert error == f"there is no manifest {empty.root / 'manifests' / 'balanced.csv'}"
    assert "histo balance" in hint
    assert not empty.root.exists()  # a command that fails leaves nothing


def test_a_name_with_a_path_outside_the_workspace_is_a_usage_error(empty):
    error, _ = empty.fails("download", "--source", "synthetic", "--name", "../x", code=2)
    assert "'../x' cannot name a data set" in error


@pytest.fixture
def bug(monkeypatch):
    """A command with a bug in it."""

    def broken(*args, **options):
        raise ZeroDivisionError("oh [b]dear[/b]")

    monkeypatch.setattr(histocli.commands.balance, "balance", broken)


def test_a_bug_writes_a_log_and_prints_its_path(empty, bug):
    error, hint = empty.fails("balance", code=3)
    assert error == "this is a bug in histo: ZeroDivisionError('oh [b]dear[/b]')"
    log = Path(hint.removeprefix("its traceback is in "))
    assert log.is_relative_to(os.environ["HOME"])
    assert "Traceback (most recent call last)" in log.read_text()
    assert "in broken" in log.read_text()


def test_a_bug_is_reported_if_the_log_folder_cannot_be_written(empty, bug, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "not-a-folder"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, hint = empty.fails("balance", code=3)
    log = Path(hint.removeprefix("its traceback is in "))
    assert log.parent == tmp_path
    assert "in broken" in log.read_text()


def test_debug_shows_the_traceback_of_bugs_and_of_failures(empty, bug, monkeypatch):
    monkeypatch.setenv("HISTO_DEBUG", "1")
    result = empty("balance", code=3)
    assert "in broken" in result.stderr
    assert result.stdout == ""
    result = empty("train", code=1)
    assert "Traceback" in result.stderr
    assert "error: there is no manifest" in result.stderr


@pytest.mark.filterwarnings("default")
def test_warnings_of_python_code_of_histo_are_printed_like_all_others(histo, monkeypatch):
    def warn(*args, **kwargs):
        warnings.warn_explicit("the compiler is missing", UserWarning, histocli.__file__, 1)
        warnings.warn_explicit("of a library", UserWarning, "/library.py", 1)
        raise KeyError

    monkeypatch.setattr(histocli.commands.balance, "balance", warn)
    with pytest.warns(UserWarning, match="of a library") as others:
        shown = histo("balance", code=3).stderr
    assert "warning: the compiler is missing\n" in shown
    assert len(others) == 1


def test_quiet_prints_only_warnings(histo):
    result = histo("-q", "balance", "--n", "40", "--split", "random")
    assert result.stdout == ""
    assert result.stderr.startswith("warning: a random split leaks")
    assert result.stderr.count("\n") == 1


def test_values_come_from_the_environment_and_the_flag_wins(empty, monkeypatch):
    monkeypatch.setenv("HISTO_WORKSPACE", str(empty.root))
    monkeypatch.setenv("HISTO_SEED", "7")
    monkeypatch.setenv("HISTO_DOWNLOAD_N", "40")
    monkeypatch.setenv("HISTO_DOWNLOAD_SOURCE", "synthetic")
    assert run("download").exit_code == 0
    dataset = json.loads((empty.root / "data" / "synthetic" / "dataset.json").read_text())
    assert (dataset["patches"], dataset["request"]["seed"]) == (40, 7)
    assert run("download", "--seed", "8").exit_code == 1  # another request under the same name


def test_train_takes_its_epochs_from_the_environment(histo, monkeypatch):
    monkeypatch.setenv("HISTO_TRAIN_EPOCHS", "1")
    histo(*TRAIN, "--name", "short")
    assert len((histo.root / "runs" / "short" / "history.jsonl").read_text().splitlines()) == 1


def test_json_goes_to_stdout_and_messages_to_stderr(histo):
    result = histo("balance", "--n", "40", "--json")
    assert json.loads(result.stdout)["n"] == 40
    assert "done: " in result.stderr


def test_results_reach_stdout_while_a_bar_is_drawn_on_a_terminal(histo, tmp_path):
    write_images(histo, tmp_path / "images")
    with pseudo_terminal() as (terminal, shown):
        process = Process(histo.root, "predict", tmp_path / "images", stderr=os.ttyname(terminal), TERM="xterm")
        assert process.wait() == 0
    drawn = b"".join(shown).decode()
    assert "scoring" in drawn
    assert "12/12" in drawn
    assert "id,label" not in drawn
    lines = process.stdout.splitlines()
    assert (lines[0], len(lines)) == ("id,label", 13)


def test_there_is_no_bar_if_results_go_to_a_terminal(histo, tmp_path):
    write_images(histo, tmp_path / "images")
    with pseudo_terminal() as (terminal, shown):
        name = os.ttyname(terminal)
        assert Process(histo.root, "predict", tmp_path / "images", stdout=name, stderr=name, TERM="xterm").wait() == 0
    drawn = b"".join(shown).decode()
    assert "id,label" in drawn
    assert "━" not in drawn


DROPPED = {
    "freeing an object": """
class Freed:
    def __del__(self):
        send()
Freed()
""",
    "a library": """
try:
    send()
except BaseException:
    pass
""",
}


@pytest.mark.parametrize("where", DROPPED)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_whose_exception_is_dropped_is_sent_again(name, where):
    """Python drops exceptions that are raised while an object is freed; a part of numpy drops them too."""
    program = f"""
import os, signal, time
from histocli.signals import Stopped, raise_on_termination
def send():
    os.kill(os.getpid(), signal.{name})
    time.sleep(0.01)
try:
    with raise_on_termination():
{textwrap.indent(DROPPED[where], "        ")}
        time.sleep(60)
except Stopped as heard:
    print(heard.exit_code)
time.sleep(0.2)  # it is not sent again after it was heard
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"{128 + signal.Signals[name]}\n"
    assert done.stderr == ""


def test_ctrl_c_during_imports_ends_without_a_traceback():
    """Importing takes seconds, in which a user may press Ctrl-C."""
    program = """
import os, signal, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "histocli.cli":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from histocli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_stop_request_leaves_ignored_signals_ignored():
    """`nohup histo train &` continues when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_handlers_are_restored():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    with raise_on_termination(), catch_signals():
        assert [signal.getsignal(number) for number in numbers] != before[0]
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before


def test_eval_and_predict_name_the_checkpoint_before_they_start(histo):
    auc = load_checkpoint(histo.root / "checkpoints" / "best.pt").metrics["val_auc"]
    written = datetime.fromtimestamp((histo.root / "runs" / "first" / "best.pt").stat().st_mtime)
    line = re.compile(
        rf"checkpoint \S+best\.pt: run first, epoch \d, validation AUC {auc:.4f}, written {written:%Y-%m-%d %H:%M}"
    )
    for command in (["eval"], ["predict", "synthetic"]):
        assert line.match(histo(*command, "--device", "cpu").stderr.replace("\n", " "))


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["predict", "x", "-o", "y.csv"], "--out"),
        (["train", "--learning-rate", "0.1"], "--lr"),
        (["train", "--batch_size", "8"], "--batch-size"),
        (["eval", "--checkpoint=a"], "--ckpt"),
        (["eval", "--model", "a"], "--ckpt"),
        (["train", "--model", "a"], "--arch"),
        (["train", "--device", "gpu"], "'cuda'"),
        (["train", "--device", "cuda:0"], "'cuda'"),
        (["train", "--precision", "float16"], "'fp16'"),
        (["plot", "--kind", "calibrate"], "'calibration'"),
        (["download", "a.zip"], "--from a.zip"),
        (["download", "folder"], "--source folder"),
        (["balance", "160000"], "--n 160000"),
        (["balance", "mine"], "--data mine"),
        (["eval", "best.pt", "--tta"], "--ckpt best.pt"),
        (["train", "--lr-rate", "0.1"], "--lr"),
        (["predict", "x", "--magnification", "40"], "--mpp"),
        (["predict", "x", "--resume"], "--skip-done"),
        (["predict", "x", "--json"], "--format"),
        (["runs", "delete", "a"], "'rm'"),
        (["evaluate", "--tta"], "histo eval"),
        (["submit"], "kaggle competitions submit -c histopathologic-cancer-detection -f submission.csv -m histo"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_names_of_other_tools_are_answered_with_the_name_here(empty, line, meant):
    error = empty(*line, code=2).stderr.partition("Error: ")[2]
    assert re.sub(r"\s+", " ", error).strip().endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (
            ["predict", "--split", "test", "--tta"],
            "Give a packed data set (here: synthetic), a folder, images or an "
            "archive: histo predict synthetic --split test --tta",
        ),
        (
            ["eval", "--compare", "a"],
            "--compare needs two runs, checkpoints or metrics files: histo eval --compare A B",
        ),
        (["eval", "--compare", "a", "--data", "x"], "metrics files: histo eval --compare A B"),
        (["eval", "--compare", "a", "--json"], "--json is an option hint: histo eval --compare A B"),
        (
            ["predict", "x", "--processes", "2"],
            "Start the processes by torchrun: torchrun --standalone --nproc-per-node 2 -m histocli predict",
        ),
        (["train", "-w", "ws"], "Put it before the command: histo -w DIR train"),
        (["eval", "--quiet"], "Put it before the command: histo --quiet eval"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_missing_or_misplaced_word_is_answered_with_the_command_to_type(histo, line, answer):
    assert re.sub(r"\s+", " ", histo(*line, code=2).stderr).strip().endswith(answer)


def test_an_unknown_word_without_a_similar_one_gets_no_suggestion(empty):
    for line in (["train", "--xyzzy", "1"], ["train", "--device", "abacus"], ["eval", "--out", "x"]):
        assert "Did you mean" not in empty(*line, code=2).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["train", "--lr", "abc"], "'--lr': 'abc' is not a number."),
        (["train", "--lr=1e"], "'--lr': '1e' is not a number."),
        (["train", "--batch-size", "foo"], "'--batch-size': 'foo' is neither a whole number nor auto."),
        (["tune", "--batch-size", "auto"], "'--batch-size': 'auto' is not a whole number."),
        (["tune", "--batch-size", "64", "--batch-size", "x"], "'--batch-size': 'x' is not a whole number."),
        (["tune", "--batch-size", "64", "--batch-size=1"], "'--batch-size': 1: at least 2 is needed."),
        (["train", "--shots", "0"], "'--shots': 0: at least 1 is needed."),
        (["eval", "--batch-size", "0"], "'--batch-size': 0: at least 1 is needed."),
    ],
)
def test_a_value_that_is_no_number_or_too_small_is_named(histo, line, message):
    assert message in " ".join(histo(*line, code=2).stderr.split())


def test_a_wrong_number_in_an_environment_variable_is_named(histo, monkeypatch):
    monkeypatch.setenv("HISTO_TRAIN_LR", "fast")
    shown = " ".join(histo("train", code=2).stderr.split())
    assert "'--lr': 'fast' is not a number (environment variable HISTO_TRAIN_LR)." in shown


@pytest.mark.parametrize(("variable", "command"), [("HISTO_QUIET", "runs"), ("HISTO_EVAL_TTA", "eval")])
def test_a_variable_of_a_switch_that_is_neither_true_nor_false_is_named(monkeypatch, variable, command):
    monkeypatch.setenv(variable, "perhaps")
    result = run(command)
    assert result.exit_code == 2
    assert f"'perhaps' is not true or false (environment variable {variable})." in " ".join(result.stderr.split())
