"""How much each explored setting mattered, over all studies of a method and an ROI group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan import StudyKey
from orchestrator.report.grouping import by_known
from orchestrator.report.results import Results
from trainables.data.rois import GROUPS

LEAST_TRIALS = 8
"""Fewer complete trials say nothing about what mattered."""


@dataclass(frozen=True)
class Importance:
    """Shares that sum to 1."""

    method: str
    roi_group: str
    n_trials: int
    """Complete trials that they rest on."""
    n_studies: int
    shares: dict[str, float]
    """By name of the setting."""


def importances(results: Results) -> list[Importance]:
    """Importance of every explored setting, for each method and ROI group with enough complete trials.

    Studies of a group are taken together, each trial's value less its study's mean, so that what an ROI can be
    predicted with at all does not count. Functional ANOVA of a random forest (Hutter et al. 2014), as Optuna has it.
    """
    found = []
    for (method, group), keys in studies_by_group(results).items():
        trials = [trial for key in keys for trial in _centred(results, key)]
        names = {name for trial in trials for name in trial.params}
        if len(trials) < LEAST_TRIALS or not names or len({trial.value for trial in trials}) < 2:
            continue
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        found.append(Importance(method, group, len(trials), len(keys), shares))
    return found


def studies_by_group(results: Results) -> dict[tuple[str, str], list[StudyKey]]:
    """Studies that explore something, by method and ROI group."""
    plan = results.plan
    groups = by_known((plan.roi_groups[target.roi] for target in plan.targets), GROUPS)
    searched = [key for key in plan.studies if key.method != "untuned"]
    found = {
        (method, group): [k for k in searched if k.method == method and plan.roi_groups[k.target.roi] == group]
        for method in dict.fromkeys(key.method for key in searched)
        for group in groups
    }
    return {place: keys for place, keys in found.items() if keys}


def _centred(results: Results, key: StudyKey) -> Sequence[FrozenTrial]:
    """Complete trials of a study with values around 0, as trials of another study."""
    try:
        trials = results.ledger.study(key).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    except KeyError:  # the sweep died before it made this study
        return []
    # A search for the Pareto set has several values; the first is the encoding accuracy.
    scored = [(trial, trial.values[0]) for trial in trials if trial.values]
    centre = sum(value for _, value in scored) / max(1, len(scored))
    return [
        optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=value - centre)
        for trial, value in scored
    ]
