"""A sweep whose first run fails before its first trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.launch import _make, load_plan, planned
from orchestrator.ledger import Ledger
from orchestrator.planning import SweepOptions
from tests.sweeps import at_once

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
    assert _make(places, plan, weights)
    ledger = Ledger(load_plan(places))
    ledger.open_studies()
    ledger.finish(ledger.ask(next(iter(plan.studies))), "failed", None, {}, "broken")
    damage(demo_copy)
    told = at_once(*words).stderr
    assert (CONSTANT in told, told.count("Error"), "Traceback" in told) == (True, 1, False)
    assert (storage / "x/plan.json").exists()
    assert (storage / "x/ledger.journal").exists()
