"""Passwords in addresses: taken out of whatever is kept, shown or inherited."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.launch import planned
from orchestrator.opening import write_plan
from orchestrator.passwords import not_inherited, take_from_environment, without_password, without_passwords
from orchestrator.planning import SweepOptions
from tests.sweeps import SMALL, at_once
from trainables.errors import ConfigError

NAMES = ("PGPASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No password in the environment before, and none afterwards."""
    for name in (*NAMES, "SWEEP_LEDGER", "SWEEP_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that it is put back whatever the test does
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("address", "left", "password"),
    [
        ("postgresql://sweep:secret@host:5432/ledger", "postgresql://sweep@host:5432/ledger", "secret"),
        ("postgresql+psycopg://sweep:secret@host/ledger", "postgresql+psycopg://sweep@host/ledger", "secret"),
        ("postgresql://sweep:p%40ss%2Fw%3A@host/ledger", "postgresql://sweep@host/ledger", "p@ss/w:"),
        ("postgresql://sweep:p@ss/w:rd@host/ledger", "postgresql://sweep@host/ledger", "p@ss/w:rd"),
        ("postgresql://sweep:secret@host/ledger?password=secret", "postgresql://sweep@host/ledger", "secret"),
        ("postgresql://:secret@host/ledger", "postgresql://host/ledger", "secret"),
        ("postgresql://sweep@host/ledger?password=secret", "postgresql://sweep@host/ledger", "secret"),
        (
            "postgresql://sweep@host/ledger?password=secret&sslmode=require",
            "postgresql://sweep@host/ledger?sslmode=require",
            "secret",
        ),
        (
            "postgresql://host/ledger?user=sweep&password=secret&sslmode=require",
            "postgresql://host/ledger?user=sweep&sslmode=require",
            "secret",
        ),
    ],
)
def test_password_of_a_database_goes_where_libpq_looks(address: str, left: str, password: str) -> None:
    assert without_passwords(address, None) == (left, None)
    assert os.environ["PGPASSWORD"] == password
    assert password not in without_password(address)
    assert without_password(left) == left


def test_password_of_mlflow_goes_where_its_client_looks() -> None:
    assert without_passwords(None, "https://me:p%40ss@host:5000/path") == (None, "https://host:5000/path")
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss")


@pytest.mark.parametrize(
    "address",
    [
        None,
        "ledger.journal",
        "/a:b@c/ledger.journal",
        "sqlite:///a/b.db",
        "postgresql://sweep@host/ledger",
        "http://host:5000/of@me",
    ],
)
def test_address_without_a_password_is_left_alone(address: str | None) -> None:
    assert without_passwords(address, address) == (address, address)
    assert address is None or without_password(address) == address
    assert not set(NAMES) & set(os.environ)


@pytest.mark.parametrize(
    ("ledger", "tracking_uri", "words"),
    [
        ("mysql://sweep:secret@host/ledger", None, "--ledger holds a password of mysql://"),
        ("postgresql://a:one-secret@h/ledger", "postgresql://b:two-secret@h/mlflow", "put both into ~/.pgpass"),
    ],
)
def test_password_that_has_no_place_is_refused(ledger: str, tracking_uri: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        without_passwords(ledger, tracking_uri)
    assert "secret" not in str(refused.value)
    assert "PGPASSWORD" not in os.environ


def test_settings_are_cleaned_for_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_LEDGER", "postgresql://sweep:secret@host/ledger")
    monkeypatch.setenv("SWEEP_TRACKING_URI", "http://host:5000")
    take_from_environment()
    assert os.environ["SWEEP_LEDGER"] == "postgresql://sweep@host/ledger"
    assert os.environ["SWEEP_TRACKING_URI"] == "http://host:5000"
    assert os.environ["PGPASSWORD"] == "secret"


def test_what_is_started_inherits_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    without_passwords("postgresql://sweep:one-secret@host/ledger", "http://me:two-secret@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "three-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the bucket")
    line = [sys.executable, "-c", "import os; print(dict(os.environ))"]
    with not_inherited():
        seen = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "secret" not in seen
    assert "of the bucket" in seen  # a worker writes its weights there
    assert [os.environ[name] for name in NAMES] == ["one-secret", "me", "two-secret", "three-secret"]


def test_no_plan_holds_a_password(tmp_path: Path, demo_root: Path) -> None:
    options = SweepOptions(
        data=str(demo_root),
        name="kept",
        storage=str(tmp_path),
        space="smoke",
        weights="random",
        ledger="postgresql://sweep:one-secret@host/ledger",
        tracking_uri="http://me:two-secret@host:5000",
    )
    said = io.StringIO()
    storage, plan, _, _ = planned(options, Console(file=said))
    write_plan(storage, plan)
    kept = Path(str(storage.plan_file)).read_text()
    assert "postgresql://sweep@host/ledger" in kept
    assert "http://host:5000" in kept
    assert "secret" not in kept + said.getvalue() + repr(plan)


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ("--ledger=postgresql://sweep:secret@host/ledger", "pgpass"),
        ("--tracking-uri=http://me:secret@host", "credentials"),
    ],
)
def test_typed_password_is_refused(demo_root: Path, tmp_path: Path, option: str, place: str) -> None:
    """The list of processes has it by then; the next time it shall not."""
    done = at_once("run", "--data", demo_root, "--storage", tmp_path, *SMALL, option)
    assert done.returncode == 1
    assert place in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_password_in_a_setting_is_taken_and_not_shown(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_LEDGER", "postgresql://sweep:secret@127.0.0.1:1/ledger")
    done = at_once("run", "--data", demo_root, "--storage", tmp_path, *SMALL)
    assert done.returncode == 1
    assert "ledger postgresql://sweep@127.0.0.1:1/ledger cannot be opened" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert os.environ["PGPASSWORD"] == "secret"
