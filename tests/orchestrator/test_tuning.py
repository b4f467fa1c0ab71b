"""Trials whose workers die at every attempt, on a real Tuner with stubs for slots."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from rich.console import Console

from cluster.profiles import PROFILES
from orchestrator import tuning
from orchestrator.ledger import Ledger
from orchestrator.progress import SweepProgress
from orchestrator.storage import SweepStorage
from tests.orchestrator.plans import EBA_CONTRASTIVE, V1_CONTRASTIVE, open_ledger, small_plan
from trainables.errors import StorageError

pytestmark = [pytest.mark.timeout(280), pytest.mark.long]
ATTEMPTS = 1 + tuning.SLOT_ATTEMPTS


class StubSlot(tune.Trainable):
    """Dies as often as a file says for its trial, then gives a score."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = new_config["trial"]
        return True

    def step(self) -> dict[str, Any]:
        place = Path(self.trial["weights_dir"].removeprefix("file://")).parents[3] / "deaths"
        target, number = self.trial["config"]["target"], self.trial["weights_dir"][-5:]
        left = place / f"{target['subjects'][0]}-{number}"
        if left.exists() and (deaths := int(left.read_text())):
            left.write_text(str(deaths - 1))
            raise RuntimeError("the worker group of this slot has ended")
        return {"epoch": self.trial["config"]["epochs"], "score": 0.4, "best_score": 0.4, "done": True}


class SlowToStart(StubSlot):
    """Trials of a moment; all slots but the first take as long to start as many of them."""

    def setup(self, config: dict[str, Any]) -> None:
        place = Path(config["trial"]["weights_dir"].removeprefix("file://")).parents[3] / "slots"
        place.mkdir(exist_ok=True)
        (place / str(os.getpid())).touch()
        self.mine = place / str(os.getpid())
        if len(list(place.iterdir())) > 1:
            time.sleep(5)
        super().setup(config)

    def step(self) -> dict[str, Any]:
        time.sleep(0.3)
        with self.mine.open("a") as file:
            file.write("trial\n")
        return super().step()


@pytest.fixture
def sweep(shared_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SweepStorage, Ledger]:
    monkeypatch.setattr(tuning, "Slot", StubSlot)
    storage = SweepStorage(str(tmp_path), "stubs")
    storage.create()
    (tmp_path / "stubs/deaths").mkdir()
    return storage, open_ledger(small_plan(tmp_path, trials=2))


def run(storage: SweepStorage, ledger: Ledger, deaths: dict[str, int]) -> bool:
    for name, count in deaths.items():
        (Path(str(storage.root)) / "deaths" / name).write_text(str(count))
    progress = SweepProgress(Console(quiet=True), ledger.plan, quiet=True)
    return tuning.run_trials(storage, ledger, PROFILES["cpu"], 2, progress)


def states(ledger: Ledger) -> list[str]:
    again = Ledger(ledger.plan)
    return [record.state for key in (V1_CONTRASTIVE, EBA_CONTRASTIVE) for record in again.study_records(key)]


def test_slots_come_to_be_though_trials_are_shorter_than_their_start(
    shared_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray by itself gives the trial of a slot that is starting to one that is free, ends the former, starts another."""
    monkeypatch.setattr(tuning, "Slot", SlowToStart)
    storage = SweepStorage(str(tmp_path), "stubs")
    storage.create()
    ledger = open_ledger(small_plan(tmp_path, trials=20))
    (tmp_path / "stubs/deaths").mkdir()
    assert run(storage, ledger, {})
    assert states(ledger) == ["complete"] * 40
    slots = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "stubs/slots").iterdir()}
    assert len(slots) == 2, f"no slot was ended while it started: {slots}"
    assert min(slots.values()) > 1, slots


def test_tune_keeps_no_results_of_trials_that_have_ended(
    sweep: tuple[SweepStorage, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a driver's memory grows with every result of ten thousand trials, and a folder is written for each."""
    fitted: list[tune.ResultGrid] = []
    fit = tune.Tuner.fit

    def fit_and_keep(tuner: tune.Tuner) -> tune.ResultGrid:
        fitted.append(fit(tuner))
        return fitted[-1]

    monkeypatch.setattr(tune.Tuner, "fit", fit_and_keep)
    assert run(*sweep, {"subj01-00000": 100})
    ended = [trial for grid in fitted for trial in grid._experiment_analysis.trials]
    assert Counter(trial.status for trial in ended) == {"TERMINATED": 3, "ERROR": 2}  # twice: it has a last chance
    for trial in ended:
        metadata = trial.run_metadata
        assert not metadata.metric_analysis
        assert not metadata.metric_n_steps
        assert set(metadata.last_result) <= {"done", "trial_id"}
        assert not isinstance(trial._default_result_or_future, ray.ObjectRef)
    assert not list(Path(sweep[0].scratch.removeprefix("file://")).rglob("checkpoint_*"))


def test_trial_that_was_hit_at_every_attempt_ends_well_at_the_end(sweep: tuple[SweepStorage, Ledger]) -> None:
    assert run(*sweep, {"subj01-00000": ATTEMPTS, "subj02-00001": 1})
    assert states(sweep[1]) == ["complete"] * 4


def test_trial_that_kills_its_workers_fails_and_the_rest_is_done(sweep: tuple[SweepStorage, Ledger]) -> None:
    assert run(*sweep, {"subj01-00000": 100})
    assert states(sweep[1]) == ["failed", "complete", "complete", "complete"]


def test_machine_that_kills_every_worker_stops_the_sweep_and_a_resume_goes_on(
    sweep: tuple[SweepStorage, Ledger],
) -> None:
    names = [f"subj0{subject}-0000{number}" for subject in (1, 2) for number in (0, 1)]
    with pytest.raises(StorageError, match="in a row died"):
        run(*sweep, dict.fromkeys(names, 100))
    assert set(states(sweep[1])) == {"running"}
    assert run(*sweep, dict.fromkeys(names, 0))
    assert states(sweep[1]) == ["complete"] * 4
