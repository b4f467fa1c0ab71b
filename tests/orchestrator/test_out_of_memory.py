"""A trial that runs out of memory on a share of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from rich.console import Console

from cluster.profiles import PROFILES
from orchestrator import tuning
from orchestrator.ledger import Ledger
from orchestrator.progress import SweepProgress
from orchestrator.search import StudySearch
from orchestrator.storage import SweepStorage
from tests.orchestrator.plans import EBA_CONTRASTIVE, V1_CONTRASTIVE, open_ledger, small_plan

OUT = {"failed": "out of memory: 20 GB were wanted", "out_of_memory": True}
GOOD = {"epoch": 9, "score": 0.4, "best_score": 0.4}


class StubTuner:
    """Hands out trials as Tune does, two at a time; the first trial runs out of memory wherever it is run."""

    commands: list[dict[str, Any]]

    def __init__(self, search: StudySearch, shares: dict[str, Any]) -> None:
        self.search = search
        self.shares = shares
        self.commands = []

    def fit(self) -> None:
        number = 0
        running: list[tuple[str, dict[str, Any]]] = []
        while True:
            number += 1
            config = self.search.suggest(f"tune-{number}")
            if config not in (None, Searcher.FINISHED):
                self.commands.append({**config, "slot": self.shares[config["share"]]})
                running.append((f"tune-{number}", config))
            if len(running) == 2 or (running and config in (None, Searcher.FINISHED)):
                trial_id, config = running.pop(0)
                poor = config["trial"]["weights_dir"].endswith("subj01-lh-V1v/contrastive/00000")
                self.search.on_trial_complete(trial_id, OUT if poor else GOOD)
            elif config == Searcher.FINISHED:
                return


def run(tmp_path: Path, monkeypatch: Any, profile: str) -> tuple[list[dict[str, Any]], Ledger]:
    """What slots were asked for, and the ledger afterwards."""
    ledger = open_ledger(small_plan(tmp_path, trials=3))
    tuners: list[StubTuner] = []

    def stub(search: StudySearch, _: SweepStorage, shares: dict[str, Any], *__: Any) -> StubTuner:
        tuners.append(StubTuner(search, shares))
        return tuners[-1]

    monkeypatch.setattr(tuning, "_tuner", stub)
    progress = SweepProgress(Console(quiet=True), ledger.plan, quiet=True)
    assert tuning.run_trials(SweepStorage(str(tmp_path), "small"), ledger, PROFILES[profile], 2, progress)
    (tuner,) = tuners
    return tuner.commands, Ledger(ledger.plan)


def states(ledger: Ledger) -> list[str]:
    return [r.state for key in (V1_CONTRASTIVE, EBA_CONTRASTIVE) for r in ledger.study_records(key)]


def test_is_run_again_on_a_whole_gpu_when_all_others_have_ended_and_fails_alone(
    tmp_path: Path, monkeypatch: Any
) -> None:
    commands, ledger = run(tmp_path, monkeypatch, "gpu-shared")
    assert len(commands) == 7
    first, last = commands[0], commands[-1]
    assert first["trial"]["weights_dir"] == last["trial"]["weights_dir"]
    assert (first["slot"]["gpus"], first["slot"]["workspace"]["gpu_memory_fraction"]) == (0.25, 0.25)
    assert (last["slot"]["gpus"], last["slot"]["workspace"]["gpu_memory_fraction"]) == (1.0, 1.0)
    assert {command["slot"]["gpus"] for command in commands[:-1]} == {0.25}
    assert states(ledger) == ["failed"] + 5 * ["complete"]
    assert ledger.study_records(V1_CONTRASTIVE)[0].error == OUT["failed"]


def test_fails_at_once_where_there_is_no_larger_share(tmp_path: Path, monkeypatch: Any) -> None:
    commands, ledger = run(tmp_path, monkeypatch, "gpu")
    assert len(commands) == 6
    assert states(ledger) == ["failed"] + 5 * ["complete"]
