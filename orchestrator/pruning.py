"""Tune's scheduler: asynchronous successive halving, one for each study.

The rungs are Optuna's and live in the ledger, so a trial competes with its own study alone, and after a resume with the
trials that ran before it too. (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning.)
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.search import StudySearch


class StudyPruning(FIFOScheduler):
    """Stops a trial that falls behind in its own study."""

    def __init__(self, search: StudySearch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search = search
        search.starting = 0
        self._placed: set[str] = set()

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The ledger knows metric and direction."""
        return True

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A trial that no slot is starting for, or None.

        Ray's own choice, the first one that waits, may have a slot that is starting: Ray would give it to one that is
        free and end the half-started slot. Where trials are shorter than a start, slots would never come to be.
        """
        # A look at all trials, those that have ended too, would take longer and longer.
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
        self._search.starting = len(waiting)
        for trial in waiting:
            if trial.trial_id not in self._placed:
                self._placed.add(trial.trial_id)
                return trial
        return None  # those whose slot has died Ray starts by itself

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP if the study's pruner says so."""
        stop = self._search.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
