"""Sweeps that are renamed, put away and deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from orchestrator import housekeeping
from orchestrator.driver import SweepIsDrivenError, sole_driver
from orchestrator.housekeeping import archive, delete, rename, unarchive
from orchestrator.launch import execute
from orchestrator.opening import load_plan, open_sweep
from orchestrator.storage import SweepStorage, sweep_names
from orchestrator.tracking.keeping import KeptExperiment
from orchestrator.tracking.projection import Projection
from tests.orchestrator.plans import V1_CONTRASTIVE, complete
from tests.orchestrator.selected import selected_sweep
from trainables.data.algonauts import AlgonautsDataset
from trainables.errors import ConfigError, StorageError


@pytest.fixture
def places(demo: AlgonautsDataset, tmp_path: Path) -> SweepStorage:
    """Selected and in MLflow, with an artifact, a registered model, and weights of a trial that nobody chose."""
    storage, ledger = selected_sweep(demo, tmp_path)
    projection = Projection(ledger, storage.artifacts_uri)
    client, run_id = projection.client, projection.run_id(V1_CONTRASTIVE.name + "/00000")
    assert run_id is not None
    client.log_text(run_id, "a figure", "figure.txt")
    client.create_registered_model("demo.subj01-lh-V1v")
    source = client.get_run(run_id).info.artifact_uri
    client.create_model_version("demo.subj01-lh-V1v", source, run_id, tags={"sweep.id": ledger.plan.sweep_id})
    left = storage.trial_dir(V1_CONTRASTIVE.target, "contrastive", 9)
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"x" * 5000)
    return storage


def scores(name: str, storage: Path) -> dict[str, float | None]:
    _, ledger = open_sweep(name, str(storage))
    return {record.uid: record.value for key in ledger.plan.studies for record in ledger.study_records(key)}


def experiments(places: SweepStorage) -> dict[str, str]:
    client = MlflowClient(places.default_tracking_uri)
    return {e.name: e.lifecycle_stage for e in client.search_experiments(ViewType.ALL) if e.name != "Default"}


def test_renamed_sweep_has_everything_and_can_be_renamed_again(places: SweepStorage, tmp_path: Path) -> None:
    before = scores("small", tmp_path)
    for old, new in (("small", "large"), ("large", "huge")):
        rename(old, new, str(tmp_path))
        assert (sweep_names(str(tmp_path)), scores(new, tmp_path)) == ([new], before)
        assert experiments(places) == {new: "active"}
        with pytest.raises(StorageError, match=f"no sweep '{old}'|is called '{new}' now"):
            open_sweep(old, str(tmp_path))
    found, ledger = open_sweep("huge", str(tmp_path))
    projection = Projection(ledger, found.artifacts_uri)
    n_runs = len(projection.client.search_runs([projection.experiment_id]))
    projection.sync(ended=True)
    assert len(projection.client.search_runs([projection.experiment_id])) == n_runs, "its runs are known again"
    run_id = projection.run_id(V1_CONTRASTIVE.name + "/00000") or ""
    local = projection.client.download_artifacts(run_id, "figure.txt", str(tmp_path))
    assert Path(local).read_text() == "a figure"
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.3})  # the ledger goes on where it was
    assert len(scores("huge", tmp_path)) == len(before) + 1
    rename("huge", "small", str(tmp_path))
    assert sweep_names(str(tmp_path)) == ["small"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["small"]


@pytest.mark.parametrize("dies_at", ["rename", "write_json", "write_plan"])
def test_renaming_that_died_half_way_is_done_by_the_next_one(
    places: SweepStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    before = scores("small", tmp_path)
    with monkeypatch.context() as patched:
        owner: Any = KeptExperiment if dies_at == "rename" else housekeeping
        patched.setattr(owner, dies_at, lambda *_: pytest.fail("power cut", pytrace=False))
        with pytest.raises(pytest.fail.Exception):
            rename("small", "large", str(tmp_path))
    assert scores("small", tmp_path) == before
    _, ledger = open_sweep("small", str(tmp_path))
    assert Projection(ledger, places.artifacts_uri).run_id(V1_CONTRASTIVE.name + "/00000"), "MLflow is found by its id"
    rename("small", "large", str(tmp_path))
    assert (scores("large", tmp_path), experiments(places)) == (before, {"large": "active"})


def test_archived_sweep_can_be_renamed(places: SweepStorage, tmp_path: Path) -> None:
    archive("small", str(tmp_path))
    rename("small", "large", str(tmp_path))
    assert sweep_names(str(tmp_path), archived=True) == ["large"]
    assert experiments(places) == {"large": "deleted"}
    delete("large", str(tmp_path))
    assert list(tmp_path.glob("*/")) == []


def test_archived_sweep_is_hidden_keeps_what_was_selected_and_comes_back(places: SweepStorage, tmp_path: Path) -> None:
    before = scores("small", tmp_path)
    chosen = places.trial_dir(V1_CONTRASTIVE.target, "contrastive", 0)
    assert archive("small", str(tmp_path)).n_bytes == 0, "trial 9 is not in the ledger: not this sweep's to delete"
    assert (sweep_names(str(tmp_path)), sweep_names(str(tmp_path), archived=True)) == ([], ["small"])
    assert experiments(places) == {"small": "deleted"}
    assert chosen.exists()
    with pytest.raises(StorageError, match="sweep small is archived; `sweep.py archive --undo small"):
        execute(load_plan(places), places, None, console=None, quiet=True)  # type: ignore[arg-type]
    unarchive("small", str(tmp_path))
    assert (sweep_names(str(tmp_path)), experiments(places)) == (["small"], {"small": "active"})
    assert scores("small", tmp_path) == before


def test_archiving_frees_weights_that_nobody_selected(places: SweepStorage, tmp_path: Path) -> None:
    _, ledger = open_sweep("small", str(tmp_path))
    trial = ledger.ask(V1_CONTRASTIVE)
    complete(ledger, trial, {9: 0.1})
    place = places.trial_dir(V1_CONTRASTIVE.target, "contrastive", trial.trial.number)
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"x" * 7000)
    better = ledger.ask(V1_CONTRASTIVE)
    complete(ledger, better, {9: 0.9})  # since the selection: the next one would choose it
    kept = places.trial_dir(V1_CONTRASTIVE.target, "contrastive", better.trial.number)
    kept.mkdir(parents=True)
    assert archive("small", str(tmp_path)).n_bytes >= 7000
    assert (place.exists(), kept.exists()) == (False, True)


def test_deleted_sweep_leaves_nothing_but_a_free_name(places: SweepStorage, tmp_path: Path) -> None:
    freed = delete("small", str(tmp_path))
    assert freed.n_bytes > 5000
    assert freed.models == ("demo.subj01-lh-V1v version 1",)
    assert not Path(str(places.root)).exists()
    assert [stage for stage in experiments(places).values() if stage == "active"] == []
    assert "small" not in experiments(places)
    assert MlflowClient(places.default_tracking_uri).search_registered_models() == []


def test_names_that_are_taken_and_sweeps_that_run_are_told(places: SweepStorage, tmp_path: Path) -> None:
    client = MlflowClient(places.default_tracking_uri)
    client.create_experiment("somebody")
    for taken, words in (("somebody", "one of that name"), ("small", "one of that name"), ("a/b", "sweep name is")):
        with pytest.raises(ConfigError, match=words):
            rename("small", taken, str(tmp_path))
    plan = load_plan(places)
    with sole_driver(places.driver_lock, plan.ledger, plan.sweep_id):
        for action in (archive, delete):
            with pytest.raises(SweepIsDrivenError):
                action("small", str(tmp_path))
    assert scores("small", tmp_path)
