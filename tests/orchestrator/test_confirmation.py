"""Winners on fresh seeds; scores that a planted truth gives, nothing is trained."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from orchestrator.confirmation import confirmed, confirming_plan
from orchestrator.ledger import Ledger
from orchestrator.plan import SweepPlan
from orchestrator.selection import choose
from orchestrator.storage import SweepStorage
from tests.orchestrator.plans import EBA_CONTRASTIVE, V1_CONTRASTIVE, complete, open_ledger, small_plan
from trainables.errors import ConfigError

LUCKY, SOLID = {0: 0.40, 1: 0.20, 2: 0.21, 3: 0.22}, {0: 0.39, 1: 0.35, 2: 0.30, 3: 0.37}
"""Validation r by seed offset: the lucky trial wins on the sweep's seed alone."""


def searched(tmp_path: Path) -> Ledger:
    ledger = open_ledger(small_plan(tmp_path, trials=4))
    for score in (LUCKY[0], SOLID[0], 0.1):
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: score})
    return ledger


def confirming(ledger: Ledger, tmp_path: Path, candidates: int = 2) -> Ledger:
    plan = confirming_plan(ledger, SweepStorage(str(tmp_path), "small-confirm"), seeds=3, candidates=candidates)
    (tmp_path / "small-confirm").mkdir(exist_ok=True)
    return open_ledger(plan)


def test_candidates_run_with_their_own_parameters_on_fresh_seeds_unpruned(tmp_path: Path) -> None:
    ledger = searched(tmp_path)
    again = confirming(ledger, tmp_path)
    assert list(again.plan.studies.items()) == [(V1_CONTRASTIVE, 6)], "EBA has no complete trial"
    best = ledger.best(V1_CONTRASTIVE, 2)
    for place in range(6):
        trial = again.ask(V1_CONTRASTIVE)
        parameters = {name: trial.config.to_dict()[name] for name in ("temperature", "layer_cutoff", "learning_rate")}
        assert parameters == {name: best[place // 3].config[name] for name in parameters}
        assert trial.config.seed == ledger.plan.seed + 1 + place % 3
        assert not any(again.report(trial, epoch, -0.5 - place) for epoch in (1, 3))
        again.finish(trial, "complete", 0.1, {"readout_layer": "features.2"})


def test_driver_that_dies_between_two_steps_of_asking_mixes_nothing_up(tmp_path: Path) -> None:
    again = confirming(searched(tmp_path), tmp_path)
    study = again.study(V1_CONTRASTIVE)
    study.enqueue_trial(dict(again.plan.candidates[V1_CONTRASTIVE.name][0]["params"]))
    taken = [Ledger(again.plan).ask(V1_CONTRASTIVE).trial.params for _ in range(6)]
    assert taken == [dict(again.plan.candidates[V1_CONTRASTIVE.name][place // 3]["params"]) for place in range(6)]


def test_lucky_seed_is_not_chosen(tmp_path: Path) -> None:
    ledger = searched(tmp_path)
    again = confirming(ledger, tmp_path)
    for scores in (LUCKY, SOLID):
        for offset in (1, 2, 3):
            trial = again.ask(V1_CONTRASTIVE)
            assert trial.config.seed == offset
            complete(again, trial, {9: scores[offset]})
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.9})  # the confirmed sweep goes on meanwhile
    rows = confirmed(ledger, again)
    assert [row.best for row in rows] == [False, True]
    assert [row.chosen_r for row in rows] == [0.40, 0.39]
    expected = statistics.fmean([0.35, 0.30, 0.37])
    low, high = stats.t.interval(0.95, 2, loc=expected, scale=stats.sem([0.35, 0.30, 0.37]))
    assert rows[1].mean == pytest.approx(expected)
    assert rows[1].half_width == pytest.approx((high - low) / 2)
    record = again.best(V1_CONTRASTIVE)[0]  # what leaderboard, MLflow and `select` go by
    assert record.number == 3, "0.35 is nearest to the mean"
    assert record.value == pytest.approx(expected)
    assert len(again.best(V1_CONTRASTIVE, 6)) == 6
    (winner,) = choose(again)
    assert winner.number == 3
    assert winner.val_r == pytest.approx(expected)


def test_plan_survives_its_file(tmp_path: Path) -> None:
    plan = confirming_plan(searched(tmp_path), SweepStorage(str(tmp_path), "small-confirm"), 3, 1)
    assert SweepPlan.from_dict(plan.to_dict()) == plan
    old = {name: value for name, value in plan.to_dict().items() if name not in ("candidates", "seeds", "ledger_name")}
    assert SweepPlan.from_dict(old).candidates == {}


def test_what_cannot_be_confirmed_is_told(tmp_path: Path) -> None:
    place = SweepStorage(str(tmp_path), "small-confirm")
    with pytest.raises(ConfigError, match="no complete tuned trial yet"):
        confirming_plan(open_ledger(small_plan(tmp_path)), place, 3, 1)
    ledger = open_ledger(small_plan(tmp_path / "other", trials=3))
    complete(ledger, ledger.ask(EBA_CONTRASTIVE), {9: 0.3})
    with pytest.raises(ConfigError, match="--seeds is 1 and --candidates 1; expected at least 2 and 1"):
        confirming_plan(ledger, place, 1, 1)
    twice = Ledger(replace(ledger.plan, candidates={"x": [{}]}, seeds=2))
    with pytest.raises(ConfigError, match="there is nothing to confirm"):
        confirming_plan(twice, place, 3, 1)
