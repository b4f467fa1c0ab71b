"""What a search space is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search_spaces.methods import RECIPE, SUGGEST, Suggest, untuned
from trainables.errors import ConfigError

BASELINES = ("contrastive", "regression", "untuned")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _is_factor(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _are_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_text, value))


def _is_mapping(value: object, of: Callable[[object], bool] = lambda _: True) -> bool:
    return isinstance(value, Mapping) and all(map(of, value.values()))


@dataclass(frozen=True)
class Space:
    """Methods, what they explore, and how much of it; ``sweep.py run`` has an option for every number.

    Raises:
        ConfigError: a method that nothing is known of, or a field that is not of its kind.
    """

    description: str
    """One line for ``--help``."""
    methods: tuple[str, ...] = BASELINES
    rois: tuple[str, ...] = ("early",)
    """ROI labels and groups."""
    trials: int = 12
    """Trials of each tuned (target, method), up to `trial_limits`; ``untuned`` always takes one."""
    epochs: int = 30
    """Passes over the training stimuli of a trial that is not pruned."""
    batch_size: int = 1024
    """Stimuli in one optimiser step."""
    deepest_cutoff: str = "output"
    """Layers behind it are not explored: a readout layer, ``convolutional`` for the backbone's deepest with rows and
    columns, or ``output`` for no limit."""
    suggest: Mapping[str, Suggest] = field(default_factory=dict)
    """What a method explores, where that is not `search_spaces.methods.SUGGEST`."""
    first: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """First trial of a method, beside the published recipe's values; what a function of `suggest` explores has none
    unless it is named here."""
    epoch_factors: Mapping[str, float] = field(default_factory=dict)
    """Epochs of a method as a multiple of `epochs`; 1 where it is not named."""
    trial_limits: Mapping[str, int] = field(default_factory=dict)
    """The most trials of a method's studies, where that is fewer than `trials`: pooled networks cost several times
    what those of single subjects do.
    """
    searched: bool = True
    """False: a single trial of each study, nothing pruned, scored after the last epoch alone."""

    def __post_init__(self) -> None:
        self._require_kinds()
        unknown = [name for name in (*self.methods, *self.suggest, *self.trial_limits) if name not in SUGGEST]
        if unknown or not self.methods:
            raise ConfigError(
                f"the space has the method {(unknown or ['none'])[0]!r}; expected some of {', '.join(SUGGEST)}"
            )
        if odd := {name: limit for name, limit in self.trial_limits.items() if limit < 1}:
            raise ConfigError(f"the space has trial_limits {odd}; expected at least 1, or the method left out")

    def _require_kinds(self) -> None:
        """An own space is a person's file, and no type checker may have read it."""
        expected: dict[str, tuple[Callable[[Any], bool], str]] = {
            **dict.fromkeys(("description", "deepest_cutoff"), (_is_text, "a text")),
            **dict.fromkeys(("methods", "rois"), (_are_names, "a tuple of names")),
            **dict.fromkeys(("trials", "epochs"), (partial(_is_number, least=1), "a whole number of at least 1")),
            "batch_size": (partial(_is_number, least=2), "a whole number of at least 2"),
            "suggest": (partial(_is_mapping, of=callable), "a function for each method"),
            "first": (partial(_is_mapping, of=_is_mapping), "a mapping of values for each method"),
            "epoch_factors": (partial(_is_mapping, of=_is_factor), "a number above 0 for each method"),
            "trial_limits": (partial(_is_mapping, of=_is_number), "a whole number for each method"),
            "searched": (lambda value: isinstance(value, bool), "True or False"),
        }
        for name, (holds, what) in expected.items():
            if not holds(value := getattr(self, name)):
                raise ConfigError(f"the space has {name} {value!r}; expected {what}")

    def suggestion(self, method: str) -> Suggest:
        """The function that explores ``method``."""
        return self.suggest.get(method, SUGGEST[method])

    def epochs_of(self, method: str, epochs: int) -> int:
        """Epochs of a trial of ``method`` where the sweep has ``epochs``."""
        return max(1, round(epochs * self.epoch_factors.get(method, 1.0)))

    def trials_of(self, method: str, trials: int) -> int:
        """Trials of each study of ``method`` where the sweep has ``trials``; ``untuned`` has nothing to explore."""
        return 1 if method == "untuned" else min(trials, self.trial_limits.get(method, trials))

    def starting_point(self, method: str, cutoffs: Sequence[str]) -> dict[str, Any]:
        """The published recipe's values of what ``method`` explores, with the deepest cutoff the weights allow; empty
        where a space explores in its own way and names no first trial.
        """
        own = method in self.suggest and method not in self.first
        if own or not self.searched or self.suggestion(method) is untuned:
            return {}
        values = {"layer_cutoff": cutoffs[-1], **RECIPE, **self.first.get(method, {})}
        return {name: value for name, value in values.items() if method != "regression" or name != "temperature"}
