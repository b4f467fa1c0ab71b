"""Commands, links and files that the documentation names: whoever types them gets what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests import documented
from tests.documented import PAGES, ROOT

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def commands(page: Path) -> list[list[str]]:
    """Arguments of every ``sweep.py`` that a page tells to type."""
    return [arguments for command in documented.commands(page) for arguments in command.arguments]


def parsed(group: click.Group, arguments: list[str], parent: click.Context | None = None) -> None:
    """As click does before it runs a command; raises what it would tell."""
    context = group.make_context("sweep.py", list(arguments), parent=parent)
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None, f"no command {name}"
    if isinstance(command, click.Group):
        parsed(command, rest, context)
    elif not {"--help", "-h"} & set(rest):
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_and_take_these_options(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_DATA", "/data")  # what a page sets by `export`, or a cluster's file holds
    monkeypatch.setenv("SWEEP_NAME", "lab")
    from sweep import cli

    wrong = []
    for arguments in commands(page):
        if arguments and arguments != ["--version"] and "--help" not in arguments:
            try:
                parsed(cli, arguments)
            except click.UsageError as error:
                wrong.append((arguments, error.message))
    assert wrong == []


def test_a_command_that_is_not_there_would_be_seen() -> None:
    from sweep import cli

    for arguments in (["choose", "demo"], ["select", "demo", "--best"], ["compare", "demo"]):
        with pytest.raises(click.UsageError):
            parsed(cli, arguments)


def test_readme_shows_the_commands() -> None:
    shown = {arguments[0] for arguments in commands(ROOT / "README.md") if arguments}
    assert {"data", "run", "select", "evaluate", "report", "export", "ui"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
    targets += [image for _, image in IMAGE.findall(text) if "://" not in image]
    assert [target for target in targets if not (page.parent / target).exists()] == []
    assert [image for words, image in IMAGE.findall(text) if len(words) < 15] == [], "a picture without a description"


def test_reference_is_built(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pdoc", "orchestrator.models", "trainables.target", "-o", str(tmp_path)]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True, timeout=120)
    assert "load_champion" in (tmp_path / "orchestrator/models.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no other Python here")
def test_python_without_the_packages_is_told(tmp_path: Path) -> None:
    other = ["/usr/bin/python3", "-I", str(ROOT / "sweep.py"), "--help"]
    done = subprocess.run(other, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    if done.returncode == 0:
        pytest.skip("that Python has the packages")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error") == 1
    assert ".venv" in done.stderr
