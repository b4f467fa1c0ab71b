from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.leaderboard import leaderboard, leaderboard_table, unfinished_line
from orchestrator.ledger import Ledger
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.selection import choose
from orchestrator.status import seconds_left, status_lines
from orchestrator.storage import SweepStorage, write_json
from tests.orchestrator.plans import (
    EBA,
    EBA_CONTRASTIVE,
    V1,
    V1_CONTRASTIVE,
    V1_REGRESSION,
    V1_UNTUNED,
    open_ledger,
    small_plan,
    worker_details,
)
from trainables.errors import StorageError


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return small_plan(tmp_path, methods=("untuned", "contrastive", "regression"), trials=3)


def score(ledger: Ledger, key: StudyKey, *values: float | None) -> None:
    """A complete trial for each value; None is a pruned one that was ahead of all."""
    for value in values:
        trial = ledger.ask(key)
        if value is None:
            ledger.report(trial, 1, 0.99)
            ledger.finish(trial, "pruned", None, {})
        else:
            details = worker_details(min(1, trial.config.epochs), {"features.2": value}, trial.config.epochs)
            ledger.finish(trial, "complete", value, details)


def chosen(ledger: Ledger) -> list[tuple[str, float, bool]]:
    return [(selected.trial, selected.val_r, selected.champion) for selected in choose(ledger)]


def test_best_complete_trial_of_each_study_is_chosen(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    score(ledger, V1_UNTUNED, 0.2)
    score(ledger, V1_CONTRASTIVE, 0.1, 0.4, None)
    score(ledger, V1_REGRESSION, 0.3, 0.1, 0.2)
    score(ledger, EBA_CONTRASTIVE, None, 0.05)
    assert chosen(ledger) == [
        ("subj01/lh/V1v/untuned/00000", 0.2, False),
        ("subj01/lh/V1v/contrastive/00001", 0.4, True),
        ("subj01/lh/V1v/regression/00000", 0.3, False),
        ("subj02/rh/EBA/contrastive/00001", 0.05, True),
    ]


def test_tie_goes_to_the_earlier_trial_and_crowns_one_champion(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    score(ledger, V1_CONTRASTIVE, 0.4, 0.4)
    score(ledger, V1_REGRESSION, 0.4)
    assert [entry[0] for entry in chosen(ledger)] == [
        "subj01/lh/V1v/contrastive/00000",
        "subj01/lh/V1v/regression/00000",
    ]
    assert [entry[2] for entry in chosen(ledger)] == [True, False]


def test_test_scores_play_no_part(plan: SweepPlan, tmp_path: Path) -> None:
    ledger = open_ledger(plan)
    score(ledger, V1_CONTRASTIVE, 0.4, 0.3)
    before = choose(ledger)
    rows = [{"trial": "subj01/lh/V1v/contrastive/00001", "test_r": 0.99}]
    write_json(SweepStorage(str(tmp_path), "small").encoding_scores_file, {"rows": rows})
    assert choose(ledger) == before


def test_negative_scores_have_a_best_one_too(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    score(ledger, V1_CONTRASTIVE, -0.2, -0.1)
    assert chosen(ledger) == [("subj01/lh/V1v/contrastive/00001", -0.1, True)]


def test_nothing_to_choose_from_is_told(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    score(ledger, V1_CONTRASTIVE, None)
    with pytest.raises(StorageError, match="no complete trial yet; .*resume small"):
        choose(ledger)


def board(plan: SweepPlan, tmp_path: Path) -> list[Any]:
    return leaderboard(Ledger(plan), SweepStorage(str(tmp_path), "small"))


def test_leaderboard_ranks_within_a_target(plan: SweepPlan, tmp_path: Path) -> None:
    ledger = open_ledger(plan)
    score(ledger, V1_UNTUNED, 0.2)
    score(ledger, V1_CONTRASTIVE, 0.1, None, 0.15)
    score(ledger, V1_REGRESSION, 0.3)
    ledger.finish(ledger.ask(V1_REGRESSION), "failed", None, {}, "broken")
    ledger.ask(V1_REGRESSION)
    rows = board(plan, tmp_path)
    assert [(row.target, row.method, row.val_r) for row in rows[:3]] == [
        (V1.name, "regression", 0.3),
        (V1.name, "untuned", 0.2),
        (V1.name, "contrastive", 0.15),
    ]
    assert [row.target for row in rows[3:]] == [EBA.name] * 3
    assert [row.val_r for row in rows[3:]] == [None] * 3
    assert [row.best_of_target for row in rows] == [True, False, False, False, False, False]
    regression, _, contrastive = rows[:3]
    assert (regression.trials, regression.planned, regression.failed) == (2, 3, 1)
    assert (contrastive.trials, contrastive.pruned) == (3, 1)
    assert (contrastive.best_trial, contrastive.epoch) == ("subj01/lh/V1v/contrastive/00002", 1)
    ended, planned = 1 + 3 + 2, sum(plan.studies.values())
    assert unfinished_line(rows) == f"As of now: {ended} of {planned} trials have ended."
    assert unfinished_line([replace(row, trials=row.planned) for row in rows]) == ""


def test_best_of_a_target_is_marked_without_bold_and_fits_on_eighty_columns(plan: SweepPlan, tmp_path: Path) -> None:
    ledger = open_ledger(plan)
    for key, r in ((V1_UNTUNED, 0.2), (V1_CONTRASTIVE, 0.3)):
        score(ledger, key, r)
    rows = [replace(row, label="subj01/lh/FFA-1", layer_cutoff="features.12") for row in board(plan, tmp_path)]
    console = Console(file=(file := io.StringIO()), width=80)
    console.print(leaderboard_table(rows, 80))
    shown = file.getvalue()
    assert "contrastive*" in shown
    assert shown.count("*") == 2, "the best, and what the star means"
    assert "…" not in shown


def test_leaderboard_shows_the_parameters_that_a_method_has(plan: SweepPlan, tmp_path: Path) -> None:
    ledger = open_ledger(plan)
    for key in (V1_UNTUNED, V1_CONTRASTIVE, V1_REGRESSION):
        score(ledger, key, 0.2)
    rows = {row.method: row for row in board(plan, tmp_path)[:3]}
    assert (rows["contrastive"].temperature, rows["contrastive"].learning_rate) == (0.3, 1e-4)
    assert (rows["regression"].temperature, rows["regression"].learning_rate) == (None, 1e-4)
    assert (rows["untuned"].layer_cutoff, rows["untuned"].learning_rate) == (None, None)


def test_leaderboard_names_objectives_where_they_differ(plan: SweepPlan, tmp_path: Path) -> None:
    ledger = open_ledger(plan)
    for key in (V1_UNTUNED, V1_CONTRASTIVE, V1_REGRESSION):
        score(ledger, key, 0.2)
    rows = board(plan, tmp_path)
    assert {row.method: row.objective for row in rows[:3]} == {
        "contrastive": "info_nce",
        "regression": None,
        "untuned": None,
    }
    assert "objective" not in [column.header for column in leaderboard_table(rows, 100).columns]
    mixed = [replace(rows[0], objective="sigmoid+mse"), replace(rows[1], objective="info_nce")]
    (column,) = [column for column in leaderboard_table(mixed, 100).columns if column.header == "objective"]
    assert [str(cell) for cell in column.cells] == ["sigmoid+mse", "info_nce"]


@pytest.mark.parametrize(
    ("driven", "outlook"), [(True, "none ended in the last hour"), (False, "nobody runs it on this machine, `")]
)
def test_status_says_whether_somebody_runs_the_sweep(plan: SweepPlan, driven: bool, outlook: str) -> None:
    *_, sentence = status_lines(open_ledger(plan), "results", driven)
    assert outlook in str(sentence)
    assert ("resume small --storage results" in str(sentence)) != driven


def test_time_left_follows_the_pace(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    assert seconds_left(ledger) is None
    score(ledger, V1_CONTRASTIVE, 0.1)
    left = seconds_left(ledger)
    assert left is not None
    assert 0 <= left < 60 * ledger.trials_left()
    for key, budget in plan.studies.items():
        score(ledger, key, *[0.1] * (budget - (key == V1_CONTRASTIVE)))
    assert seconds_left(ledger) == 0
