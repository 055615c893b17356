"""The completion scripts, run in real shells."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from histocli.architectures import ARCHITECTURES, ENCODERS
from histocli.cli import options

COMPLETIONS = Path(__file__).parents[1] / "completions"


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path):
    """The variables of a shell that finds this Python's `histo`."""
    if not Path(sys.executable).with_name("histo").is_file():
        pytest.skip("the histo executable is not installed in the folder of this Python")
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


@needs("bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["histo", "ba"], "balance"),
        (["histo", "train", "--ep"], "--epochs"),
        (["histo", "download", "--source", "pc"], "pcam"),
    ],
)
def test_bash_completes(environment, words, expected):
    assert expected in complete_in_bash(environment, words)


def complete_in_bash(environment, words, folder=None):
    """Return the completions of the last word of a command line."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source {COMPLETIONS / 'histo.bash'}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        '_histo_completion histo; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


IN_WORKSPACE = [
    (["predict", "x", "--ckpt", "b"], ["best.pt"]),
    (["predict", "x", "--ckpt", "histonet-p"], ["histonet-pcam"]),
    (["train", "--arch", "p"], ["p4m-densenet", "phikon", "phikon-v2"]),
    (["predict", "pc"], ["pcam", "pca-files/"]),
    (["predict", "pca-"], []),  # then the shell completes paths
    (["eval", "--data", "pc"], ["pcam", "pca-files/"]),
    (["eval", "--ckpt", "net"], ["net-1", "net-2"]),
    (["plot", "--run", "net-2"], ["net-2"]),
    (["report", "--run", "net-1"], ["net-1"]),
    (["runs", "rm", "net-1"], ["net-1"]),
    (["plot", "--data", ""], ["pcam", "balanced"]),
    (["balance", "--data", ""], ["pcam"]),
    (["train", "--data", ""], ["balanced"]),
]


@needs("bash")
@pytest.mark.parametrize(
    ("words", "expected", "how"),
    [(*case, "option") for case in IN_WORKSPACE] + [(*case, "variable") for case in IN_WORKSPACE[3:5]],
)
def test_bash_completes_what_is_in_the_workspace(environment, tmp_path, words, expected, how):
    root, folder = tmp_path / "workspace", tmp_path / "folder"
    (folder / "pca-files").mkdir(parents=True)
    for path in ("runs/net-1/config.json", "runs/net-2/config.json", "runs/net-1/best.pt", "runs/net-2/best.pt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for path in ("checkpoints/best.pt", "data/pcam/dataset.json", "manifests/pcam.csv", "manifests/balanced.csv"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    line = ["histo", *(["-w", str(root)] if how == "option" else []), *words]
    variables = {"HISTO_WORKSPACE": str(root)} if how == "variable" else {}
    assert complete_in_bash(environment | variables, line, folder) == expected


@needs("fish")
@pytest.mark.parametrize(("line", "expected"), [("histo ba", "balance"), ("histo train --ep", "--epochs")])
def test_fish_completes(environment, line, expected):
    script = f"source {COMPLETIONS / 'histo.fish'}; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert expected in [completion.split("\t")[0] for completion in done.stdout.splitlines()]


@needs("fish")
def test_fish_still_completes_files(environment, tmp_path):
    (tmp_path / "patches").mkdir()
    script = f"source {COMPLETIONS / 'histo.fish'}; cd {tmp_path}; complete -C 'histo predict ./pat'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "./patches/" in done.stdout


@needs("zsh")
def test_zsh_completes_at_the_first_tab(environment):
    begin = f"fpath=({COMPLETIONS} $fpath); autoload -U compinit; compinit -u -D; PROMPT='> '\n"
    assert "histo balance" in typed_into_zsh(environment, begin, "histo bal\t", until="histo balance")


def typed_into_zsh(environment, setup, keys, until):
    """Return the output of an interactive zsh after `setup` and then `keys` were typed (30 seconds at most)."""
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
    )
    os.close(slave)
    try:
        os.write(master, setup.encode())
        read_until(master, "> ", 10)
        os.write(master, keys.encode())
        return read_until(master, until, 30)
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def read_until(master, text, seconds):
    shown = ""
    end = time.monotonic() + seconds
    while text not in shown and time.monotonic() < end:
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 4096).decode(errors="replace")
    return shown


def test_every_network_and_encoder_is_completed():
    assert options.complete_architectures("") == [*ARCHITECTURES, *ENCODERS]
    assert options.complete_architectures("histonet-w") == ["histonet-wide"]
