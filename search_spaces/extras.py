"""What can be explored beside temperature, layer cutoff and learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

EXTRAS = ("batch_size", "epochs", "weight_decay")
LEAST_WEIGHT_DECAY = 1e-6


def first_extras(names: Sequence[str], epochs: int, batch_size: int) -> dict[str, Any]:
    """The values of a study's first trial: those that the sweep would have, and the least weight decay."""
    values = {"batch_size": batch_size, "epochs": epochs, "weight_decay": LEAST_WEIGHT_DECAY}
    return {name: values[name] for name in names}


def suggest_extras(trial: optuna.trial.BaseTrial, names: Sequence[str], epochs: int, batch_size: int) -> dict[str, Any]:
    """Values of some of `EXTRAS`, around those that the sweep would have.

    Args:
        trial: asked.
        names: what to explore.
        epochs: the most; a half and a quarter are tried as well.
        batch_size: the largest; a half, a quarter and an eighth are tried as well.
    """
    values: dict[str, Any] = {}
    if "batch_size" in names:
        sizes = sorted({max(2, batch_size // divisor) for divisor in (1, 2, 4, 8)})
        values["batch_size"] = trial.suggest_categorical("batch_size", sizes)
    if "epochs" in names:
        numbers = sorted({max(1, epochs // divisor) for divisor in (1, 2, 4)})
        values["epochs"] = trial.suggest_categorical("epochs", numbers)
    if "weight_decay" in names:
        values["weight_decay"] = trial.suggest_float("weight_decay", LEAST_WEIGHT_DECAY, 1e-2, log=True)
    return values
