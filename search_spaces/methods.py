"""The ranges that each method explores: functions of an Optuna trial that return fields of a `TrialConfig`.

Ranges surround the published recipe (temperature 0.3, whole network, learning rate 1e-4; arXiv 2410.06067), whose point
is every study's first trial. All tuned methods get the same number of epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

Suggest = Callable[[optuna.trial.BaseTrial, Sequence[str]], dict[str, Any]]

RECIPE = {"temperature": 0.3, "learning_rate": 1e-4}
"""arXiv 2410.06067; the layer cutoff of the recipe is the deepest."""
MIXED = "info_nce+mse"
"""Name of the mixed strategy among the objectives: contrastive plus a weighted squared error."""


def contrastive(trial: optuna.trial.BaseTrial, cutoffs: Sequence[str]) -> dict[str, Any]:
    """Temperature, layer cutoff and learning rate; ``cutoffs`` are those that the weights allow."""
    return {
        "temperature": trial.suggest_float("temperature", 0.02, 1.0, log=True),
        **regression(trial, cutoffs),
    }


def regression(trial: optuna.trial.BaseTrial, cutoffs: Sequence[str]) -> dict[str, Any]:
    """Layer cutoff and learning rate."""
    return {
        "layer_cutoff": trial.suggest_categorical("layer_cutoff", list(cutoffs)),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
    }


def untuned(trial: optuna.trial.BaseTrial, cutoffs: Sequence[str]) -> dict[str, Any]:
    """Nothing to explore: the pretrained network, read out at every layer up to the deepest cutoff of the sweep."""
    return {"layer_cutoff": cutoffs[-1], "epochs": 0}


def objectives(trial: optuna.trial.BaseTrial, cutoffs: Sequence[str]) -> dict[str, Any]:
    """What `contrastive` explores, and the objective itself."""
    from trainables.tuning.objectives import OBJECTIVES  # torch, which takes seconds and 300 MB, for their names

    name = trial.suggest_categorical("objective", [*OBJECTIVES, MIXED])
    values = {**contrastive(trial, cutoffs), "objective": name.removesuffix("+mse")}
    if name == MIXED:
        values["mse_weight"] = trial.suggest_float("mse_weight", 0.01, 10.0, log=True)
    return values


def mixed(trial: optuna.trial.BaseTrial, cutoffs: Sequence[str]) -> dict[str, Any]:
    """What `contrastive` explores, and the weight of the squared error beside it."""
    return {**contrastive(trial, cutoffs), "mse_weight": trial.suggest_float("mse_weight", 0.01, 10.0, log=True)}


def recipe(trial: optuna.trial.BaseTrial, cutoffs: Sequence[str]) -> dict[str, Any]:
    """Nothing to explore: the published recipe."""
    return {"layer_cutoff": cutoffs[-1], **RECIPE}


SUGGEST: Mapping[str, Suggest] = {
    "untuned": untuned,
    "contrastive": contrastive,
    "regression": regression,
    "pooled-avg": contrastive,
    "pooled-const": contrastive,
}
"""What each method explores, unless a space says otherwise."""
