"""Which weights a sweep keeps while it goes on."""

from __future__ import annotations

from pathlib import Path

from orchestrator.forgetting import forget_weights
from orchestrator.ledger import Ledger
from orchestrator.storage import SweepStorage
from tests.orchestrator.plans import V1_CONTRASTIVE, complete, open_ledger, small_plan


def ended(storage: SweepStorage, ledger: Ledger, score: float, selected: set[str], gone: set[str]) -> str:
    trial = ledger.ask(V1_CONTRASTIVE)
    place = storage.trial_dir(V1_CONTRASTIVE.target, "contrastive", trial.trial.number)
    place.mkdir(parents=True)
    complete(ledger, trial, {9: score}, weights=str(place))
    forget_weights(storage, ledger, trial, selected, gone)
    return trial.uid


def kept(storage: SweepStorage) -> list[int]:
    folder = storage.trial_dir(V1_CONTRASTIVE.target, "contrastive", 0).parent
    return sorted(int(place.name) for place in folder.iterdir())


def test_best_trials_keep_theirs_and_selected_ones_until_the_next_selection(tmp_path: Path) -> None:
    storage, ledger = SweepStorage(str(tmp_path), "small"), open_ledger(small_plan(tmp_path))
    gone: set[str] = set()
    first = ended(storage, ledger, 0.2, set(), gone)
    ended(storage, ledger, 0.1, set(), gone)
    assert kept(storage) == [0]
    ended(storage, ledger, 0.3, {first}, gone)
    assert kept(storage) == [0, 2]
    ended(storage, ledger, 0.4, set(), gone)
    assert kept(storage) == [3]


def test_weights_that_are_gone_are_not_looked_for_again(tmp_path: Path) -> None:
    storage, ledger = SweepStorage(str(tmp_path), "small"), open_ledger(small_plan(tmp_path))
    gone: set[str] = set()
    ended(storage, ledger, 0.2, set(), gone)
    second = ended(storage, ledger, 0.1, set(), gone)
    assert gone == {second}
    storage.trial_dir(V1_CONTRASTIVE.target, "contrastive", 1).mkdir()  # only who looks would find it
    ended(storage, ledger, 0.3, set(), gone)
    assert kept(storage) == [1, 2]
