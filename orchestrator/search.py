"""One Tune Searcher before many Optuna studies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import joblib
from ray.tune.search import Searcher

from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.plan import StudyKey
from trainables.errors import CortexSweepError, StorageError

DEATHS_IN_A_ROW = 3
"""So many trials whose workers died are the machine's fault, not theirs: the sweep stops instead of using them up."""
DEATHS_OF_A_TRIAL = 3
"""A trial whose workers died at every attempt so often, resumes included, is failed whatever others do."""
STARTS_AT_ONCE = max(4, joblib.cpu_count())
"""Slots that may be starting: their processes are all on the driver's machine, and too many at once time out."""
DIED = "its worker group died at every attempt"


class StudySearch(Searcher):
    """Hands out trials of all studies, those of the least served study first.

    Ray's own OptunaSearch tells a stopped trial as complete and leaves one without a score running for ever; this one
    leaves the verdict to the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: Callable[[OpenTrial, float, bool], dict[str, Any]],
        on_finished: Callable[[OpenTrial], None],
        larger_share: bool = False,
    ) -> None:
        """Hand out what the ledger says is left.

        Args:
            ledger: with all studies opened.
            job: makes a trial's Tune configuration, given the score that its weights have to beat and whether it gets
                a device of its own.
            on_finished: called when a trial's end is in the ledger.
            larger_share: whether a device of its own is more than what a trial has otherwise.
        """
        super().__init__(metric="score", mode="max")
        self.ledger = ledger
        self.running: dict[str, OpenTrial] = {}
        self._pruned: set[str] = set()
        self.starting: int | None = None
        """Trials whose slot is starting, as the scheduler sees them; None without one, and no limit."""
        self._free = 0
        """Slots whose trial has ended and that have no other yet."""
        self.failure: CortexSweepError | None = None
        """What stopped the sweep: nothing more is handed out, trials in hand end, a resume goes on."""
        self._dead: list[OpenTrial] = []
        """Their workers died at every attempt, and no trial has ended otherwise since."""
        self._returned: list[OpenTrial] = []
        """Their workers died at every attempt, but others ended well since: each has one more chance, at the end."""
        self._last_chance: set[str] = set()
        self._job = job
        self._on_finished = on_finished
        self._larger_share = larger_share
        self._too_large: list[OpenTrial] = []
        """Ran out of memory. They run last: only then do other slots leave a device to one trial."""
        self._alone: set[str] = set()
        interrupted = ledger.interrupted()
        self._again = [trial for trial in interrupted if not ledger.deaths(trial)]
        self._returned += [trial for trial in interrupted if ledger.deaths(trial)]
        self.asked: dict[StudyKey, int] = {key: len(ledger.study_records(key)) for key in ledger.plan.studies}
        self.left = self.due + len(self._returned)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's Tune configuration, or FINISHED."""
        if self.failure is not None:
            return Searcher.FINISHED
        if not self._free and self.starting is not None and self.starting >= STARTS_AT_ONCE:
            return None  # Tune asks again
        with self._remembered():
            open_trial = self._next()
        if open_trial is None and self._larger_share and any(t.uid not in self._alone for t in self.running.values()):
            return None  # one of them may come back; Tune asks again
        if open_trial is None and self._too_large:
            open_trial = self._too_large.pop(0)
            self._alone.add(open_trial.uid)
        if open_trial is None:
            return Searcher.FINISHED
        self.running[trial_id] = open_trial
        if self._free:
            self._free -= 1
        elif self.starting is not None:
            self.starting += 1
        return self._job(open_trial, self._score_to_beat(open_trial.study), open_trial.uid in self._alone)

    @property
    def due(self) -> int:
        """Trials of the plan that have not been handed out, without those that wait for a last chance."""
        budgets = self.ledger.plan.studies
        new = sum(max(0, budgets[key] - self.asked[key]) for key in budgets)
        return new + len(self._again) + len(self._too_large)

    def _next(self) -> OpenTrial | None:
        if self._again:
            return self._again.pop(0)
        budgets = self.ledger.plan.studies
        key = min(budgets, key=lambda study: self.asked[study] / budgets[study])
        if self.asked[key] >= budgets[key]:
            return None
        self.asked[key] += 1
        return self.ledger.ask(key)

    def _score_to_beat(self, key: StudyKey) -> float:
        kept = self.ledger.best(key, self.ledger.plan.keep_weights)
        full = len(kept) == self.ledger.plan.keep_weights
        return kept[-1].value if full and kept[-1].value is not None else -1.0

    def judge(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record a result; True if the trial should be pruned."""
        open_trial = self.running[trial_id]
        if "score" not in result or not math.isfinite(result["score"]):
            return False
        with self._remembered():
            stop = self.ledger.report(open_trial, result["epoch"], result["score"])
        if stop:
            self._pruned.add(trial_id)
        return stop

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Results are recorded by `judge`, which Tune's scheduler calls first."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the ledger how a trial ended; one that was merely interrupted stays running there."""
        open_trial = self.running.pop(trial_id)
        self._free += 1
        with suppress(CortexSweepError), self._remembered():  # raised, Tune would run the trial again
            if error:
                self._bury(open_trial)
            elif self._tell(trial_id, open_trial, result or {}):
                self._on_finished(open_trial)

    def _tell(self, trial_id: str, open_trial: OpenTrial, result: dict[str, Any]) -> bool:
        """Write the verdict; False if there is none, because the trial will be taken up again."""
        details = json.loads(result.get("details", "{}"))
        if result.get("halt"):
            self.failure = self.failure or StorageError(str(result["halt"]))
            return False
        if result.get("out_of_memory") and self._larger_share and open_trial.uid not in self._alone:
            self._too_large.append(open_trial)
            return False
        self._clear_the_machine()
        if result.get("failed"):
            self.ledger.finish(open_trial, "failed", None, details, str(result["failed"]))
        elif trial_id in self._pruned:
            self._pruned.discard(trial_id)
            self.ledger.finish(open_trial, "pruned", None, details)
        elif "best_score" in result and result["epoch"] >= open_trial.config.epochs:
            if math.isfinite(result["score"]):
                self.ledger.report(open_trial, result["epoch"], result["score"])
            self.ledger.finish(open_trial, "complete", result["best_score"], details)
        else:
            return False
        return True

    def _bury(self, open_trial: OpenTrial) -> None:
        """A trial's workers have died at every attempt: its own fault, or the machine's."""
        if self.ledger.count_death(open_trial) >= DEATHS_OF_A_TRIAL:
            self._fail(open_trial)
            return
        self._dead.append(open_trial)
        if len(self._dead) >= DEATHS_IN_A_ROW:
            self.failure = self.failure or StorageError(
                f"the workers of {len(self._dead)} trials in a row died at every attempt, the last one "
                f"{open_trial.uid}; look at the memory and at Ray's logs (/tmp/ray/session_latest/logs), "
                "then resume"
            )

    def _fail(self, open_trial: OpenTrial) -> None:
        self.ledger.finish(open_trial, "failed", None, {}, DIED)
        self._on_finished(open_trial)

    def _clear_the_machine(self) -> None:
        """A trial has ended otherwise, or the sweep has: it is not the machine. Who had a last chance is failed."""
        while self._dead:
            open_trial = self._dead.pop(0)
            if open_trial.uid in self._last_chance:
                self._fail(open_trial)
            else:
                self._returned.append(open_trial)

    def give_last_chance(self) -> int:
        """Hand out once more the trials whose workers died at every attempt; how many there are.

        For a sweep that has ended otherwise: machines that come and go may hit one trial at each of its attempts, and
        one that kills its workers by itself is failed when it does so again.
        """
        self._clear_the_machine()
        self._again, self._returned = self._returned, []
        self._last_chance |= {open_trial.uid for open_trial in self._again}
        return len(self._again)

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        """Keep an error about the ledger or the storage: Tune would wrap it in its own, traceback and all."""
        try:
            yield
        except CortexSweepError as error:
            self.failure = error
            raise

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its Tuner to disk to restore it one day, here the ledger is the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""
