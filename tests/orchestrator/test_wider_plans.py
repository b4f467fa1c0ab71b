"""Plans with pooled targets, several aims, own spaces, further parameters and published protocols."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.planning import pool
from orchestrator.selection import choose
from tests.orchestrator.plans import EBA, V1, open_ledger, small_plan, worker_details
from trainables.errors import ConfigError
from trainables.target import Target

POOL = Target("demo", ("subj01", "subj02", "subj03"), "lh", "V1v")
V1_CONTRASTIVE = StudyKey(V1, "contrastive")
OWN = """
from search_spaces import Space
SPACE = Space("mine", methods=("contrastive",), suggest={"contrastive": lambda trial, cutoffs: {
    "temperature": trial.suggest_float("temperature", 0.1, 0.2), "layer_cutoff": cutoffs[0], "learning_rate": 1e-3}})
"""


def test_pooled_methods_get_the_targets_of_several_subjects_and_the_others_the_rest(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, targets=(V1, EBA, POOL), methods=("untuned", "pooled-avg", "contrastive"))
    assert set(plan.studies) == {
        StudyKey(POOL, "pooled-avg"),
        *(StudyKey(target, method) for target in (V1, EBA) for method in ("untuned", "contrastive")),
    }


def test_pools_hold_all_subjects_of_an_roi_or_all_but_one() -> None:
    singles = [Target("demo", (name,), "lh", "V1v") for name in POOL.subjects] + [EBA]
    assert pool(singles, leave_one_out=False) == [POOL]
    without_one = [("subj02", "subj03"), ("subj01", "subj03"), ("subj01", "subj02")]
    assert [target.subjects for target in pool(singles, leave_one_out=True)] == [POOL.subjects, *without_one]
    with pytest.raises(ConfigError, match="two or more subjects"):
        pool([V1, EBA], leave_one_out=True)


def test_whole_pools_are_told_from_those_that_leave_a_subject_out(tmp_path: Path) -> None:
    part = Target("demo", ("subj01", "subj02"), "lh", "V1v")
    other = Target("demo", ("subj01", "subj02"), "rh", "V1v")
    plan = small_plan(tmp_path, targets=(V1, POOL, part, other), methods=("pooled-avg",))
    assert plan.pools == [POOL, other]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scores": ("transfer",)}, "expected encoding"),
        ({"scores": ("encoding", "beauty")}, "'beauty'; expected some of encoding, transfer, classification"),
        ({"optimise": ("encoding", "transfer")}, "'transfer', which --scores lacks"),
        ({"scores": ("encoding", "transfer")}, "subj01/lh/V1v leaves no other subject"),
        ({"space": "published", "trials": 1, "explore": ("epochs",)}, "fixes the recipe"),
        ({"space": "published", "trials": 3}, "fixes the recipe"),
        ({"scores": ("encoding", "classification")}, "without --labelled"),
        ({"explore": ("colour",)}, "--explore holds 'colour'"),
        ({"protocol": "published-a"}, "no validation part"),
        (
            {
                "protocol": "published-b",
                "space": "published",
                "trials": 1,
                "scores": ("encoding", "classification"),
                "labelled": "x",
            },
            "no validation part",
        ),
    ],
)
def test_plan_that_cannot_be_is_told(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        small_plan(tmp_path, **changes)


def test_wider_plan_survives_its_file(tmp_path: Path) -> None:
    plan = small_plan(
        tmp_path,
        targets=(V1, V1.of_subject("subj02")),
        space="mine.py",
        space_text=OWN,
        explore=("epochs", "weight_decay"),
        scores=("encoding", "transfer"),
        optimise=("encoding", "transfer"),
        encoder="pls",
    )
    again = SweepPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.differences(plan) == []
    assert again.differences(small_plan(tmp_path)) != []


def test_own_space_and_further_parameters_reach_the_trial(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, space="mine.py", space_text=OWN, explore=("batch_size", "epochs"), encoder="pls")
    ledger = open_ledger(plan)
    configs = [ledger.ask(V1_CONTRASTIVE).config for _ in range(6)]
    for config in configs:
        assert (config.layer_cutoff, config.learning_rate, config.encoder) == ("features.2", 1e-3, "pls")
        assert config.epochs in {2, 4, 9}
        assert config.batch_size in {4, 8, 16, 32}
        assert all(epoch <= config.epochs for epoch in config.score_epochs)
    assert all(0.1 <= config.temperature <= 0.2 for config in configs)
    assert len({(config.epochs, config.batch_size) for config in configs}) > 1


def test_first_trial_is_the_recipe_whatever_else_is_explored(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, explore=("batch_size", "epochs", "weight_decay"))
    config = open_ledger(plan).ask(V1_CONTRASTIVE).config
    assert (config.temperature, config.learning_rate, config.layer_cutoff) == (0.3, 1e-4, "features.12")
    assert (config.batch_size, config.epochs) == (32, 9)
    assert config.weight_decay == pytest.approx(1e-6)


def test_published_space_has_one_trial_scored_once(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, space="published", protocol="published-a", trials=1, methods=("regression",), epochs=4)
    config = open_ledger(plan).ask(StudyKey(V1, "regression")).config
    assert (config.epochs, config.scored_epochs, config.protocol) == (10, (10,), "published-a")


def test_two_aims_are_both_told_and_nothing_is_pruned(tmp_path: Path) -> None:
    aims = ("encoding", "transfer")
    ledger = open_ledger(small_plan(tmp_path, targets=(V1, V1.of_subject("subj02")), scores=aims, optimise=aims))
    points = [(0.5, 0.1), (0.3, 0.3), (0.2, 0.2)]
    for encoding, transfer in points:
        trial = ledger.ask(V1_CONTRASTIVE)
        assert not ledger.report(trial, 1, encoding)
        ledger.finish(
            trial,
            "complete",
            encoding,
            worker_details(1, {"features.2": encoding}, 1) | {"scores": {"transfer": transfer}},
        )
    study = ledger.study(V1_CONTRASTIVE)
    assert [tuple(trial.values) for trial in study.trials] == points
    assert {trial.number for trial in study.best_trials} == {0, 1}
    records = ledger.study_records(V1_CONTRASTIVE)
    assert [(record.value, record.scores) for record in records] == [(e, {1: e}) for e, _ in points]
    assert ledger.best(V1_CONTRASTIVE)[0].number == 0
    assert choose(ledger)[0].val_r == 0.5


@pytest.mark.parametrize("scores", [{}, {"transfer": math.nan}])
def test_trial_that_lacks_an_aim_has_failed(tmp_path: Path, scores: dict[str, float]) -> None:
    aims = ("encoding", "transfer")
    ledger = open_ledger(small_plan(tmp_path, targets=(V1, V1.of_subject("subj02")), scores=aims, optimise=aims))
    trial = ledger.ask(V1_CONTRASTIVE)
    ledger.report(trial, 9, 0.5)
    ledger.finish(trial, "complete", 0.5, worker_details(9, {"features.2": 0.5}, 9) | {"scores": scores})
    (record,) = ledger.study_records(V1_CONTRASTIVE)
    assert record.state == "failed"
    assert "transfer" in (record.error or "")
