from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FixedTrial

from search_spaces import BUDGETS, SUGGEST, budget_named, starting_point
from trainables.config import METHODS, TrialConfig
from trainables.errors import ConfigError
from trainables.models.backbone import BACKBONES
from trainables.target import Target

TARGET = Target("demo", ("subj01",), "lh", "V1v")
CUTOFFS = ("features.2", "features.12", "output")
POINT = {"temperature": 0.07, "layer_cutoff": "features.12", "learning_rate": 3e-4}

# arXiv 2410.06067: contrastive temperature 0.3, the whole AlexNet, Adam with 1e-4.
PUBLISHED = {"temperature": 0.3, "layer_cutoff": "output", "learning_rate": 1e-4}
EXPLORED = {
    "untuned": set[str](),
    "contrastive": {"temperature", "layer_cutoff", "learning_rate"},
    "regression": {"layer_cutoff", "learning_rate"},
}


def config_of(method: str, budget: str, values: dict[str, Any]) -> TrialConfig:
    chosen = BUDGETS[budget]
    fields = {"epochs": chosen.epochs, "batch_size": chosen.batch_size, **values}
    return TrialConfig(target=TARGET, method=method, **fields)


def test_every_method_has_a_space() -> None:
    assert set(SUGGEST) == set(METHODS) == set(EXPLORED)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("method", METHODS)
def test_suggestions_make_a_valid_trial(method: str, budget: str) -> None:
    values = SUGGEST[method](FixedTrial(POINT), CUTOFFS)
    config = config_of(method, budget, values)
    for name in EXPLORED[method]:
        assert getattr(config, name) == POINT[name]
    assert config.epochs == (0 if method == "untuned" else BUDGETS[budget].epochs)


@pytest.mark.parametrize("method", METHODS)
def test_exactly_what_is_meant_is_explored(method: str) -> None:
    trial = FixedTrial(POINT)
    SUGGEST[method](trial, CUTOFFS)
    assert set(trial.distributions) == EXPLORED[method]
    for name in EXPLORED[method] - {"layer_cutoff"}:
        distribution = trial.distributions[name]
        assert isinstance(distribution, FloatDistribution)
        assert distribution.log
        assert distribution.low < PUBLISHED[name] < distribution.high  # type: ignore[operator]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_first_trial_is_the_published_recipe(method: str, budget: str) -> None:
    first = starting_point(method, CUTOFFS)
    assert first == {name: PUBLISHED[name] for name in EXPLORED[method]}
    study = optuna.create_study()
    study.enqueue_trial(first)
    trial = study.ask()
    config = config_of(method, budget, SUGGEST[method](trial, CUTOFFS))
    assert {name: getattr(config, name) for name in EXPLORED[method]} == first
    assert trial.params == first


@pytest.mark.parametrize("method", ["contrastive", "regression"])
def test_cutoffs_are_those_that_the_weights_allow(method: str) -> None:
    allowed = ("features.2", "features.5")
    trial = FixedTrial({**POINT, "layer_cutoff": "features.5"})
    SUGGEST[method](trial, allowed)
    distribution = trial.distributions["layer_cutoff"]
    assert isinstance(distribution, CategoricalDistribution)
    assert distribution.choices == allowed
    assert starting_point(method, allowed)["layer_cutoff"] == "features.5"
    with pytest.raises(ValueError, match=r"features\.12"):
        SUGGEST[method](FixedTrial(POINT), allowed)


def test_untuned_reads_out_every_layer() -> None:
    assert SUGGEST["untuned"](FixedTrial({}), CUTOFFS) == {"layer_cutoff": "output", "epochs": 0}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_budgets_are_possible(budget: Any) -> None:
    layers = [*BACKBONES["alexnet"].readout_layers, "output"]
    assert budget.deepest_cutoff in layers
    assert budget.trials >= 1
    assert budget.epochs >= 1
    assert budget.batch_size >= 2
    assert budget.rois
    assert budget.description


def test_unknown_budget_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'huge'; expected one of smoke, early_visual, full"):
        budget_named("huge")
