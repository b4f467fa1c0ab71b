"""A sweep whose first run fails before its first trial."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import ray
from mlflow import MlflowClient
from ray._private.services import canonicalize_bootstrap_address
from rich.console import Console

from orchestrator import tuning
from orchestrator.driver import sole_driver
from orchestrator.launch import _unmake, execute, make_sweep, planned
from orchestrator.ledger import Ledger
from orchestrator.opening import load_plan
from orchestrator.plan import SweepPlan
from orchestrator.planning import SweepOptions
from orchestrator.storage import SweepStorage
from tests.sweeps import at_once
from trainables.errors import ConfigError, StorageError
from trainables.models.weights import load_weights

CONSTANT = "are the same for all training stimuli"
V1 = ("--weights=random", "--space=smoke", "--rois=V1v", "--hemispheres=lh")


def damage(demo_copy: Path) -> None:
    """Constant voxels, which only a look at the responses finds."""
    responses = demo_copy / "subj01/training_split/training_fmri/lh_training_fmri.npy"
    array = np.load(responses)
    np.save(responses, np.full_like(array, 0.5))


def experiments(storage: Path) -> list[str]:
    return [experiment.name for experiment in MlflowClient(f"sqlite:///{storage / 'mlflow.db'}").search_experiments()]


@pytest.mark.parametrize("foreign", [(), ("x/notes.txt",)], ids=["new folder", "folder with a file of somebody"])
def test_failed_first_run_leaves_its_name_free(demo_copy: Path, tmp_path: Path, foreign: tuple[str, ...]) -> None:
    storage = tmp_path / "results"
    for name in foreign:
        (storage / name).parent.mkdir(parents=True)
        (storage / name).write_text("mine")
    damage(demo_copy)
    words: list[str | Path] = ["run", "--data", demo_copy, "--name=x", *V1, "--storage", storage]
    told = at_once(*words).stderr
    assert (CONSTANT in told, told.count("Error"), "Traceback" in told) == (True, 1, False)
    assert not (storage / "x/plan.json").exists()
    assert not (storage / "x/weights.safetensors").exists()
    assert (storage / "x").exists() == bool(foreign)
    assert experiments(storage) == ["Default"]
    assert all((storage / name).read_text() == "mine" for name in foreign)
    # Other options under the same name: refused if the failed run had left its sweep.
    told = at_once(*words, "--epochs", "3").stderr
    assert (CONSTANT in told, told.count("Error"), "Traceback" in told) == (True, 1, False)


def test_sweep_that_has_trials_outlives_a_failed_run(demo_copy: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    words: list[str | Path] = ["run", "--data", demo_copy, "--name=x", *V1, "--storage", storage]
    options = SweepOptions(str(demo_copy), "x", str(storage), hemispheres="lh", rois="V1v", space="smoke")
    options = replace(options, weights="random")
    places, plan, _, weights = planned(options, Console(quiet=True))
    assert make_sweep(places, plan, weights)
    ledger = Ledger(load_plan(places))
    ledger.open_studies()
    ledger.finish(ledger.ask(next(iter(plan.studies))), "failed", None, {}, "broken")
    damage(demo_copy)
    told = at_once(*words).stderr
    assert (CONSTANT in told, told.count("Error"), "Traceback" in told) == (True, 1, False)
    assert (storage / "x/plan.json").exists()
    assert (storage / "x/ledger.journal").exists()


def made(demo_copy: Path, storage: Path) -> tuple[SweepStorage, SweepPlan]:
    """A sweep that one process has made and not begun."""
    options = SweepOptions(str(demo_copy), "x", str(storage), hemispheres="lh", rois="V1v", space="smoke")
    places, plan, _, weights = planned(replace(options, weights="random"), Console(quiet=True))
    assert make_sweep(places, plan, weights)
    return places, load_plan(places)


def test_what_is_to_know_of_weights_is_not_said_before_a_fault(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.launch.prepare_weights", lambda *_: (load_weights("random"), "NOTE: random"))
    options = SweepOptions(str(demo_root), "x", str(tmp_path), hemispheres="lh", rois="V1v", space="smoke")
    with pytest.raises(ConfigError, match="--cutoffs holds 'nowhere'"):
        planned(replace(options, cutoffs="nowhere"), Console())
    assert capsys.readouterr().out == ""
    planned(options, Console())
    assert capsys.readouterr().out == "NOTE: random\n"


def test_run_that_another_one_overtook_leaves_it_its_sweep(demo_copy: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    words: list[str | Path] = ["run", "--data", demo_copy, "--name=x", *V1, "--storage", storage]
    places = SweepStorage(str(storage), "x")
    with ExitStack() as other:

        def make(*arguments: Any) -> bool:
            """This process makes the sweep, and another one is faster to run it."""
            assert make_sweep(*arguments)
            plan = load_plan(places)
            other.enter_context(sole_driver(places.driver_lock, plan.ledger, plan.sweep_id))
            return True

        with patch("orchestrator.launch.make_sweep", make):
            told = at_once(*words)
    assert (told.returncode, "another process is running this sweep" in told.stderr) == (1, True)
    assert places.plan_file.exists()
    assert places.weights_file.exists()


def test_sweep_that_another_process_runs_is_not_taken_back(demo_copy: Path, tmp_path: Path) -> None:
    places, plan = made(demo_copy, tmp_path / "results")
    with sole_driver(places.driver_lock, plan.ledger, plan.sweep_id):
        _unmake(places, plan, folder_is_new=True)
        assert places.plan_file.exists()
    _unmake(places, plan, folder_is_new=True)
    assert not places.root.exists()


def test_sweep_that_was_taken_back_meanwhile_is_not_run(demo_copy: Path, tmp_path: Path) -> None:
    places, plan = made(demo_copy, tmp_path / "results")
    _unmake(places, plan, folder_is_new=True)
    with pytest.raises(StorageError, match="run it again"):
        execute(plan, places, None, Console(quiet=True), quiet=True)
    assert not (tmp_path / "results/x/ledger.journal").exists()


def test_what_ray_left_of_former_runs_is_deleted(demo_copy: Path, tmp_path: Path) -> None:
    places, plan = made(demo_copy, tmp_path / "results")
    Path(places.scratch, "tune-1/Slot_1/checkpoint_000000").mkdir(parents=True)
    with patch("orchestrator.launch._run_left", return_value=True):
        execute(plan, places, None, Console(quiet=True), quiet=True)
    assert not Path(places.scratch).exists()


def test_another_cluster_of_this_machine_is_not_joined_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setenv("RAY_worker_maximum_startup_concurrency", "1")
    monkeypatch.setattr(tuning, "_keep_token_private", lambda: None)
    joined: list[str] = []
    monkeypatch.setattr(ray, "init", lambda address="auto", **options: joined.append(address))
    tuning._start_ray(2, {})
    (address,) = joined
    assert canonicalize_bootstrap_address(address) is None
    assert canonicalize_bootstrap_address("auto") is not None, "what Ray does with an address that it finds"


def test_address_in_the_environment_alone_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would join it; a second Ray beside it would count GPUs that the first has given away."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(ConfigError, match="RAY_ADDRESS is 127.0.0.1:6379; .*--address auto"), tuning.ray_running(None):
        pass
