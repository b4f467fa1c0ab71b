"""Tune's scheduler: asynchronous successive halving, one for each study.

The rungs are Optuna's and live in the ledger, so a trial competes with its own study alone, and after a resume with the
trials that ran before it too. (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning.)
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.search import StudySearch


class StudyPruning(FIFOScheduler):
    """Stops a trial that falls behind in its own study."""

    def __init__(self, search: StudySearch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search = search

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The ledger knows metric and direction."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP if the study's pruner says so."""
        stop = self._search.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
