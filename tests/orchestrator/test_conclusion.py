from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.conclusion import STUDIES_WITHOUT_SCORE, Launch, run_to_the_end
from orchestrator.launch import Outcome
from orchestrator.node_watch import INTERRUPTED
from orchestrator.plan import SweepPlan
from tests.orchestrator.report_results import Maker, Size

SMALL = Size(subjects=("subj01",), rois=("V1v",), trials=1)


def ends(plan: SweepPlan, *, finished: bool = True, tracked: bool = True) -> Launch:
    """A launch whose trials ended elsewhere."""
    return lambda console, quiet: (plan, Outcome(finished, tracked))


def interrupt(console: Console, quiet: bool) -> Any:
    raise KeyboardInterrupt


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path, SMALL)


def test_finished_search_shows_its_leaderboard_and_what_is_next(
    maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    maker.run_trials()
    place = str(maker.places.base)
    assert run_to_the_end(ends(maker.plan), "small", place, None, False) == 0
    told = capsys.readouterr().out
    for command in ("select", "evaluate", "ui"):
        assert f"sweep.py {command} small --storage {place}" in told
    assert "val r" in told
    assert "stayed away" not in told


def test_what_is_next_joins_the_cluster_that_was_typed(
    maker: Maker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWEEP_ADDRESS", raising=False)
    place = str(maker.places.base)
    assert run_to_the_end(interrupt, "small", place, "10.0.0.1:6379", False) == INTERRUPTED
    maker.run_trials()
    assert run_to_the_end(ends(maker.plan), "small", place, "10.0.0.1:6379", False) == 0
    told = capsys.readouterr().out
    for command in ("resume", "select", "evaluate"):
        assert f"sweep.py {command} small --storage {place} --address 10.0.0.1:6379" in told
    assert f"sweep.py ui small --storage {place} --address" not in told


def test_json_is_all_that_scripts_see_on_stdout(maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    maker.run_trials()
    assert run_to_the_end(ends(maker.plan, tracked=False), "small", str(maker.places.base), None, True) == 0
    out, err = capsys.readouterr()
    assert out.startswith('{"sweep": "small"')
    assert out.count("\n") == 1
    assert "stayed away" in err


def test_studies_without_a_score_are_named(maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    for key in maker.plan.studies:
        trial = maker.ledger.ask(key)
        maker.ledger.finish(trial, "failed", None, {})
    code = run_to_the_end(ends(maker.plan), "small", str(maker.places.base), None, False)
    assert code == STUDIES_WITHOUT_SCORE
    told = capsys.readouterr().out
    assert all(f"{key.target.name}/{key.method}" in told for key in maker.plan.studies)
    assert "Next:" not in told


@pytest.mark.parametrize("how", ["by a signal", "by a key"])
def test_interrupted_sweep_says_how_to_go_on(maker: Maker, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    launch = ends(maker.plan, finished=False) if how == "by a signal" else interrupt
    place = str(maker.places.base)
    assert run_to_the_end(launch, "small", place, None, False) == INTERRUPTED
    assert f"sweep.py resume small --storage {place}" in capsys.readouterr().out


def test_interrupted_before_there_is_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_the_end(interrupt, "small", str(tmp_path), None, False) == INTERRUPTED
    assert "nothing was made" in capsys.readouterr().out
