from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import InMemoryStorage

from orchestrator.plan import SweepPlan, default_grace_epochs, parse_list, stable_seed
from tests.orchestrator.plans import EBA, V1, small_plan
from trainables.errors import ConfigError, StorageError


@pytest.mark.parametrize(
    ("epochs", "grace", "scored"),
    [
        (1, 1, (1,)),
        (2, 1, (1, 2)),
        (3, 1, (1, 3)),
        (9, 1, (1, 3, 9)),
        (9, 3, (3, 9)),
        (10, 2, (2, 6, 10)),
        (30, 4, (4, 12, 30)),
        (30, 10, (10, 30)),
    ],
)
def test_rungs_and_score_epochs(tmp_path: Path, epochs: int, grace: int, scored: tuple[int, ...]) -> None:
    plan = small_plan(tmp_path, epochs=epochs, grace_epochs=grace)
    assert plan.score_epochs == scored


@pytest.mark.parametrize("epochs, grace", [(1, 1), (2, 1), (3, 1), (4, 2), (9, 3), (10, 4), (12, 4), (30, 10)])
def test_grace_is_a_third_by_default(epochs: int, grace: int) -> None:
    assert default_grace_epochs(epochs) == grace


@pytest.mark.parametrize("epochs", range(1, 41))
def test_scores_fall_on_the_rungs_of_the_pruner(tmp_path: Path, epochs: int) -> None:
    plan = small_plan(tmp_path, epochs=epochs)
    pruner = SuccessiveHalvingPruner(min_resource=plan.grace_epochs, reduction_factor=plan.reduction_factor)
    study = optuna.create_study(storage=InMemoryStorage(), direction="maximize", pruner=pruner)
    trial = study.ask()
    rungs: dict[int, int] = {}  # rungs passed by epoch; a study's best trial passes every one
    for epoch in range(1, epochs):
        trial.report(1.0, epoch)
        assert not trial.should_prune()
        rungs[epoch] = len([name for name in study.trials[0].system_attrs if name.startswith("completed_rung_")])
    judged = [epoch for epoch in rungs if rungs[epoch] > rungs.get(epoch - 1, 0)]
    assert (*judged, epochs) == plan.score_epochs


def test_studies_are_baselines_first_and_cover_every_target(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, methods=("regression", "contrastive", "untuned"), trials=7)
    assert [(key.name, budget) for key, budget in plan.studies.items()] == [
        ("subj01/lh/V1v/untuned", 1),
        ("subj02/rh/EBA/untuned", 1),
        ("subj01/lh/V1v/contrastive", 7),
        ("subj02/rh/EBA/contrastive", 7),
        ("subj01/lh/V1v/regression", 7),
        ("subj02/rh/EBA/regression", 7),
    ]


def test_plan_survives_json(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    assert SweepPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda plan: plan.pop("trials"), id="field missing"),
        pytest.param(lambda plan: plan.update(surprise=1), id="field unknown"),
        pytest.param(lambda plan: plan.update(plan_version=99), id="other version"),
        pytest.param(lambda plan: plan.pop("plan_version"), id="no version"),
    ],
)
def test_plan_of_another_release_is_refused(tmp_path: Path, damage: Any) -> None:
    content = small_plan(tmp_path).to_dict()
    damage(content)
    with pytest.raises(StorageError, match="version"):
        SweepPlan.from_dict(content)


@pytest.mark.parametrize("content", [None, [], "plan", 3])
def test_plan_that_is_no_mapping_is_refused(content: Any) -> None:
    with pytest.raises(StorageError):
        SweepPlan.from_dict(content)


def test_differences_name_what_changes_trials(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    assert plan.differences(small_plan(tmp_path)) == []
    assert plan.differences(replace(plan, epochs=10)) == ["epochs"]
    assert plan.differences(replace(plan, targets=(V1,), trials=3)) == ["targets", "trials"]
    assert plan.differences(replace(plan, weights_digest="0")) == ["weights_digest"]


def test_where_a_sweep_runs_is_no_difference(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    moved = replace(plan, profile="gpu", version="9", git_commit="f00", tracking_uri="http://other", ledger="other")
    assert plan.differences(moved) == []


def test_plan_read_back_does_not_differ(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    assert SweepPlan.from_dict(json.loads(json.dumps(plan.to_dict()))).differences(plan) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, "--trials is 0; expected at least 1"),
        ({"epochs": 0}, "--epochs is 0; expected at least 1"),
        ({"batch_size": 1}, "--batch-size is 1; expected at least 2"),
        ({"keep_weights": 0}, "--keep-weights is 0; expected at least 1"),
        ({"targets": ()}, "no target is left"),
        ({"methods": ()}, "--methods holds 'nothing'"),
        ({"methods": ("contrastive", "guess")}, "--methods holds 'guess'"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small_plan(tmp_path, **changes)


def test_study_names_are_those_of_targets(tmp_path: Path) -> None:
    names = [key.name for key in small_plan(tmp_path).studies]
    assert names == [f"{V1.name}/contrastive", f"{EBA.name}/contrastive"]


def test_stable_seed_depends_on_every_part() -> None:
    assert stable_seed(0, "a", 1) == stable_seed(0, "a", 1)
    seeds = {stable_seed(s, name, n) for s in range(3) for name in ("a", "b") for n in range(10)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(("text", "parts"), [("a, b", ["a", "b"]), ("a", ["a"]), (" ,", []), ("a,,b,", ["a", "b"])])
def test_lists_are_read(text: str, parts: list[str]) -> None:
    assert list(parse_list(text)) == parts
