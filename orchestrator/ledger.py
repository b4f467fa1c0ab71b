"""The ledger: one Optuna study per (target, method), the only truth about which trials ran and what they scored.

A trial is in the ledger before it starts and its value after it ends. A trial that was running when its driver died
is taken up again as the very same Optuna trial: same number, same parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from orchestrator.ledger_storage import ledger_errors, open_storage
from orchestrator.neighbours import Find, borrowed, find_of
from orchestrator.plan import StudyKey, SweepPlan, stable_seed
from orchestrator.records import STATES, TrialRecord, record_of, typical, uid_of
from orchestrator.suggestions import trial_config
from search_spaces import first_extras
from trainables.config import TrialConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class OpenTrial:
    """A trial in hand: its place in the ledger and what it computes."""

    study: StudyKey
    trial: Trial
    config: TrialConfig

    @property
    def uid(self) -> str:
        """As `TrialRecord.uid`."""
        return uid_of(self.study, self.trial.number)


class Ledger:
    """Studies of one sweep, opened for writing by one driver at a time or for reading by anyone."""

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self._storage = open_storage(plan.ledger)
        self._studies: dict[StudyKey, optuna.Study] = {}
        self._finds: dict[StudyKey, Find] = {}

    def open_studies(self) -> None:
        """Create the studies that do not exist yet, each with the published recipe as its first trial."""
        with ledger_errors(self.plan.ledger):
            existing = set(optuna.get_all_study_names(self._storage))
            for key in self.plan.studies:
                if self.study_name(key) not in existing:
                    optuna.create_study(
                        storage=self._storage,
                        study_name=self.study_name(key),
                        directions=["maximize"] * len(self.plan.optimise),
                    )
                study = self.study(key)
                first = self.plan.search_space.starting_point(key.method, self.plan.cutoffs)
                # A driver may have died between making the study and queueing its first trial.
                if first:
                    epochs = self.plan.search_space.epochs_of(key.method, self.plan.epochs)
                    first |= first_extras(self.plan.explore, epochs, self.plan.batch_size)
                if first and not self.plan.candidates and not study.get_trials(deepcopy=False):
                    study.enqueue_trial(first)
                self._look_for_find(key)

    def study_name(self, key: StudyKey) -> str:
        """What Optuna calls a study; sweeps that share a ledger do not meet."""
        return f"{self.plan.ledger_name or self.plan.name}-{self.plan.sweep_id}/{key.name}"

    def study(self, key: StudyKey) -> optuna.Study:
        """Optuna's own view of a study.

        Raises:
            KeyError: the sweep died before it made this study.
        """
        if key not in self._studies:
            pruner = SuccessiveHalvingPruner(
                min_resource=self.plan.grace_epochs, reduction_factor=self.plan.reduction_factor
            )
            self._studies[key] = optuna.load_study(
                storage=self._storage, study_name=self.study_name(key), pruner=pruner
            )
        return self._studies[key]

    def interrupted(self) -> list[OpenTrial]:
        """Trials that a former driver left running, ready to run again as themselves."""
        found = []
        for key in self.plan.studies:
            with ledger_errors(self.plan.ledger):
                study = self.study(key)
                for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    # Its driver may have died before it drew all values.
                    study.sampler = self._sampler(key, frozen.number)
                    found.append(self._configured(key, Trial(study, frozen._trial_id)))
        return found

    def ask(self, key: StudyKey) -> OpenTrial:
        """A new trial of study ``key``, already in the ledger."""
        with ledger_errors(self.plan.ledger):
            study = self.study(key)
            number = len([t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING])
            study.sampler = self._sampler(key, number)
            if self.plan.candidates:
                self._take_candidate(key, study, number)
            elif self._asks_neighbours and number % 2:
                self._borrow(key, study)
            return self._configured(key, study.ask())

    @property
    def _asks_neighbours(self) -> bool:
        # The parts of a Pareto set are no one's best.
        return self.plan.neighbours and len(self.plan.optimise) == 1

    def _take_candidate(self, key: StudyKey, study: optuna.Study, number: int) -> None:
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):  # else a driver died before it asked
            study.enqueue_trial(dict(self.plan.candidates[key.name][number // self.plan.seeds]["params"]))

    def _borrow(self, key: StudyKey, study: optuna.Study) -> None:
        """Queue what a neighbour has found, if there is something: every other trial stays the study's own search."""
        tried = [trial.params for trial in study.get_trials(deepcopy=False)]
        if found := borrowed(key, self._finds, self.plan.roi_groups, tried):
            other, params = found
            study.enqueue_trial(dict(params), user_attrs={"borrowed_from": other.name}, skip_if_exists=True)

    def _look_for_find(self, key: StudyKey) -> None:
        if self._asks_neighbours and (find := find_of(self.study(key).get_trials(deepcopy=False))):
            self._finds[key] = find

    def _sampler(self, key: StudyKey, number: int) -> TPESampler:
        """Seeded by the trial's number, so that a resumed sweep does not draw its first points again."""
        return TPESampler(
            seed=stable_seed(self.plan.seed, key.name, number),
            n_startup_trials=max(3, min(10, self.plan.trials // 3)),
            constant_liar=True,
        )

    def _configured(self, key: StudyKey, trial: Trial) -> OpenTrial:
        config = trial_config(self.plan, key.method, key.target, trial)
        trial.set_user_attr("config", config.to_dict())
        return OpenTrial(key, trial, config)

    def count_death(self, open_trial: OpenTrial) -> int:
        """Record that a trial's workers died at every attempt; how often they have."""
        deaths = self.deaths(open_trial) + 1
        with ledger_errors(self.plan.ledger):
            open_trial.trial.set_user_attr("deaths", deaths)
        return deaths

    def deaths(self, open_trial: OpenTrial) -> int:
        """How often a trial's workers have died at every attempt."""
        with ledger_errors(self.plan.ledger):
            return int(open_trial.trial.user_attrs.get("deaths", 0))

    def report(self, open_trial: OpenTrial, epoch: int, score: float) -> bool:
        """Record a validation score; True if the trial should be pruned, judged within its own study."""
        trial = open_trial.trial
        with ledger_errors(self.plan.ledger):
            if len(self.plan.optimise) > 1:  # Optuna neither keeps nor prunes by intermediate values there
                trial.set_user_attr("scores", {**trial.user_attrs.get("scores", {}), str(epoch): score})
                return False
            if epoch not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(score, epoch)
            return epoch < open_trial.config.epochs and not self.plan.candidates and trial.should_prune()

    def finish(
        self, open_trial: OpenTrial, state: str, value: float | None, details: dict[str, Any], error: str = ""
    ) -> None:
        """Record how a trial ended; a value that is not finite is a failure, whatever was asked."""
        if state == "complete" and (value is None or not math.isfinite(value)):
            state, error = "failed", error or f"validation score is {value}"
        others = [details.get("scores", {}).get(name, math.nan) for name in self.plan.optimise[1:]]
        if state == "complete" and not all(map(math.isfinite, others)):
            state, error = "failed", f"{', '.join(self.plan.optimise[1:])} on validation stimuli: {others}"
        trial = open_trial.trial
        with ledger_errors(self.plan.ledger):
            trial.set_user_attr("details", details)
            if error:
                trial.set_user_attr("error", error)
            final = {name: optuna_state for optuna_state, name in STATES.items()}[state]
            study = self.study(open_trial.study)
            study.tell(
                trial, values=[value, *others] if state == "complete" and value is not None else None, state=final
            )
            self._look_for_find(open_trial.study)

    def trials_left(self) -> int:
        """Trials of the plan that have not ended, those in hand included."""
        ended = {key: len([r for r in self.study_records(key) if r.state != "running"]) for key in self.plan.studies}
        return sum(max(0, budget - ended[key]) for key, budget in self.plan.studies.items())

    def parameters(self, key: StudyKey, number: int) -> dict[str, Any]:
        """What Optuna drew for a trial, by its own names."""
        with ledger_errors(self.plan.ledger):
            return dict(self.study(key).get_trials(deepcopy=False)[number].params)

    def study_records(self, key: StudyKey) -> list[TrialRecord]:
        """Every started trial of one study, by number."""
        return [record_of(key, trial) for trial in self._started(key)]

    def uids(self, key: StudyKey) -> list[str]:
        """Of every started trial of one study; as of `TrialRecord.uid`, without making the records."""
        return [uid_of(key, trial.number) for trial in self._started(key)]

    def _started(self, key: StudyKey) -> list[FrozenTrial]:
        try:
            with ledger_errors(self.plan.ledger):
                trials = self.study(key).get_trials(deepcopy=False)
        except KeyError:  # the sweep died before it made this study
            return []
        return [trial for trial in trials if trial.state != TrialState.WAITING and "config" in trial.user_attrs]

    def best(self, key: StudyKey, count: int = 1) -> list[TrialRecord]:
        """The best complete trials of a study, best first; an earlier trial wins a tie.

        Of a confirming sweep the first is not the luckiest: see `typical`.
        """
        complete = [record for record in self.study_records(key) if record.state == "complete"]
        ranked = sorted(
            complete, key=lambda record: (math.inf if record.value is None else -record.value, record.number)
        )
        if self.plan.candidates and (first := typical(complete, self.plan.seeds)):
            ranked = [first, *(record for record in ranked if record.number != first.number)]
        return ranked[:count]
