"""What an epoch of tuning gives."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.encoding.validation import ValidationScore


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave."""

    epoch: int
    """From 1; 0 for an untuned backbone."""
    train_loss: float
    """Mean over the epoch's training stimuli of all subjects: nats for contrastive objectives (plus the weighted
    squared error, if any), squared response units for regression, NaN for an untuned backbone."""
    seconds: float
    """Spent tuning, without the score."""
    images_per_second: float
    """Training stimuli of all workers and subjects over ``seconds``; 0 for an untuned backbone."""
    score: ValidationScore | None
    """At the configuration's scored epochs, else None."""
    score_seconds: float = 0.0
    """Spent on ``score``."""
