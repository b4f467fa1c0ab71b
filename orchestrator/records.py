"""What the ledger says of single trials, and of a confirming sweep's candidates together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan import StudyKey

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class TrialRecord:
    """What the ledger knows of one trial."""

    study: StudyKey
    number: int
    state: str
    """``running``, ``complete``, ``pruned`` or ``failed``."""
    config: dict[str, Any]
    """`TrialConfig.to_dict`."""
    value: float | None
    """Validation score, mean Pearson r; of a pruned trial the last one it reached."""
    scores: dict[int, float]
    """Validation score by epoch."""
    details: dict[str, Any]
    """What the worker reported at the end: loss by epoch, r by readout layer, speed."""
    error: str | None
    started_ms: int
    ended_ms: int | None

    @property
    def uid(self) -> str:
        """As of `uid_of`."""
        return uid_of(self.study, self.number)


def uid_of(study: StudyKey, number: int) -> str:
    """``subj01/lh/V1v/contrastive/00007``; unique in its sweep, the same after a resume."""
    return f"{study.name}/{number:05d}"


def by_candidate(complete: Sequence[TrialRecord], seeds: int) -> dict[int, list[TrialRecord]]:
    """Trials of a study of a confirming sweep that have ended well, by their candidate's place.

    Args:
        complete: those trials, each with a value.
        seeds: on which each candidate runs, one trial after the other.
    """
    grouped: dict[int, list[TrialRecord]] = {}
    for record in complete:
        if record.value is not None:
            grouped.setdefault(record.number // seeds, []).append(record)
    return grouped


def typical(complete: Sequence[TrialRecord], seeds: int) -> TrialRecord | None:
    """Of the candidate with the best mean over its seeds, the trial nearest to that mean, with the mean as its value.

    Args:
        complete: as of `by_candidate`.
        seeds: as of `by_candidate`.
    """
    groups = [[(record, record.value or 0.0) for record in group] for group in by_candidate(complete, seeds).values()]
    if not groups:
        return None
    best = max(groups, key=lambda group: fmean(value for _, value in group))
    mean = fmean(value for _, value in best)
    return replace(min(best, key=lambda pair: abs(pair[1] - mean))[0], value=mean)


def record_of(key: StudyKey, trial: FrozenTrial) -> TrialRecord:
    """What Optuna knows of a trial that has started and has its configuration."""
    kept: dict[str, float] = trial.user_attrs.get("scores", {})
    scores = dict(trial.intermediate_values) or {int(epoch): score for epoch, score in kept.items()}
    value = trial.values[0] if trial.values else None
    if value is None and scores:
        value = scores[max(scores)]
    return TrialRecord(
        study=key,
        number=trial.number,
        state=STATES[trial.state],
        config=trial.user_attrs["config"],
        value=value,
        scores=scores,
        details=trial.user_attrs.get("details", {}),
        error=trial.user_attrs.get("error"),
        started_ms=_milliseconds(trial.datetime_start) or 0,
        ended_ms=_milliseconds(trial.datetime_complete),
    )


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
