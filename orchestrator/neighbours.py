"""What a study takes over from its neighbours: the same method's studies of targets that are likely to want the same.

Every study begins with the published recipe, so what its best trial gained over that can be compared between targets
whose responses are noisier or not. ``python -m benchmarks.neighbours`` measures what it is good for, and what it costs
where neighbours have nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan import StudyKey


@dataclass(frozen=True)
class Find:
    """The best trial of a study."""

    gain: float
    """Validation score above that of the study's first trial, the published recipe."""
    params: Mapping[str, Any]
    """By Optuna's names."""


def find_of(trials: Sequence[FrozenTrial]) -> Find | None:
    """The best complete trial among ``trials`` of one study; None if it is the first, or that has no score."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    first = next((trial for trial in trials if trial.number == 0), None)
    if first is None or not complete:
        return None
    scores = [first.value, *(first.intermediate_values[epoch] for epoch in sorted(first.intermediate_values)[-1:])]
    recipe = next((score for score in scores if score is not None), None)
    best = max(complete, key=lambda trial: trial.values[0])
    if recipe is None or best.number == 0:
        return None
    return Find(best.values[0] - recipe, best.params)


def borrowed(
    key: StudyKey,
    finds: Mapping[StudyKey, Find],
    groups: Mapping[str, str],
    tried: Sequence[Mapping[str, Any]],
) -> tuple[StudyKey, Mapping[str, Any]] | None:
    """The neighbour with the largest gain whose best parameters ``key`` has not tried, and these; None without one.

    The same ROI in other subjects and in the other hemisphere comes first, other ROIs of its group after it.

    Args:
        key: the study that asks.
        finds: of all studies that have one.
        groups: ROI label to its group.
        tried: parameters of the study's own trials.
    """
    for tier in _tiers(key, finds, groups):
        for other in sorted(tier, key=lambda study: (-finds[study].gain, study)):
            if finds[other].gain > 0 and dict(finds[other].params) not in tried:
                return other, finds[other].params
    return None


def _tiers(key: StudyKey, finds: Mapping[StudyKey, Find], groups: Mapping[str, str]) -> Iterator[list[StudyKey]]:
    target = key.target
    others = [study for study in finds if study.method == key.method and study != key]
    if target.is_pooled:  # what was left out of a pool stays out: its validation scores chose nothing here
        others = [study for study in others if set(study.target.subjects) <= set(target.subjects)]
    yield [study for study in others if study.target.roi == target.roi]
    group = groups.get(target.roi)
    yield [study for study in others if study.target.roi != target.roi and groups.get(study.target.roi) == group]
