"""The documentation agrees with the tool, and every page can be found."""

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from typer.testing import CliRunner

from histocli.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "histocli" / "models" / "weights").glob("*.md"),
    ]
)
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\((?P<path>[^)\s#:]+)(?:#[^)\s]*)?\)")
CALL = re.compile(
    r"(?:^|[\s`(])(?<!docker build -t )(?:histo|-m histocli)(?= |$)(?P<words>[^`|>#\n]*)", flags=re.MULTILINE
)
MOST_README_LINES = 120


@cache
def root_command():
    return typer.main.get_command(app)


def flags_of(command):
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def calls(text):
    """Each call of histo in console blocks and inline code, as (its root options, its command, the words after it)."""
    text = text.replace("\\\n", " ")
    consoles = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in consoles for line in block.splitlines() if line.startswith("$ ")]
    inline = re.findall(r"`(histo [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*lines, *inline]:
        for call in CALL.finditer(line):
            words = shlex.split(call["words"])
            at = next((i for i, word in enumerate(words) if word in root_command().commands), None)
            if at is None:
                yield words, None, []
            else:
                yield words[:at], words[at], words[at + 1 :]


def test_reference_and_completions_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_reference_names_every_option_of_every_command():
    sections = re.split(r"^## histo ", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    by_name = {section.split("\n", 1)[0]: section for section in sections[1:]}
    assert set(by_name) == set(root_command().commands)
    for name, command in root_command().commands.items():
        for parameter in command.params:
            if getattr(parameter, "hidden", False):  # a former name
                continue
            for flag in parameter.opts:
                if flag.startswith("--") and flag != "--help":
                    assert f"`{flag}`" in by_name[name], f"{flag} of histo {name}"


def test_reference_has_the_usage_line_of_every_help():
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert "`histo predict [OPTIONS] INPUTS...`" in reference
    for name in root_command().commands:
        usage = CliRunner().invoke(app, [name, "--help"]).stdout.partition("\n")[0]
        assert f"`{usage.removeprefix('Usage: ')}`" in reference


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_commands_on_a_page_have_options_that_exist(page):
    known = flags_of(root_command()) | {"-h", "--help", "--install-completion", "--show-completion"}
    for before, name, after in calls((ROOT / page).read_text(encoding="utf-8")):
        options = {word.split("=")[0] for word in before if word.startswith("-")}
        assert options <= known, f"histo {' '.join(before)}"
        assert name or not before or options, f"there is no command {before[0]!r}"
        if name:
            given = {word.split("=")[0] for word in after if re.match("--[a-z]", word)}
            assert given <= flags_of(root_command().commands[name]) | {"--help"}, f"histo {name} {' '.join(after)}"


def test_readme_is_short_and_shows_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_README_LINES
    assert {name for _, name, _ in calls(text) if name} == set(root_command().commands)


def test_every_page_can_be_reached_from_the_readme():
    reached, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in reached:
            continue
        reached.add(page)
        links = LINK.finditer(page.read_text(encoding="utf-8"))
        queue += [(page.parent / link["path"]).resolve() for link in links if link["path"].endswith(".md")]
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_links_lead_to_files(page):
    for link in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
        assert ((ROOT / page).parent / link["path"]).is_file(), link["path"]


def test_every_page_is_in_the_navigation_of_the_site():
    renamed = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md"}  # as docs/site_pages.py does
    navigation = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert navigation == {renamed.get(name, Path(name).name.lower()) for name in PAGE_NAMES}


def test_the_requirements_accept_the_torch_of_kaggle_and_colab():
    """Kaggle's and Colab's images bring PyTorch 2.11 and torchvision 0.26; histo must not ask pip for others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert "2.11.0+cu130" in requirements["torch"]
    assert "0.26.0+cu130" in requirements["torchvision"]
    assert "2.9.1" not in requirements["torch"]  # CVE-2026-24747: code execution when a checkpoint is loaded
