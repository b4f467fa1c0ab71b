"""From a trial that Optuna asks for to what it computes."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.plan import SweepPlan
from search_spaces import suggest_extras
from trainables.config import TrialConfig
from trainables.errors import ConfigError
from trainables.target import Target


def trial_config(plan: SweepPlan, method: str, target: Target, trial: optuna.trial.BaseTrial) -> TrialConfig:
    """What ``trial`` of ``method`` computes for ``target``, its values suggested by the plan's search space.

    Raises:
        ConfigError: the space suggests a value out of its range.
    """
    space = plan.search_space
    values: dict[str, Any] = {
        "epochs": space.epochs_of(method, plan.epochs),
        "batch_size": plan.batch_size,
        "backbone": plan.backbone,
        "seed": plan.seed + 1 + trial.number % plan.seeds if plan.seeds else plan.seed,
        "encoder": plan.encoder,
        "protocol": plan.protocol,
    }
    values |= space.suggestion(method)(trial, plan.cutoffs)
    if values["epochs"]:
        values |= suggest_extras(trial, plan.explore, values["epochs"], values["batch_size"])
        rungs = plan.score_epochs if space.searched else ()
        values["score_epochs"] = tuple(epoch for epoch in rungs if epoch < values["epochs"])
    return TrialConfig(target=target, method=method, **values)


def require_suggestions(plan: SweepPlan) -> None:
    """Ask the plan's search space for one trial of each method, which nobody runs: a fault of an own space is better
    known before the cluster starts.

    Raises:
        ConfigError: a function of the space fails, or returns what is no trial.
    """
    for key in {key.method: key for key in plan.studies}.values():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(plan.seed))
        study.enqueue_trial(plan.search_space.starting_point(key.method, plan.cutoffs))
        trial = study.ask()
        where = f"--space {plan.space}: what {key.method} explores"
        try:
            trial_config(plan, key.method, key.target, trial)
        except ConfigError as error:
            raise ConfigError(f"{where} makes no trial: {error}") from error
        except Exception as error:  # the user's own function may raise anything
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"{where} fails with {problem}; expected a function of (trial, cutoffs) that returns fields of a "
                "TrialConfig"
            ) from error
        for name, value in plan.search_space.first.get(key.method, {}).items():
            if name not in trial.distributions:
                raise ConfigError(f"{where} does not hold {name!r}, which `first` sets; leave it out there")
            if not _holds(trial.distributions[name], value):
                raise ConfigError(f"{where} has {name} from {trial.distributions[name]}; `first` sets {value!r}")


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether Optuna could draw the value; it takes any that it is told, with a warning."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high
