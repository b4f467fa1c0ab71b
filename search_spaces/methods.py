"""The ranges that each method explores: functions of an Optuna trial that return fields of a `TrialConfig`.

Ranges surround the published recipe (temperature 0.3, whole network, learning rate 1e-4; arXiv 2410.06067), whose point
is every study's first trial. All tuned methods get the same number of epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna

Suggest = Callable[[optuna.trial.BaseTrial, Sequence[str]], dict[str, Any]]


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


SUGGEST: dict[str, Suggest] = {"untuned": untuned, "contrastive": contrastive, "regression": regression}


def starting_point(method: str, cutoffs: Sequence[str]) -> dict[str, Any]:
    """The published recipe's values of what ``method`` explores, with the deepest cutoff the weights allow."""
    values = {"temperature": 0.3, "layer_cutoff": cutoffs[-1], "learning_rate": 1e-4}
    explored = {"untuned": (), "contrastive": tuple(values), "regression": ("layer_cutoff", "learning_rate")}
    return {name: values[name] for name in explored[method]}
