"""The ledger's file: Optuna's format to the letter, and on the disk whenever a trial has ended."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.ledger_storage import Journal
from orchestrator.plan import SweepPlan
from tests.orchestrator.plans import V1_CONTRASTIVE, complete, open_ledger, small_plan


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return small_plan(tmp_path)


def test_whatever_ended_is_on_the_disk_with_all_before_it(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk: list[int] = []

    def waited_for(file: int) -> None:
        on_disk.append(os.fstat(file).st_size)

    ledger = open_ledger(plan)
    monkeypatch.setattr(os, "fsync", waited_for)
    size = Path(plan.ledger).stat
    trial = ledger.ask(V1_CONTRASTIVE)
    assert on_disk == [size().st_size], "its parameters must not change once MLflow has shown them"
    ledger.report(trial, 1, 0.1)
    assert len(on_disk) == 2, "a snapshot elsewhere goes on behind this score"
    complete(ledger, trial, {9: 0.2})
    assert on_disk[-1] == size().st_size
    failed = ledger.ask(V1_CONTRASTIVE)
    ledger.finish(failed, "failed", None, {}, "no reason")
    assert on_disk[-1] == size().st_size
    assert len(on_disk) == 6


def test_optunas_own_journal_reads_and_goes_on_with_it(tmp_path: Path) -> None:
    own, plain = (str(tmp_path / name) for name in ("own", "plain"))

    def ran(storage: JournalStorage) -> None:
        study = optuna.create_study(
            storage=storage, study_name="study", sampler=optuna.samplers.RandomSampler(seed=0), load_if_exists=True
        )
        study.set_user_attr("name", "naïve\n")
        for _ in range(2):
            trial = study.ask()
            trial.report(trial.suggest_float("x", 0, 1), 1)
            study.tell(trial, trial.params["x"])

    ran(JournalStorage(Journal(own)))
    ran(JournalStorage(JournalFileBackend(plain)))
    assert [set(line) for line in JournalFileBackend(own).read_logs(0)] == [
        set(line) for line in JournalFileBackend(plain).read_logs(0)
    ]
    ran(JournalStorage(JournalFileBackend(own)))
    (study,) = JournalStorage(Journal(own)).get_all_studies()
    trials = JournalStorage(Journal(own)).get_all_trials(study._study_id)
    assert [trial.value for trial in trials] == [trial.params["x"] for trial in trials]
    assert len(trials) == 4


def test_full_disk_leaves_the_file_free_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path / "journal"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append_logs([{"op_code": 0, "datetime_complete": ""}])
    began = time.monotonic()
    journal.append_logs([{"op_code": 1}])
    assert time.monotonic() - began < 5, "Optuna waits half a minute for a lock that nobody gives back"
    assert [line["op_code"] for line in journal.read_logs(0)] == [0, 1]
