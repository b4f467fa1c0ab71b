from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FixedTrial

from search_spaces import EXTRAS, SPACES, Space, read_space, space_from_text, space_named, suggest_extras
from search_spaces.methods import MIXED, SUGGEST, contrastive
from trainables.config import METHODS, TrialConfig
from trainables.errors import ConfigError
from trainables.models.backbone import BACKBONES
from trainables.target import Target
from trainables.tuning.objectives import OBJECTIVES

CUTOFFS = ("features.2", "features.12", "output")
POINT = {"temperature": 0.07, "layer_cutoff": "features.12", "learning_rate": 3e-4}

# arXiv 2410.06067: contrastive temperature 0.3, the whole AlexNet, Adam with 1e-4; 30 epochs, regression 75.
PUBLISHED = {"temperature": 0.3, "layer_cutoff": "output", "learning_rate": 1e-4}
EXPLORED = {
    "untuned": set[str](),
    "contrastive": {"temperature", "layer_cutoff", "learning_rate"},
    "regression": {"layer_cutoff", "learning_rate"},
    "pooled-avg": {"temperature", "layer_cutoff", "learning_rate"},
    "pooled-const": {"temperature", "layer_cutoff", "learning_rate"},
}
STUDIES = [(name, method) for name, space in SPACES.items() for method in space.methods]


def target_of(method: str) -> Target:
    return Target("demo", ("subj01", "subj02") if method.startswith("pooled") else ("subj01",), "lh", "V1v")


def config_of(method: str, space: Space, trial: optuna.trial.BaseTrial) -> TrialConfig:
    fields = {"epochs": space.epochs_of(method, space.epochs), "batch_size": space.batch_size}
    return TrialConfig(target_of(method), method, **{**fields, **space.suggestion(method)(trial, CUTOFFS)})


def test_every_method_has_a_space() -> None:
    assert set(SUGGEST) == set(METHODS) == set(EXPLORED)


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


@pytest.mark.parametrize(("name", "method"), STUDIES)
def test_first_trial_is_the_published_recipe(name: str, method: str) -> None:
    space = space_named(name)
    first = space.starting_point(method, CUTOFFS)
    study = optuna.create_study()
    study.enqueue_trial(first)
    trial = study.ask()
    config = config_of(method, space, trial)
    assert trial.params == first
    if method == "untuned":
        assert (config.layer_cutoff, config.epochs) == ("output", 0)
        return
    assert (config.layer_cutoff, config.learning_rate) == ("output", 1e-4)
    if method != "regression":
        assert (config.temperature, config.objective) == (0.3, "info_nce")


@pytest.mark.parametrize(("name", "method"), STUDIES)
def test_whatever_is_drawn_makes_a_valid_trial(name: str, method: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [config_of(method, space_named(name), study.ask()) for _ in range(30)]  # raises if one is invalid
    assert {config.method for config in configs} == {method}


def test_published_space_is_the_recipe_and_explores_nothing() -> None:
    space = space_named("published")
    assert not space.searched
    assert space.trials == 1
    trial = FixedTrial({})
    contrastive_config = config_of("contrastive", space, trial)
    assert (contrastive_config.epochs, contrastive_config.batch_size) == (30, 1024)
    assert {name: getattr(contrastive_config, name) for name in PUBLISHED} == PUBLISHED
    assert config_of("regression", space, trial).epochs == 75
    assert space.starting_point("contrastive", CUTOFFS) == {}


def test_objectives_are_all_drawn_and_the_mixed_one_has_its_weight() -> None:
    space = space_named("objectives")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [config_of("contrastive", space, study.ask()) for _ in range(200)]
    assert {config.objective_name for config in configs} == {*OBJECTIVES, MIXED}
    assert {config.mse_weight > 0 for config in configs if config.objective_name != MIXED} == {False}


@pytest.mark.parametrize("method", ["contrastive", "regression"])
def test_cutoffs_are_those_that_the_weights_allow(method: str) -> None:
    allowed = ("features.2", "features.5")
    trial = FixedTrial({**POINT, "layer_cutoff": "features.5"})
    SUGGEST[method](trial, allowed)
    distribution = trial.distributions["layer_cutoff"]
    assert isinstance(distribution, CategoricalDistribution)
    assert distribution.choices == allowed
    assert space_named("smoke").starting_point(method, allowed)["layer_cutoff"] == "features.5"
    with pytest.raises(ValueError, match=r"features\.12"):
        SUGGEST[method](FixedTrial(POINT), allowed)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_are_possible(space: Any) -> None:
    assert space.deepest_cutoff in [*BACKBONES["alexnet"].readout_layers, "convolutional", "output"]
    assert min(space.trials, space.epochs) >= 1
    assert space.batch_size >= 2
    assert space.rois
    assert space.description


def test_unknown_space_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'huge'; expected one of smoke, early_visual, full"):
        space_named("huge")


@pytest.mark.parametrize("names", [(), ("batch_size",), EXTRAS])
def test_extras_stay_within_what_the_sweep_would_have(names: tuple[str, ...]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest_extras(study.ask(), names, epochs=12, batch_size=64) for _ in range(50)]
    assert all(set(values) == set(names) for values in drawn)
    if "batch_size" in names:
        assert {values["batch_size"] for values in drawn} == {8, 16, 32, 64}
    if "epochs" in names:
        assert {values["epochs"] for values in drawn} == {3, 6, 12}


OWN = """
from search_spaces import Space
from search_spaces.methods import contrastive

def warm(trial, cutoffs):
    return {**contrastive(trial, cutoffs), "temperature": 0.5}

SPACE = Space("mine", methods=("contrastive",), rois=("V1v",), trials=2, epochs=4, suggest={"contrastive": warm})
"""


def test_own_space_is_read_from_a_file_and_made_again_from_its_text(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    text, space = read_space(str(tmp_path / "mine.py"))
    again = space_from_text(text, "mine.py")
    for found in (space, again):
        assert (found.rois, found.trials) == (("V1v",), 2)
        assert config_of("contrastive", found, FixedTrial(POINT)).temperature == 0.5
    assert space.suggestion("regression") is not contrastive


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("", "holds no SPACE"),
        ("1 / 0", "fails with ZeroDivisionError"),
        ("SPACE = (", "fails with SyntaxError"),
        ("from search_spaces import Space\nSPACE = Space('x', methods=('magic',))", "the method 'magic'"),
    ],
)
def test_own_space_that_is_none_is_told(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_space(str(path))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"trials": "many"}, "trials 'many'; expected a whole number of at least 1"),
        ({"trials": True}, "trials True"),
        ({"epochs": 0}, "epochs 0"),
        ({"epochs": 2.5}, "epochs 2.5"),
        ({"batch_size": 1}, "batch_size 1; expected a whole number of at least 2"),
        ({"methods": "contrastive"}, "methods 'contrastive'; expected a tuple of names"),
        ({"rois": (1,)}, r"rois \(1,\)"),
        ({"deepest_cutoff": 5}, "deepest_cutoff 5; expected a text"),
        ({"suggest": {"contrastive": "wide"}}, "expected a function for each method"),
        ({"first": {"contrastive": 3}}, "expected a mapping of values for each method"),
        ({"epoch_factors": {"regression": float("nan")}}, "expected a number above 0 for each method"),
        ({"trial_limits": {"pooled-avg": "1"}}, "expected a whole number for each method"),
        ({"searched": "no"}, "searched 'no'; expected True or False"),
    ],
    ids=str,
)
def test_field_of_another_kind_is_told(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Space("mine", **values)


def test_a_method_can_have_fewer_trials_than_the_sweep() -> None:
    space = Space("", methods=("untuned", "contrastive", "pooled-avg"), trial_limits={"pooled-avg": 2})
    assert [space.trials_of(method, 5) for method in space.methods] == [1, 5, 2]
    assert space.trials_of("pooled-avg", 1) == 1
    with pytest.raises(ConfigError, match="trial_limits.*pooled-avg.*at least 1"):
        Space("", trial_limits={"pooled-avg": 0})
    with pytest.raises(ConfigError, match="pooled-all"):
        Space("", trial_limits={"pooled-all": 2})
