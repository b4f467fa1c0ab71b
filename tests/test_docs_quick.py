"""Every command of README and docs is typed by a test, or it is said why not; those of seconds are typed here."""

from __future__ import annotations

import re

import pytest

from tests import documented
from tests.desk import Desk
from tests.documented import PAGES, ROOT, Command
from tests.promises import NOT_TYPED, PROMISED, PYTHON, Elsewhere, matches
from tests.walks import algonauts, desk, not_typed, own_data, promise_of, type_promised

COMMANDS = [command for page in PAGES for command in documented.commands(page)]
QUICK = list(
    {
        (command.page, command.text): command
        for command in COMMANDS
        if (promise := promise_of(command)) and promise.quick
    }.values()
)


def test_every_command_is_typed_or_said_why_not() -> None:
    lost = [
        (command.page, command.text) for command in COMMANDS if promise_of(command) is None and not not_typed(command)
    ]
    assert lost == [], "new in a page: add what it promises, or why no test types it, to tests/promises.py"
    both = [command.text for command in COMMANDS if promise_of(command) is not None and not_typed(command)]
    assert both == []


def test_a_command_that_nobody_types_would_be_seen() -> None:
    for text in ("python sweep.py choose mine", "python sweep.py delete mine", "mlflow gc"):
        command = Command("README.md", text, 0, True)
        assert promise_of(command) is None
        assert not not_typed(command)


def test_no_promise_is_of_a_command_that_is_gone() -> None:
    used = {id(promise_of(command)) for command in COMMANDS}
    assert [p.pattern for promises in PROMISED.values() for p in promises if id(p) not in used] == []
    assert set(PROMISED) <= {page.name for page in PAGES}


@pytest.mark.parametrize("elsewhere", NOT_TYPED, ids=lambda elsewhere: elsewhere.pattern)
def test_what_is_not_typed_is_on_a_page_and_its_reason_holds(elsewhere: Elsewhere) -> None:
    assert any(matches(command.text, elsewhere.pattern) for command in COMMANDS), "gone from the pages"
    for name in re.findall(r"(?:tests|benchmarks|cluster|\.ci)/[\w/.]*\w", elsewhere.why):
        assert (ROOT / name).exists(), name


def test_benchmarks_are_there_and_have_the_options() -> None:
    for command in COMMANDS:
        if found := re.match(r"python -m (benchmarks\.\w+)(.*)", command.text):
            text = (ROOT / f"{found[1].replace('.', '/')}.py").read_text()
            assert [option for option in re.findall(r"--[\w-]+", found[2]) if f'"{option}"' not in text] == []


def test_every_python_block_is_run_somewhere() -> None:
    assert set(PYTHON) == {page.name for page in PAGES if documented.blocks(page, "python")}
    for why in PYTHON.values():
        assert "/" not in why or (ROOT / why.split()[0]).exists()


@pytest.fixture(scope="module")
def quick_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = desk(tmp_path_factory.mktemp("quick") / "desk")
    algonauts(made)
    own_data(made)
    return made


@pytest.mark.parametrize("command", QUICK, ids=lambda command: f"{command.page}: {command.text}")
def test_quick_command_does_what_its_page_says(quick_desk: Desk, command: Command) -> None:
    promise = promise_of(command)
    assert promise is not None
    type_promised(quick_desk, command, promise)
