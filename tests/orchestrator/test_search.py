from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.pruning import StudyPruning
from orchestrator.search import DEATHS_IN_A_ROW, StudySearch
from tests.orchestrator.plans import (
    EBA_CONTRASTIVE,
    V1_CONTRASTIVE,
    V1_UNTUNED,
    complete,
    open_ledger,
    small_plan,
    worker_details,
)
from trainables.errors import StorageError


class Hand:
    """A search and what it handed out and heard of."""

    def __init__(self, plan: SweepPlan, larger_share: bool = False) -> None:
        self.ended: list[str] = []
        self.ledger = open_ledger(plan)
        self.search = StudySearch(self.ledger, self.job, lambda trial: self.ended.append(trial.uid), larger_share)
        self.count = 0

    @staticmethod
    def job(trial: OpenTrial, score_to_beat: float, alone: bool) -> dict[str, Any]:
        return {"uid": trial.uid, "beat": score_to_beat, "alone": alone}

    def next(self) -> tuple[str, Any]:
        """Tune's id of the next trial and its configuration."""
        self.count += 1
        trial_id = f"tune-{self.count}"
        return trial_id, self.search.suggest(trial_id)

    def uids(self, count: int) -> list[str]:
        return [self.next()[1]["uid"] for _ in range(count)]

    def state(self, key: StudyKey, number: int) -> str:
        return Ledger(self.ledger.plan).study_records(key)[number].state


def result(epoch: int, score: float, best: float | None = None) -> dict[str, Any]:
    details = worker_details(epoch, {"features.2": score}, epoch)
    best_score = score if best is None else best
    return {"epoch": epoch, "score": score, "best_score": best_score, "details": json.dumps(details)}


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return small_plan(tmp_path, trials=2)


def test_least_served_study_comes_first(tmp_path: Path) -> None:
    hand = Hand(small_plan(tmp_path, trials=2, methods=("contrastive", "untuned")))
    assert hand.search.left == 6
    assert hand.uids(6) == [
        "subj01/lh/V1v/untuned/00000",
        "subj02/rh/EBA/untuned/00000",
        "subj01/lh/V1v/contrastive/00000",
        "subj02/rh/EBA/contrastive/00000",
        "subj01/lh/V1v/contrastive/00001",
        "subj02/rh/EBA/contrastive/00001",
    ]
    assert hand.search.due == 0
    assert hand.next()[1] == Searcher.FINISHED


def test_study_that_fell_behind_catches_up(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, trials=3)
    ledger = open_ledger(plan)
    for _ in range(2):
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.5})
    hand = Hand(plan)
    assert hand.search.left == 4
    assert hand.uids(4) == [
        "subj02/rh/EBA/contrastive/00000",
        "subj02/rh/EBA/contrastive/00001",
        "subj01/lh/V1v/contrastive/00002",
        "subj02/rh/EBA/contrastive/00002",
    ]


def test_interrupted_trials_come_before_new_ones(plan: SweepPlan) -> None:
    dead = open_ledger(plan)
    complete(dead, dead.ask(V1_CONTRASTIVE), {9: 0.5})
    interrupted = [dead.ask(V1_CONTRASTIVE).uid, dead.ask(EBA_CONTRASTIVE).uid]
    hand = Hand(plan)
    assert hand.search.left == 3
    assert hand.uids(2) == interrupted
    states = [hand.search.due, hand.uids(1), hand.search.due]
    assert states == [1, ["subj02/rh/EBA/contrastive/00001"], 0]
    assert hand.next()[1] == Searcher.FINISHED


def test_finished_sweep_hands_out_nothing(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    for key in plan.studies:
        for _ in range(2):
            complete(ledger, ledger.ask(key), {9: 0.5})
    hand = Hand(plan)
    assert (hand.search.left, hand.search.due) == (0, 0)
    assert hand.next()[1] == Searcher.FINISHED


def test_complete_trial_has_its_best_score(plan: SweepPlan) -> None:
    hand = Hand(plan)
    trial_id, config = hand.next()
    for epoch, score in ((1, 0.2), (3, 0.5)):
        assert not hand.search.judge(trial_id, result(epoch, score))
    hand.search.on_trial_complete(trial_id, result(9, 0.4, best=0.5))
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value) == ("complete", 0.5)
    assert record.scores == {1: 0.2, 3: 0.5, 9: 0.4}
    assert record.details["readout_layer"] == "features.2"
    assert hand.ended == [config["uid"]]
    assert hand.search.running == {}


def test_pruned_trial_is_told_as_pruned(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {1: 0.5, 3: 0.5, 9: 0.5})
    complete(ledger, ledger.ask(EBA_CONTRASTIVE), {1: 0.1, 3: 0.1, 9: 0.1})
    hand = Hand(plan)
    worse, better = hand.next()[0], hand.next()[0]
    assert hand.search.running[worse].study == V1_CONTRASTIVE
    assert hand.search.judge(worse, result(1, 0.3))
    assert not hand.search.judge(better, result(1, 0.2))  # of another study
    hand.search.on_trial_complete(worse, result(1, 0.3))
    assert hand.state(V1_CONTRASTIVE, 1) == "pruned"
    assert hand.state(EBA_CONTRASTIVE, 1) == "running"
    assert Ledger(plan).study_records(V1_CONTRASTIVE)[1].value == 0.3


def test_scheduler_stops_what_the_ledger_prunes(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {1: 0.5, 3: 0.5, 9: 0.5})
    hand = Hand(plan)
    scheduler = StudyPruning(hand.search)
    keys = {}
    for _ in range(3):
        trial_id, _ = hand.next()
        keys[hand.search.running[trial_id].uid] = trial_id
    assert scheduler.set_search_properties("score", "max")

    class TuneTrial:
        def __init__(self, trial_id: str) -> None:
            self.trial_id = trial_id

    worse = TuneTrial(keys["subj01/lh/V1v/contrastive/00001"])
    first = TuneTrial(keys["subj02/rh/EBA/contrastive/00000"])
    assert scheduler.on_trial_result(None, worse, result(1, 0.3)) == TrialScheduler.STOP
    assert scheduler.on_trial_result(None, first, result(1, 0.1)) == TrialScheduler.CONTINUE


def test_failure_of_a_trial_is_its_own(plan: SweepPlan) -> None:
    hand = Hand(plan)
    trial_id, config = hand.next()
    failed = {"failed": "NonFiniteLossError: loss is nan", "done": True}
    assert not hand.search.judge(trial_id, failed)
    hand.search.on_trial_complete(trial_id, failed)
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value, record.error) == ("failed", None, "NonFiniteLossError: loss is nan")
    assert hand.ended == [config["uid"]]


def test_failure_after_a_score_is_a_failure(plan: SweepPlan) -> None:
    hand = Hand(plan)
    trial_id, _ = hand.next()
    hand.search.judge(trial_id, result(1, 0.4))
    hand.search.on_trial_complete(trial_id, {**result(1, 0.4), "failed": "RuntimeError: gone"})
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.error) == ("failed", "RuntimeError: gone")
    assert hand.ledger.best(V1_CONTRASTIVE) == []


def rest_ends_well(hand: Hand) -> None:
    """Complete whatever is handed out."""
    while (handed := hand.next())[1] != Searcher.FINISHED:
        hand.search.on_trial_complete(handed[0], result(9, 0.4))


def test_trial_whose_workers_die_at_every_attempt_is_run_once_more_when_all_have_ended(plan: SweepPlan) -> None:
    hand = Hand(plan)
    dead, job = hand.next()
    hand.search.on_trial_complete(dead, error=True)
    rest_ends_well(hand)
    assert hand.state(V1_CONTRASTIVE, 0) == "running"
    assert hand.search.due == 0
    assert hand.search.give_last_chance() == 1
    assert hand.search.due == 1
    again, same = hand.next()
    assert same["uid"] == job["uid"]
    hand.search.on_trial_complete(again, result(9, 0.4))
    assert hand.state(V1_CONTRASTIVE, 0) == "complete"
    assert hand.search.give_last_chance() == 0


def test_trial_that_kills_its_workers_every_time_fails_alone(plan: SweepPlan) -> None:
    hand = Hand(plan)
    dead, job = hand.next()
    hand.search.on_trial_complete(dead, error=True)
    rest_ends_well(hand)
    hand.search.give_last_chance()
    hand.search.on_trial_complete(hand.next()[0], error=True)
    assert hand.state(V1_CONTRASTIVE, 0) == "running"
    assert hand.search.give_last_chance() == 0
    (record, *others) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.error) == ("failed", "its worker group died at every attempt")
    assert {other.state for other in others} == {"complete"}
    assert job["uid"] in hand.ended


def test_machine_that_breaks_at_the_end_fails_no_trial(tmp_path: Path) -> None:
    hand = Hand(small_plan(tmp_path, trials=4))
    for _ in range(DEATHS_IN_A_ROW):
        dead, other = hand.next()[0], hand.next()[0]
        hand.search.on_trial_complete(dead, error=True)
        hand.search.on_trial_complete(other, result(9, 0.4))
    rest_ends_well(hand)
    assert hand.search.give_last_chance() == DEATHS_IN_A_ROW
    for _ in range(DEATHS_IN_A_ROW):
        assert hand.search.failure is None
        hand.search.on_trial_complete(hand.next()[0], error=True)
    assert "in a row died" in str(hand.search.failure)
    records = [record for key in hand.ledger.plan.studies for record in Ledger(hand.ledger.plan).study_records(key)]
    assert sorted(record.state for record in records) == ["complete"] * 5 + ["running"] * 3


def test_trials_that_kill_their_workers_do_not_hold_up_every_resume(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, trials=4)
    deaths = 0
    while True:
        hand = Hand(plan)
        first = hand.search.left - hand.search.due  # those that died in a former run come last
        assert first == (0 if not deaths else 3)
        if hand.search.due:
            handed = [hand.next()[0] for _ in range(hand.search.due)]
            for trial_id in handed:
                poisonous = hand.search.running[trial_id].study == V1_CONTRASTIVE
                number = hand.search.running[trial_id].trial.number
                died = poisonous and number < 3
                hand.search.on_trial_complete(trial_id, None if died else result(9, 0.4), error=died)
        count = hand.search.give_last_chance()
        for _ in range(count):
            hand.search.on_trial_complete(hand.next()[0], error=True)
        deaths += 1
        if hand.search.failure is None:
            break
        assert deaths < 4
    assert hand.search.give_last_chance() == 0
    states = [record.state for record in Ledger(plan).study_records(V1_CONTRASTIVE)]
    assert states == ["failed"] * 3 + ["complete"]


def test_error_after_a_trials_end_stops_the_sweep_without_running_it_again(plan: SweepPlan) -> None:
    hand = Hand(plan)

    def full(_: OpenTrial) -> None:
        raise StorageError("could not delete weights: disk full")

    hand.search._on_finished = full
    trial_id, _ = hand.next()
    hand.search.on_trial_complete(trial_id, result(9, 0.4))  # an error from here makes Tune run the trial again
    assert "disk full" in str(hand.search.failure)
    assert hand.state(V1_CONTRASTIVE, 0) == "complete"
    assert hand.next()[1] == Searcher.FINISHED


def test_machine_whose_workers_all_die_uses_up_no_trial(plan: SweepPlan) -> None:
    hand = Hand(plan)
    for _ in range(DEATHS_IN_A_ROW):
        assert hand.search.failure is None
        trial_id, _ = hand.next()
        hand.search.on_trial_complete(trial_id, error=True)
    assert "3 trials in a row died" in str(hand.search.failure)
    assert hand.next()[1] == Searcher.FINISHED
    assert hand.ended == []
    states = {record.state for key in plan.studies for record in Ledger(plan).study_records(key)}
    assert states == {"running"}


def test_last_trials_of_a_sweep_that_died_have_their_chance_too(plan: SweepPlan) -> None:
    hand = Hand(plan)
    handed = []
    while (following := hand.next())[1] != Searcher.FINISHED:
        handed.append(following[0])
    for trial_id in handed[:-1]:
        hand.search.on_trial_complete(trial_id, result(9, 0.4))
    hand.search.on_trial_complete(handed[-1], error=True)
    assert hand.search.give_last_chance() == 1


def test_score_that_is_not_finite_fails_the_trial(plan: SweepPlan) -> None:
    hand = Hand(plan)
    trial_id, _ = hand.next()
    assert not hand.search.judge(trial_id, result(1, math.nan))
    hand.search.on_trial_complete(trial_id, result(9, math.nan))
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value) == ("failed", None)
    assert all(math.isfinite(score) for score in record.scores.values())


@pytest.mark.parametrize("last", [None, result(1, 0.4)], ids=["before a score", "after a score"])
def test_interrupted_trial_stays_running_in_the_ledger(plan: SweepPlan, last: dict[str, Any] | None) -> None:
    hand = Hand(plan)
    trial_id, config = hand.next()
    if last:
        hand.search.judge(trial_id, last)
    hand.search.on_trial_complete(trial_id, last)
    assert hand.state(V1_CONTRASTIVE, 0) == "running"
    assert hand.ended == []
    assert Hand(plan).next()[1]["uid"] == config["uid"]


def test_score_to_beat_is_that_of_the_worst_kept_trial(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, trials=5, keep_weights=2, targets=(V1_CONTRASTIVE.target,))
    hand = Hand(plan)
    beaten = []
    for score in (0.5, 0.3, 0.4, 0.6):
        trial_id, config = hand.next()
        beaten.append(config["beat"])
        hand.search.on_trial_complete(trial_id, result(9, score))
    beaten.append(hand.next()[1]["beat"])
    assert beaten == [-1.0, -1.0, 0.3, 0.4, 0.5]  # all are kept until two are


def test_untuned_trial_completes_at_epoch_zero(tmp_path: Path) -> None:
    hand = Hand(small_plan(tmp_path, methods=("untuned",)))
    trial_id, _ = hand.next()
    assert not hand.search.judge(trial_id, result(0, 0.2))
    hand.search.on_trial_complete(trial_id, result(0, 0.2))
    (record,) = hand.ledger.study_records(V1_UNTUNED)
    assert (record.state, record.value, record.scores) == ("complete", 0.2, {0: 0.2})


OUT_OF_MEMORY = {"failed": "out of memory: 3 GiB wanted", "out_of_memory": True, "done": True}


def test_trial_out_of_memory_runs_last_and_alone_then_fails_alone(plan: SweepPlan) -> None:
    hand = Hand(plan, larger_share=True)
    (first, large), (second, _) = hand.next(), hand.next()
    hand.search.on_trial_complete(first, OUT_OF_MEMORY)
    assert (hand.ended, hand.state(V1_CONTRASTIVE, 0)) == ([], "running")
    later = [hand.next(), hand.next()]
    assert not any(job["alone"] or job["uid"] == large["uid"] for _, job in later), "it waits for the others"
    assert hand.next()[1] is None, "those that run may come back too"
    assert hand.search.due == 1
    for trial_id in (second, *(trial_id for trial_id, _ in later)):
        hand.search.on_trial_complete(trial_id, result(9, 0.5))
    again, job = hand.next()
    assert (job["uid"], job["alone"]) == (large["uid"], True)
    assert hand.next()[1] == Searcher.FINISHED
    hand.search.on_trial_complete(again, OUT_OF_MEMORY)
    assert hand.state(V1_CONTRASTIVE, 0) == "failed"
    assert hand.search.failure is None
    assert hand.search.due == 0


def test_without_a_larger_share_it_fails_at_once(plan: SweepPlan) -> None:
    hand = Hand(plan)
    hand.search.on_trial_complete(hand.next()[0], OUT_OF_MEMORY)
    assert hand.state(V1_CONTRASTIVE, 0) == "failed"
    assert Ledger(plan).study_records(V1_CONTRASTIVE)[0].error == OUT_OF_MEMORY["failed"]
