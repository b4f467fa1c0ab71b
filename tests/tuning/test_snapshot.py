"""A trial that goes on from a snapshot against one that was never interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from upath import UPath

from tests.synthetic import POOLED_TARGET, equal_states, planted_data, planted_pair, tiny_config, tiny_weights
from tests.tuning.in_hand import EPOCHS, in_hand
from trainables.models.tuned_model import TunedModel
from trainables.tuning import snapshot
from trainables.tuning.loop import TrialRun
from trainables.tuning.snapshot import Snapshot, SnapshotFolder

KINDS: list[dict[str, Any]] = [
    {"method": "contrastive", "layer_cutoff": "output"},  # dropout and batch normalisation
    {"method": "regression", "weight_decay": 1e-3},
    {"method": "pooled-avg", "target": POOLED_TARGET},
]


def run_of(**changes: Any) -> TrialRun:
    config = tiny_config(**{"epochs": EPOCHS, "score_epochs": (1, 3), **changes})
    data = planted_pair() if config.is_pooled else planted_data()
    return TrialRun(config, data, tiny_weights(), device="cpu", precision="float32")


def assert_same(one: TrialRun, other: TrialRun) -> None:
    for mine, theirs in ((one.backbone, other.backbone), (one.head, other.head)):
        assert equal_states(mine.state_dict(), theirs.state_dict())
    saved, expected = one.best_model(), other.best_model()
    assert equal_states(dict(saved.state), dict(expected.state))
    assert equal_states(dict(saved.head), dict(expected.head))
    assert saved.provenance == expected.provenance
    assert one.best is not None
    assert other.best is not None
    assert one.best.score is not None
    assert other.best.score is not None
    np.testing.assert_array_equal(one.best.score.r_per_voxel, other.best.score.r_per_voxel)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["method"])
@pytest.mark.parametrize("interrupted_after", [1, 2, 4])
def test_goes_on_as_if_nothing_had_happened(kind: dict[str, Any], interrupted_after: int, tmp_path: Path) -> None:
    whole = run_of(**kind)
    losses = [result.train_loss for result in whole]
    first = run_of(**kind)
    for _ in range(interrupted_after):
        next(first)
    first.snapshot({"seen": [1, 2]}).write(tmp_path / "here")
    torch.rand(7)  # another process has drawn other numbers
    second = run_of(**kind)
    found = Snapshot.read(tmp_path / "here")
    assert found.notes == {"seen": [1, 2]}
    assert second.restore(found)
    assert [result.train_loss for result in second] == losses[interrupted_after:]
    assert_same(second, whole)


@pytest.mark.parametrize("changes", [{"seed": 9}, {"learning_rate": 2e-3}, {"epochs": 6}])
def test_another_trials_snapshot_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    first = run_of()
    next(first)
    first.snapshot().write(tmp_path / "here")
    other, untouched = run_of(**changes), run_of(**changes)
    assert not other.restore(Snapshot.read(tmp_path / "here"))
    assert other.epoch == 0
    assert [result.train_loss for result in other] == [result.train_loss for result in untouched]


def test_half_written_snapshot_leaves_the_one_before(tmp_path: Path) -> None:
    folder, run = SnapshotFolder(UPath(tmp_path / "trial")), run_of()
    assert folder.newest() is None
    for _ in range(2):
        next(run)
        folder.write(run.snapshot())
    assert [place.name for place in (tmp_path / "trial").iterdir()] == ["00002"]
    next(run)
    run.snapshot().write(tmp_path / "trial/00003")
    tensors = tmp_path / "trial/00003/snapshot.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    newest = folder.newest()
    assert newest is not None
    assert newest.epoch == 2
    folder.write(run.snapshot())  # again, now whole, and it stays
    newest = folder.newest()
    assert newest is not None
    assert newest.epoch == 3
    assert [place.name for place in (tmp_path / "trial").iterdir()] == ["00003"]


def without_clock(answer: dict[str, Any]) -> dict[str, Any]:
    details = json.loads(answer["details"])
    history = [{key: entry[key] for key in ("epoch", "train_loss")} for entry in details["history"]]
    return {**answer, "details": {key: details[key] for key in ("best_epoch", "r_by_layer")} | {"history": history}}


@pytest.fixture
def one_thread() -> Any:
    """A bench sets the threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_worker_takes_a_trial_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_hand(tmp_path / "whole")
    expected = [without_clock(whole.advance()) for _ in range(3)]
    monkeypatch.setattr(snapshot, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(snapshot, "SHARE_OF_TIME", 1e9)
    killed = in_hand(tmp_path / "killed")
    assert [without_clock(killed.advance()) for _ in range(2)] == expected[:2]
    # Killed here: the score of epoch 3 was answered, the ledger may not have it yet. Nothing later was kept.
    again = in_hand(tmp_path / "killed")
    assert again.run.epoch == 2
    assert [without_clock(again.advance()) for _ in range(2)] == expected[1:]
    saved, uninterrupted = (TunedModel.load(tmp_path / name / "weights") for name in ("killed", "whole"))
    assert equal_states(dict(saved.state), dict(uninterrupted.state))


@pytest.mark.usefixtures("one_thread")
def test_short_trial_writes_no_snapshot(tmp_path: Path) -> None:
    trial = in_hand(tmp_path)
    while not trial.advance()["done"]:
        pass
    assert [place.name for place in tmp_path.iterdir()] == ["weights"]


@pytest.mark.usefixtures("one_thread")
def test_storage_that_takes_no_snapshot_is_noted_and_the_trial_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "SECONDS_BETWEEN", 0.0)
    trial = in_hand(tmp_path)
    (tmp_path / "snapshots").write_text("a file where a folder should be")
    answers = [trial.advance() for _ in range(3)]
    assert answers[-1]["done"]
    assert "cannot be written" in json.loads(answers[-1]["details"])["snapshot_error"]


@pytest.mark.usefixtures("one_thread")
def test_machine_that_is_taken_away_leaves_a_snapshot_of_every_epoch(tmp_path: Path) -> None:
    def kept() -> list[tuple[str, int]]:
        places = (tmp_path / "snapshots").iterdir()
        return [(place.name, (place / "snapshot.json").stat().st_mtime_ns) for place in places]

    trial = in_hand(tmp_path, leaving=True)
    trial.advance()
    trial.advance()
    before = kept()
    assert [name for name, _ in before] == ["00002"]
    again = in_hand(tmp_path, leaving=True)  # of a machine that goes, too
    epochs = again._epochs()
    assert again.run.epoch == 2
    next(epochs)
    assert kept() == before, "what it went on from was written anew"
    next(epochs)
    assert [name for name, _ in kept()] == ["00003"]
