"""Commands that are shown must start where they are shown."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.hints import command, count, joined

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def started_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "sweep.py"), "run"])


def test_python_by_name_where_the_name_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.chdir(ROOT)
    assert command("status", "demo") == "python sweep.py status demo"


@pytest.mark.parametrize("path", ["/usr/bin", ""])
def test_interpreter_by_its_place_where_another_python_would_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command("status", "demo"))
    assert words == [sys.executable, str(ROOT / "sweep.py"), "status", "demo"]


def test_places_within_the_folder_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link = tmp_path / "bin/python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(link))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert command("list").startswith("bin/python ")


def test_what_is_shown_starts_when_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shown = command("list", "--storage", str(tmp_path / "my results"))
    done = subprocess.run(["sh", "-c", shown], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no sweep in" in done.stdout


def test_who_submitted_it_is_told_what_to_type_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_COMMAND", "ray submit cluster/gpu.yaml sweep.py --")
    assert command("status", "my demo") == "ray submit cluster/gpu.yaml sweep.py -- status 'my demo'"


def test_a_cluster_that_was_typed_is_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEP_ADDRESS", raising=False)
    assert joined("10.0.0.1:6379") == ("--address", "10.0.0.1:6379")
    assert joined(None) == ()
    monkeypatch.setenv("SWEEP_ADDRESS", "auto")
    assert joined("auto") == ()


def test_one_of_a_thing_is_no_plural() -> None:
    assert [count(n, "study", "studies") for n in (0, 1, 2)] == ["0 studies", "1 study", "2 studies"]
    assert count(1, "trial") == "1 trial"
