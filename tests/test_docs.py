"""What is written about the tool agrees with the tool."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import typer

from histocli.cli import app

ROOT = Path(__file__).parents[1]


def commands():
    return typer.main.get_command(app).commands


def test_reference_and_completions_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_reference_names_every_option_of_every_command():
    sections = re.split(r"^## histo ", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    by_name = {section.split("\n", 1)[0]: section for section in sections[1:]}
    assert set(by_name) == set(commands())
    for name, command in commands().items():
        for parameter in command.params:
            if parameter.hidden:  # a former name
                continue
            for flag in parameter.opts:
                if flag.startswith("--") and flag != "--help":
                    assert f"`{flag}`" in by_name[name], f"{flag} of histo {name}"


def test_readme_shows_every_command_and_no_option_that_does_not_exist():
    lines = re.findall(r"histo ([a-z]+)([^\n`]*)", "\n".join(console_lines()))
    assert {name for name, _ in lines} == set(commands())
    for name, rest in lines:
        known = {flag for parameter in commands()[name].params for flag in parameter.opts}
        for word in shlex.split(rest.split("#")[0].split(">")[0]):
            if word.startswith("--"):
                assert word in known, f"{word} of histo {name}"


def console_lines():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$")]
