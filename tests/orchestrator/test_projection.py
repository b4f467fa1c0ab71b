from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.ledger import Ledger
from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import connect
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.scores import log_test_scores
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

FIRST = "subj01/lh/V1v/contrastive/00000"


def project(plan: SweepPlan, ended: bool = False) -> Projection:
    """What a new process would write."""
    projection = Projection(Ledger(plan), "file:///nowhere")
    projection.sync(ended=ended)
    return projection


def runs(plan: SweepPlan) -> dict[str, Run]:
    """All runs by the tag ``sweep.trial``, read with MLflow alone."""
    client = MlflowClient(plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    by_uid = {run.data.tags["sweep.trial"]: run for run in found}
    assert len(by_uid) == len(found), "a trial has two runs"
    return by_uid


def everything(plan: SweepPlan) -> dict[str, Any]:
    """All that a reader of MLflow could see: tags, parameters, times and the history of every metric."""
    client = MlflowClient(plan.tracking_uri)
    return {
        uid: {
            "info": (run.info.status, run.info.start_time, run.info.end_time, run.info.run_id),
            "tags": run.data.tags,
            "params": run.data.params,
            "metrics": {
                name: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name))
                for name in run.data.metrics
            },
        }
        for uid, run in runs(plan).items()
    }


def test_trial_is_shown_with_what_it_measured(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    trial = ledger.ask(V1_CONTRASTIVE)
    scores = {1: 0.1, 3: 0.4, 9: 0.2}
    for epoch, score in scores.items():
        ledger.report(trial, epoch, score)
    ledger.finish(trial, "complete", 0.4, worker_details(3, {"features.2": 0.3, "features.5": 0.4}, 9))
    project(tracked_plan)
    shown = runs(tracked_plan)
    assert set(shown) == {FIRST, V1_CONTRASTIVE.name}
    run = shown[FIRST]
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "temperature": "0.3",
        "layer_cutoff": "features.12",
        "learning_rate": "0.0001",
        "batch_size": "32",
        "epochs": "9",
        "weight_decay": "0.0",
        "seed": "0",
    }
    assert {name: run.data.metrics[name] for name in run.data.metrics} == pytest.approx(
        {
            "val/encoding_r": 0.4,  # the latest value is the trial's value, not its last epoch's
            "val/encoding_r_of_epoch": 0.2,
            "val/encoding_r/features.2": 0.3,
            "val/encoding_r/features.5": 0.4,
            "train/loss": 1 / 9,
            "train/images_per_second": 100.0,
        }
    )
    history = everything(tracked_plan)[FIRST]["metrics"]
    assert [(step, value) for step, _, value in history["val/encoding_r_of_epoch"]] == list(scores.items())
    assert [(step, value) for step, _, value in history["val/encoding_r"]] == [(1, 0.1), (3, 0.4), (9, 0.4)]
    assert [step for step, _, _ in history["train/loss"]] == list(range(1, 10))


def test_run_carries_its_tags(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    complete(ledger, ledger.ask(EBA_CONTRASTIVE), {9: 0.4})
    project(tracked_plan)
    shown = runs(tracked_plan)
    expected = {
        "kind": "trial",
        "sweep.name": "small",
        "target": "subj02/rh/EBA",
        "subject": "subj02",
        "hemisphere": "rh",
        "roi": "EBA",
        "roi_group": "floc-bodies",
        "method": "contrastive",
        "objective": "info_nce",
        "dataset": "demo",
        "protocol": "nested",
        "split.digest": "0123456789abcdef",
        "weights": "random",
        "weights.digest": "fedcba9876543210",
        "git.commit": "unknown",
        "state": "complete",
        "readout_layer": "features.2",
        "mlflow.runName": "subj02/rh/EBA/contrastive/00000",
        "mlflow.parentRunId": shown[EBA_CONTRASTIVE.name].info.run_id,
    }
    tags = shown["subj02/rh/EBA/contrastive/00000"].data.tags
    assert {name: tags.get(name) for name in expected} == expected
    assert "weights.fallback" not in tags
    assert shown[EBA_CONTRASTIVE.name].data.tags["kind"] == "target"


def test_untuned_run_shows_no_parameter_that_it_did_not_use(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    trial = ledger.ask(V1_UNTUNED)
    ledger.report(trial, 0, 0.2)
    history = [{"epoch": 0, "train_loss": None}]
    ledger.finish(trial, "complete", 0.2, {**worker_details(0, {"features.2": 0.2}, 0), "history": history})
    project(tracked_plan)
    run = runs(tracked_plan)["subj01/lh/V1v/untuned/00000"]
    assert set(run.data.params) == {"layer_cutoff", "epochs", "seed"}
    assert "train/loss" not in run.data.metrics
    assert "objective" not in run.data.tags
    assert run.data.metrics["val/encoding_r"] == 0.2


def test_weights_that_stand_in_are_tagged(tracked_plan: SweepPlan, tmp_path: Path) -> None:
    plan = small_plan(tmp_path, weights_fallback=True)
    ledger = open_ledger(plan)
    ledger.ask(V1_CONTRASTIVE)
    project(plan)
    tags = runs(plan)[FIRST].data.tags
    assert (tags["weights"], tags["weights.fallback"]) == ("random", "true")


def test_writing_twice_changes_nothing(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {1: 0.1, 3: 0.4, 9: 0.2})
    trial = ledger.ask(V1_CONTRASTIVE)
    ledger.report(trial, 1, 0.05)
    ledger.finish(trial, "pruned", None, worker_details(1, {"features.2": 0.05}, 1))
    ledger.finish(ledger.ask(EBA_CONTRASTIVE), "failed", None, {}, "RuntimeError: broken")
    ledger.report(ledger.ask(EBA_CONTRASTIVE), 1, 0.3)
    projection = project(tracked_plan, ended=True)
    before = everything(tracked_plan)
    assert len(before) == 6
    projection.sync(ended=True)
    assert everything(tracked_plan) == before
    project(tracked_plan, ended=True)
    assert everything(tracked_plan) == before


def test_what_has_not_changed_is_not_written_again(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    trial = ledger.ask(V1_CONTRASTIVE)
    projection = Projection(ledger, "file:///nowhere")
    assert [projection.sync(), projection.sync()] == [1, 0]
    ledger.report(trial, 1, 0.2)
    assert [projection.sync(), projection.sync()] == [1, 0]
    assert runs(tracked_plan)[trial.uid].data.metrics["val/encoding_r"] == 0.2
    ledger.finish(trial, "complete", 0.2, worker_details(1, {"features.2": 0.2}, epochs=1))
    assert [projection.sync(), projection.sync(), projection.sync(ended=True)] == [1, 0, 0]
    assert runs(tracked_plan)[V1_CONTRASTIVE.name].info.status == "KILLED"  # its budget is larger than one trial


def test_states_become_statuses(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})
    ledger.finish(ledger.ask(V1_CONTRASTIVE), "pruned", None, {})
    ledger.finish(ledger.ask(V1_CONTRASTIVE), "failed", None, {}, "NonFiniteLossError: loss is nan")
    ledger.ask(EBA_CONTRASTIVE)
    projection = project(tracked_plan)

    def status() -> dict[str, str]:
        return {uid: run.info.status for uid, run in runs(tracked_plan).items() if run.data.tags["kind"] == "trial"}

    first, second, third = (f"{V1_CONTRASTIVE.name}/0000{number}" for number in range(3))
    running = f"{EBA_CONTRASTIVE.name}/00000"
    assert status() == {first: "FINISHED", second: "FINISHED", third: "FAILED", running: "RUNNING"}
    assert runs(tracked_plan)[third].data.tags["error"] == "NonFiniteLossError: loss is nan"
    projection.sync(ended=True)
    assert status()[running] == "KILLED"


def test_resumed_run_is_finished_in_place(tracked_plan: SweepPlan) -> None:
    dead = open_ledger(tracked_plan)
    dead.report(dead.ask(V1_CONTRASTIVE), 1, 0.1)
    project(tracked_plan, ended=True)
    before = runs(tracked_plan)[FIRST]
    assert before.info.status == runs(tracked_plan)[V1_CONTRASTIVE.name].info.status == "KILLED"
    ledger = open_ledger(tracked_plan)
    (again,) = ledger.interrupted()
    projection = project(tracked_plan)
    assert runs(tracked_plan)[FIRST].info.status == "RUNNING"
    assert runs(tracked_plan)[V1_CONTRASTIVE.name].info.status == "RUNNING"
    complete(ledger, again, {1: 0.1, 3: 0.3, 9: 0.5})
    projection.sync(ended=True)
    after = runs(tracked_plan)[FIRST]
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.metrics["val/encoding_r"] == 0.5


def test_times_are_those_of_the_ledger(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})
    (record,) = ledger.study_records(V1_CONTRASTIVE)
    project(tracked_plan)
    info = runs(tracked_plan)[FIRST].info
    assert (info.start_time, info.end_time) == (record.started_ms, record.ended_ms)


def test_target_shows_its_best_trial_and_no_former_one(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    projection = Projection(ledger, "file:///nowhere")
    best_epochs = [9, 1, 3]  # the better trial's best epoch comes before the former one's
    for value, best_epoch in zip((0.2, 0.5, 0.4), best_epochs, strict=True):
        trial = ledger.ask(V1_CONTRASTIVE)
        scores = {1: 0.1, 3: 0.1, 9: 0.1, best_epoch: value}
        for epoch, score in scores.items():
            ledger.report(trial, epoch, score)
        ledger.finish(trial, "complete", value, worker_details(best_epoch, {"features.2": value}, 9))
        projection.sync()
    metrics = runs(tracked_plan)[V1_CONTRASTIVE.name].data.metrics
    assert metrics["val/encoding_r"] == 0.5
    assert metrics["val/encoding_r/features.2"] == 0.5


@pytest.mark.parametrize("seen_before", [False, True], ids=["at once", "after all was written"])
def test_targets_are_closed_at_the_end(tracked_plan: SweepPlan, seen_before: bool) -> None:
    ledger = open_ledger(tracked_plan)
    for score in (0.1, 0.2, 0.3):
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: score})
    complete(ledger, ledger.ask(EBA_CONTRASTIVE), {9: 0.2})
    projection = Projection(ledger, "file:///nowhere")
    if seen_before:
        projection.sync()
        assert runs(tracked_plan)[V1_CONTRASTIVE.name].info.status == "RUNNING"
    projection.sync(ended=True)
    shown = runs(tracked_plan)
    assert shown[V1_CONTRASTIVE.name].info.status == "FINISHED"
    assert shown[EBA_CONTRASTIVE.name].info.status == "KILLED"  # two of its trials are left


def test_sweeps_do_not_meet(tracked_plan: SweepPlan, tmp_path: Path) -> None:
    other = small_plan(tmp_path, name="other")
    for plan, score in ((tracked_plan, 0.1), (other, 0.2)):
        ledger = open_ledger(plan)
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: score})
        project(plan)
    assert [runs(plan)[FIRST].data.metrics["val/encoding_r"] for plan in (tracked_plan, other)] == [0.1, 0.2]


class Outage:
    """Stands before a call of MLflow's client; ``script`` says what becomes of each request, after that all is well."""

    def __init__(self, projection: Projection, call: str, script: list[str]) -> None:
        self.real = getattr(projection.client, call)
        self.script = iter(script)
        setattr(projection.client, call, self)

    def __call__(self, *words: Any, **settings: Any) -> Any:
        what = next(self.script, "well")
        if what == "lost":
            raise MlflowException("connection refused")
        answer = self.real(*words, **settings)
        if what == "done twice":  # MLflow's client asks again when no answer comes
            answer = self.real(*words, **settings)
        if what == "answer lost":
            raise MlflowException("connection reset")
        return answer


@pytest.mark.parametrize(
    ("call", "script"),
    [
        ("create_run", ["answer lost", "lost", "answer lost"]),
        ("create_run", ["done twice"] * 4),
        ("log_batch", ["lost", "answer lost", "lost"]),
        ("set_terminated", ["answer lost", "lost"]),
    ],
)
def test_each_trial_has_one_whole_run_whenever_the_server_goes(
    tracked_plan: SweepPlan, call: str, script: list[str]
) -> None:
    ledger = open_ledger(tracked_plan)
    for score in (0.1, 0.2, 0.3):
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: score})
    projection = Projection(ledger, "file:///nowhere")
    Outage(projection, call, script)
    for _ in script:
        with suppress(MlflowException):
            projection.sync()
    projection.sync(ended=True)
    shown = runs(tracked_plan)
    assert len(shown) == 4
    parent = shown[V1_CONTRASTIVE.name].info.run_id
    for number, score in enumerate((0.1, 0.2, 0.3)):
        run = shown[f"{V1_CONTRASTIVE.name}/{number:05d}"]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.metrics["val/encoding_r"] == score
        assert len(run.data.params) == 7


def test_test_scores_are_written_once(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})
    projection = project(tracked_plan)
    row = {
        "trial": FIRST,
        "test_r": 0.15,
        "test_noise_normalised_r2": None,
        "voxels_improved_percent": 60.0,
    }
    log_test_scores(projection, [row])
    before = everything(tracked_plan)
    metrics = runs(tracked_plan)[FIRST].data.metrics
    assert (metrics["test/encoding_r"], metrics["test/voxels_improved_percent"]) == (0.15, 60.0)
    assert "test/noise_normalised_r2" not in metrics
    log_test_scores(projection, [row])
    assert everything(tracked_plan) == before


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.timeout(120)
def test_server_that_is_away_is_told_in_one_sentence() -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(StorageError) as told:
        connect(uri)
    assert uri in str(told.value)
    assert "--tracking-uri" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(StorageError, match="--tracking-uri"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
