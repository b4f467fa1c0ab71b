from __future__ import annotations

import math
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.ledger_storage import open_storage
from orchestrator.plan import SweepPlan
from tests.orchestrator.plans import (
    CUTOFFS,
    EBA_CONTRASTIVE,
    V1_CONTRASTIVE,
    V1_REGRESSION,
    V1_UNTUNED,
    complete,
    explored,
    open_ledger,
    small_plan,
)
from trainables.errors import StorageError

SCORES = (0.11, 0.17, 0.13, 0.19, 0.12, 0.18)


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return small_plan(tmp_path)


def asked(ledger: Ledger, count: int) -> list[OpenTrial]:
    """The next ``count`` contrastive trials of V1v, run one after another."""
    trials = []
    for _ in range(count):
        trial = ledger.ask(V1_CONTRASTIVE)
        complete(ledger, trial, {9: SCORES[trial.trial.number]})
        trials.append(trial)
    return trials


def raw_trials(plan: SweepPlan, study: str) -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna itself has them."""
    return optuna.load_study(storage=open_storage(plan.ledger), study_name=study_name(plan, study)).trials


def study_name(plan: SweepPlan, study: str) -> str:
    return f"{plan.name}-{plan.sweep_id}/{study}"


def test_first_trial_is_the_published_recipe(tmp_path: Path) -> None:
    ledger = open_ledger(small_plan(tmp_path, methods=("untuned", "contrastive", "regression")))
    assert explored(ledger.ask(V1_CONTRASTIVE)) == (0.3, CUTOFFS[-1], 1e-4)
    regression = ledger.ask(V1_REGRESSION).config
    assert (regression.layer_cutoff, regression.learning_rate) == (CUTOFFS[-1], 1e-4)
    untuned = ledger.ask(V1_UNTUNED).config
    assert (untuned.method, untuned.epochs, untuned.layer_cutoff) == ("untuned", 0, CUTOFFS[-1])


def test_configuration_carries_the_plan(tmp_path: Path) -> None:
    ledger = open_ledger(small_plan(tmp_path, epochs=10, grace_epochs=2, batch_size=48, seed=5))
    config = ledger.ask(EBA_CONTRASTIVE).config
    assert (config.target, config.method) == (EBA_CONTRASTIVE.target, "contrastive")
    assert (config.epochs, config.batch_size, config.seed, config.backbone) == (10, 48, 5, "alexnet")
    assert config.scored_epochs == (2, 6, 10)


def test_trial_is_in_the_ledger_before_it_starts(plan: SweepPlan) -> None:
    trial = open_ledger(plan).ask(V1_CONTRASTIVE)
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value, record.ended_ms) == ("running", None, None)
    assert record.config == trial.config.to_dict()
    assert record.uid == trial.uid == "subj01/lh/V1v/contrastive/00000"
    assert record.started_ms > 0


def test_complete_trial_is_read_back(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {1: 0.1, 3: 0.4, 9: 0.2}, weights="/there")
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value, record.error) == ("complete", 0.4, None)
    assert record.scores == {1: 0.1, 3: 0.4, 9: 0.2}
    assert (record.details["best_epoch"], record.details["weights"]) == (3, "/there")
    assert record.ended_ms is not None
    assert record.ended_ms >= record.started_ms


def test_running_trial_of_a_dead_driver_is_taken_up_as_itself(plan: SweepPlan) -> None:
    dead = open_ledger(plan)
    asked(dead, 2)
    running = [dead.ask(V1_CONTRASTIVE), dead.ask(EBA_CONTRASTIVE)]
    dead.report(running[0], 1, 0.9)
    ledger = open_ledger(plan)
    again = ledger.interrupted()
    assert [(t.uid, t.config) for t in again] == [(t.uid, t.config) for t in running]
    complete(ledger, again[0], {1: 0.9, 9: 0.95})
    states = [(record.number, record.state) for record in Ledger(plan).study_records(V1_CONTRASTIVE)]
    assert states == [(0, "complete"), (1, "complete"), (2, "complete")]
    assert [trial.uid for trial in open_ledger(plan).interrupted()] == [running[1].uid]


@pytest.mark.parametrize("number", [0, 1, 4])
def test_trial_that_died_before_its_parameters_were_drawn_gets_the_same_ones(tmp_path: Path, number: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = asked(open_ledger(small_plan(tmp_path / "whole")), number + 1)[number]
    plan = small_plan(tmp_path)
    asked(open_ledger(plan), number)
    study = optuna.load_study(storage=open_storage(plan.ledger), study_name=study_name(plan, V1_CONTRASTIVE.name))
    assert study.ask().number == number  # the driver dies here
    (again,) = open_ledger(plan).interrupted()
    assert again.trial.number == number
    assert explored(again) == explored(whole)


def test_study_that_died_before_its_first_trial_was_queued_gets_it(plan: SweepPlan) -> None:
    optuna.create_study(
        storage=open_storage(plan.ledger), study_name=study_name(plan, V1_CONTRASTIVE.name), direction="maximize"
    )  # the driver dies here
    assert explored(open_ledger(plan).ask(V1_CONTRASTIVE)) == (0.3, CUTOFFS[-1], 1e-4)


def test_opening_again_queues_nothing_twice(plan: SweepPlan) -> None:
    open_ledger(plan)
    open_ledger(plan)
    assert [trial.state for trial in raw_trials(plan, V1_CONTRASTIVE.name)] == [TrialState.WAITING]
    asked(open_ledger(plan), 1)
    open_ledger(plan)
    assert [trial.state for trial in raw_trials(plan, V1_CONTRASTIVE.name)] == [TrialState.COMPLETE]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_score_that_is_not_finite_is_a_failure(plan: SweepPlan, value: float | None) -> None:
    ledger = open_ledger(plan)
    ledger.finish(ledger.ask(V1_CONTRASTIVE), "complete", value, {})
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value) == ("failed", None)
    assert record.error == f"validation score is {value}"
    assert ledger.best(V1_CONTRASTIVE) == []


@pytest.mark.parametrize("database", [False, True], ids=["journal", "database"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_times_are_those_of_the_clock_in_every_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, database: bool
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        plan = small_plan(tmp_path, **({"ledger": f"sqlite:///{tmp_path / 'ledger.db'}"} if database else {}))
        before = int(time.time() * 1000)
        ledger = open_ledger(plan)
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.5})
        (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
        assert record.ended_ms is not None
        assert before <= record.started_ms <= record.ended_ms <= time.time() * 1000 + 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_failed_trial_keeps_its_error(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    ledger.finish(ledger.ask(V1_CONTRASTIVE), "failed", None, {"history": []}, "NonFiniteLossError: loss is nan")
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.error) == ("failed", "NonFiniteLossError: loss is nan")


def test_pruning_compares_within_a_study(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    assert not ledger.report(ledger.ask(V1_CONTRASTIVE), 1, 0.90)  # the first of its study
    assert not ledger.report(ledger.ask(EBA_CONTRASTIVE), 1, 0.10)  # would be last of a common study
    assert not ledger.report(ledger.ask(EBA_CONTRASTIVE), 1, 0.12)  # the best of its own
    assert ledger.report(ledger.ask(V1_CONTRASTIVE), 1, 0.85)  # above all of the other study, below its own
    assert ledger.report(ledger.ask(EBA_CONTRASTIVE), 1, 0.05)


def test_pruning_survives_a_restart(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {1: 0.5, 3: 0.6, 9: 0.7})
    ledger = open_ledger(plan)
    trial = ledger.ask(V1_CONTRASTIVE)
    assert ledger.report(trial, 1, 0.4)
    ledger.finish(trial, "pruned", None, {})
    ledger = open_ledger(plan)
    trial = ledger.ask(V1_CONTRASTIVE)
    assert not ledger.report(trial, 1, 0.55)  # passes the first rung
    assert ledger.report(trial, 3, 0.58)  # not the second
    states = [record.state for record in ledger.study_records(V1_CONTRASTIVE)]
    assert states == ["complete", "pruned", "running"]


def test_last_epoch_prunes_nobody(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {1: 0.1, 3: 0.1, 9: 0.9})
    trial = ledger.ask(V1_CONTRASTIVE)
    assert not ledger.report(trial, 1, 0.2)
    assert not ledger.report(trial, 3, 0.2)
    assert not ledger.report(trial, 9, 0.2)


def test_trial_that_runs_again_keeps_its_first_scores(plan: SweepPlan) -> None:
    dead = open_ledger(plan)
    dead.report(dead.ask(V1_CONTRASTIVE), 1, 0.5)
    ledger = open_ledger(plan)
    (trial,) = ledger.interrupted()
    assert not ledger.report(trial, 1, 0.4)
    complete(ledger, trial, {1: 0.4, 3: 0.6, 9: 0.7})
    (record,) = ledger.study_records(V1_CONTRASTIVE)
    assert record.scores == {1: 0.5, 3: 0.6, 9: 0.7}


def test_value_of_a_pruned_trial_is_its_last_score(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    trial = ledger.ask(V1_CONTRASTIVE)
    ledger.report(trial, 1, 0.3)
    ledger.report(trial, 3, 0.2)
    ledger.finish(trial, "pruned", None, {})
    (record,) = ledger.study_records(V1_CONTRASTIVE)
    assert (record.state, record.value) == ("pruned", 0.2)


def test_resumed_study_draws_on_where_an_uninterrupted_one_would(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = [explored(trial) for trial in asked(open_ledger(small_plan(tmp_path / "whole")), 6)]
    plan = small_plan(tmp_path)
    resumed: list[tuple[float, str, float]] = []
    for count in (1, 2, 1):
        resumed += [explored(trial) for trial in asked(open_ledger(plan), count)]
    killed = open_ledger(plan).ask(V1_CONTRASTIVE)
    ledger = open_ledger(plan)
    (again,) = ledger.interrupted()
    assert explored(again) == explored(killed)
    complete(ledger, again, {9: SCORES[4]})
    resumed += [explored(again), *(explored(trial) for trial in asked(open_ledger(plan), 1))]
    assert resumed == whole
    assert len({point[0] for point in whole}) == 6


def test_studies_and_seeds_draw_differently(tmp_path: Path) -> None:
    points = set()
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        ledger = open_ledger(small_plan(tmp_path / str(seed), seed=seed))
        for key in (V1_CONTRASTIVE, EBA_CONTRASTIVE):
            ledger.ask(key)
            points.add(explored(ledger.ask(key)))
    assert len(points) == 4


def test_trials_left_counts_what_has_not_ended(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    assert ledger.trials_left() == 12
    asked(ledger, 2)
    ledger.ask(V1_CONTRASTIVE)  # running
    ledger.finish(ledger.ask(EBA_CONTRASTIVE), "failed", None, {}, "broken")
    assert ledger.trials_left() == 12 - 3


def test_best_prefers_the_earlier_of_equals_and_only_complete_ones(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    for score in (0.2, 0.5, 0.5):
        trial = ledger.ask(V1_CONTRASTIVE)
        ledger.finish(trial, "complete", score, {})
    pruned = ledger.ask(V1_CONTRASTIVE)
    ledger.report(pruned, 1, 0.99)
    ledger.finish(pruned, "pruned", None, {})
    assert [record.number for record in ledger.best(V1_CONTRASTIVE, 2)] == [1, 2]
    assert [record.number for record in ledger.best(V1_CONTRASTIVE, 9)] == [1, 2, 0]


def test_sweep_that_died_before_its_studies_were_made_has_no_records(plan: SweepPlan) -> None:
    ledger = Ledger(plan)
    assert ledger.study_records(V1_CONTRASTIVE) == []
    assert ledger.trials_left() == 12


def test_two_sweeps_share_a_database(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'ledger.db'}"
    one, other = (open_ledger(small_plan(tmp_path, ledger=database, name=name)) for name in ("one", "other"))
    complete(one, one.ask(V1_CONTRASTIVE), {9: 0.5})
    assert (one.trials_left(), other.trials_left()) == (11, 12)


def test_damaged_ledger_is_told(plan: SweepPlan) -> None:
    open_ledger(plan)
    journal = Path(plan.ledger)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]))
    with pytest.raises(StorageError, match=r"ledger .* is damaged"):
        Ledger(plan)


@pytest.mark.parametrize("address", ["sqlite:////nowhere/at/all/ledger.db", "nonsense://x"])
def test_ledger_that_cannot_be_opened_is_told(tmp_path: Path, address: str) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger(small_plan(tmp_path, ledger=address))


def fill_the_disk(plan: SweepPlan, ledger: Ledger, step: str) -> None:
    """Do ``step`` with a limit on file size where the journal ends: writes fail as on a full disk."""
    trial = ledger.ask(V1_CONTRASTIVE)
    size = Path(plan.ledger).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        if step == "ask":
            ledger.ask(V1_CONTRASTIVE)
        elif step == "report":
            ledger.report(trial, 1, 0.5)
        elif step == "finish":
            ledger.finish(trial, "complete", 0.5, {})
        else:
            Ledger(plan).interrupted()
    except StorageError as error:
        print(error)
        sys.exit(7)


@pytest.mark.parametrize("step", ["ask", "report", "finish", "interrupted"])
def test_full_disk_is_told_and_loses_nothing(plan: SweepPlan, step: str) -> None:
    asked(open_ledger(plan), 2)
    code = (
        "from pathlib import Path; from tests.orchestrator.plans import *;"
        "from tests.orchestrator.test_ledger import fill_the_disk;"
        f"plan = small_plan(Path({str(Path(plan.ledger).parent)!r}));"
        f"fill_the_disk(plan, open_ledger(plan), {step!r})"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert str(plan.ledger) in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    records = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert [record.value for record in records[:2]] == [SCORES[0], SCORES[1]]
