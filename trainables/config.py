"""Everything that decides what one trial computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainables.errors import ConfigError
from trainables.target import Target

METHODS = ("untuned", "contrastive", "regression", "pooled-avg", "pooled-const")
ENCODERS = ("ridge", "pls")
PROTOCOLS = ("nested", "published-a", "published-b")


@dataclass(frozen=True)
class TrialConfig:
    """One trial; with the same data, weights and machine it gives the same result twice.

    Raises:
        ConfigError: a value outside its range.
    """

    target: Target
    method: str
    """``contrastive``, ``regression`` or ``untuned`` (the pretrained backbone, zero epochs), for one subject;
    ``pooled-avg`` or ``pooled-const``, contrastive for several subjects together."""
    backbone: str = "alexnet"
    layer_cutoff: str = "output"
    """Layer at which the backbone ends and the head hangs; ``output`` keeps the whole network."""
    objective: str = "info_nce"
    """Name in `trainables.tuning.objectives.OBJECTIVES`; read by contrastive methods alone, pooled or not."""
    temperature: float = 0.3
    """Divides cosine similarities before the softmax; dimensionless, > 0."""
    learning_rate: float = 1e-4
    """Adam's step size, > 0."""
    batch_size: int = 1024
    """Stimuli in one optimiser step, over all workers of a slot; >= 2."""
    epochs: int = 30
    """Passes over the training stimuli; 0 for ``untuned``."""
    weight_decay: float = 0.0
    """L2 penalty in Adam, >= 0."""
    seed: int = 0
    """Seeds initialisation, shuffling and dropout."""
    score_epochs: tuple[int, ...] = ()
    """Epochs after which the validation score is computed, besides the last one."""
    mse_weight: float = 0.0
    """Weight of the mean squared error of a linear readout, in squared response units, beside the contrastive
    objective; >= 0, and above 0 for contrastive methods alone."""
    encoder: str = "ridge"
    """Encoding model that scores: ``ridge`` or ``pls``."""
    protocol: str = "nested"
    """Which stimuli are tuned on and scored on, see `PROTOCOLS`; scores of two protocols are never compared."""

    def __post_init__(self) -> None:
        for field, names in (("method", METHODS), ("encoder", ENCODERS), ("protocol", PROTOCOLS)):
            if getattr(self, field) not in names:
                raise ConfigError(f"{field} is {getattr(self, field)!r}; expected one of {', '.join(names)}")
        self._require_ranges()
        self._require_subjects()
        if self.mse_weight > 0 and not self.is_contrastive:
            raise ConfigError(
                f"mse_weight is {self.mse_weight} for method {self.method}; expected 0, since only contrastive methods "
                "have an objective to add a squared error to"
            )
        if (self.epochs == 0) != (self.method == "untuned") or self.epochs < 0:
            raise ConfigError(
                f"epochs is {self.epochs} for method {self.method}; expected 0 for untuned, at least 1 otherwise"
            )
        outside = [epoch for epoch in self.score_epochs if not 1 <= epoch <= self.epochs]
        if outside:
            raise ConfigError(f"score_epochs holds {outside[0]}; expected epochs from 1 to {self.epochs}")

    def _require_ranges(self) -> None:
        for field in ("temperature", "learning_rate"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{field} is {value}; expected a finite number above 0")
        for field in ("weight_decay", "mse_weight"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{field} is {value}; expected a finite number of at least 0")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected a whole number of at least 0")
        if self.batch_size < 2:
            raise ConfigError(f"batch_size is {self.batch_size}; expected at least 2 (a contrast needs a negative)")

    def _require_subjects(self) -> None:
        n_subjects = len(self.target.subjects)
        if self.is_pooled and n_subjects < 2:
            raise ConfigError(
                f"method is {self.method} for {self.target.name}, a single subject; name several subjects or choose "
                "a method for one"
            )
        if not self.is_pooled and n_subjects > 1:
            raise ConfigError(
                f"method is {self.method} for {self.target.name}, {n_subjects} subjects; name a single one or choose "
                "pooled-avg or pooled-const"
            )

    @property
    def is_pooled(self) -> bool:
        """Whether one network is tuned for several subjects together."""
        return self.method.startswith("pooled-")

    @property
    def is_contrastive(self) -> bool:
        """Whether `objective` and `temperature` are read."""
        return self.method == "contrastive" or self.is_pooled

    @property
    def objective_name(self) -> str:
        """``info_nce``, or ``info_nce+mse`` with a squared error beside it: how tables name the objective."""
        return f"{self.objective}+mse" if self.mse_weight > 0 else self.objective

    @property
    def scored_epochs(self) -> tuple[int, ...]:
        """Epochs with a validation score, ascending; the last epoch is always among them."""
        return tuple(sorted({*self.score_epochs, self.epochs}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and Ray carry them."""
        return {**asdict(self), "target": self.target.to_dict(), "score_epochs": list(self.score_epochs)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a field that this version does not know.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(f"trial configuration holds {sorted(unknown)[0]!r}; this version does not know it")
        plain = dict(values)
        plain["target"] = Target.from_dict(plain["target"])
        plain["score_epochs"] = tuple(plain.get("score_epochs", ()))
        return cls(**plain)
