"""MLflow as a projection of the ledger: written by one process, as often as it likes, always with the same outcome.

Experiment = sweep; a parent run for each (target, method); a child run for each trial. Runs are found again by the tag
``sweep.trial`` and metrics carry times taken from the ledger, so that a second write changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.passwords import without_password
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.tracking.client import connect, is_server, tracking_errors
from trainables.config import TrialConfig
from trainables.errors import StorageError

METRICS_A_BATCH = 1000
RUN_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "running": "RUNNING"}
PARAMS = ("temperature", "layer_cutoff", "learning_rate", "batch_size", "epochs", "weight_decay", "mse_weight", "seed")
FURTHER_SCORES = {"transfer": "val/transfer_r", "classification": "val/classification_accuracy"}
"""Validation scores besides encoding, in MLflow."""
UNUSED_PARAMS = {
    "untuned": {"temperature", "learning_rate", "batch_size", "weight_decay", "mse_weight"},
    "regression": {"temperature", "mse_weight"},
}


def sweep_tags(plan: SweepPlan) -> dict[str, str]:
    """What holds for every result of a sweep."""
    tags = {
        "sweep.name": plan.name,
        "sweep.id": plan.sweep_id,
        "dataset": plan.dataset,
        "protocol": plan.protocol,
        "split.digest": plan.split_digest,
        "backbone": plan.backbone,
        "encoder": plan.encoder,
        "weights": plan.weights_source,
        "weights.digest": plan.weights_digest,
        "version": plan.version,
        "git.commit": plan.git_commit,
    }
    return {**tags, "weights.fallback": "true"} if plan.weights_fallback else tags


def study_tags(plan: SweepPlan, key: StudyKey) -> dict[str, str]:
    """What holds for every trial of a study."""
    target = key.target
    return {
        **sweep_tags(plan),
        "target": target.name,
        "subject": "+".join(target.subjects),
        "hemisphere": target.hemisphere,
        "roi": target.roi,
        "roi_group": plan.roi_groups[target.roi],
        "method": key.method,
    }


def withdraw_experiment(plan: SweepPlan) -> None:
    """Free the name of a sweep that came to no trial; MLflow keeps the names of experiments that are merely deleted.

    Raises:
        StorageError: MLflow cannot be reached.
    """
    client = connect(plan.tracking_uri)
    with tracking_errors(plan.tracking_uri):
        experiment = client.get_experiment_by_name(plan.name)
        if experiment and experiment.tags.get("sweep.id") == plan.sweep_id:
            client.rename_experiment(experiment.experiment_id, f"{plan.name} (withdrawn {plan.sweep_id})")
            client.delete_experiment(experiment.experiment_id)


class Projection:
    """Writes a sweep's ledger to MLflow."""

    def __init__(self, ledger: Ledger, artifacts_uri: str) -> None:
        """Connect, and find or make the sweep's experiment.

        Artifacts go to ``artifacts_uri`` beside a database. A server decides for itself where they lie and serves
        them, so that whoever may look needs its password alone and no key of a bucket.

        Raises:
            StorageError: MLflow cannot be reached.
        """
        self.ledger = ledger
        self.plan = ledger.plan
        self.client: MlflowClient = connect(self.plan.tracking_uri)
        with tracking_errors(self.plan.tracking_uri):
            experiment = self.client.get_experiment_by_name(self.plan.name)
            if experiment and experiment.tags.get("sweep.id") != self.plan.sweep_id:
                raise StorageError(
                    f"MLflow at {without_password(self.plan.tracking_uri)} holds another sweep's experiment "
                    f"{self.plan.name!r}; choose another --name, or delete that experiment there for good (mlflow gc)"
                )
            place = None if is_server(self.plan.tracking_uri) else artifacts_uri
            self.experiment_id: str = (
                experiment.experiment_id
                if experiment
                else self.client.create_experiment(self.plan.name, artifact_location=place, tags=sweep_tags(self.plan))
            )
            self._runs = {uid: run_ids[0] for uid, run_ids in self._existing_runs().items()}
        self._settled: set[str] = set()
        self._written: dict[str, tuple[Any, ...]] = {}
        """What of a run that is not settled was written last; until it changes nothing is written again."""
        self._unsure = True

    def _existing_runs(self) -> dict[str, list[str]]:
        """Ids of the runs by their tag; a server that went away before it answered may have been asked again."""
        runs: dict[str, list[str]] = {}
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment_id], max_results=1000, page_token=token)
            for run in page:
                if uid := run.data.tags.get("sweep.trial"):
                    runs.setdefault(uid, []).append(run.info.run_id)
            token = page.token
            if not token:
                return runs

    def _leave_one_each(self) -> None:
        runs = {}
        for uid, run_ids in self._existing_runs().items():
            known = self._runs.get(uid, "")
            runs[uid] = known if known in run_ids else run_ids[0]
            for run_id in run_ids:
                if run_id != runs[uid]:
                    self.client.delete_run(run_id)
        self._settled = {uid for uid in self._settled if runs.get(uid) == self._runs.get(uid)}
        self._written.clear()
        self._runs = runs

    def run_id(self, uid: str) -> str | None:
        """MLflow's id of the run with the tag ``sweep.trial`` = ``uid``."""
        return self._runs.get(uid)

    def sync(self, ended: bool = False) -> int:
        """Write what the ledger holds and MLflow does not; returns how many runs were written.

        With ``ended`` (nothing is running any more) trials in hand are closed as killed.
        """
        self._unsure = self._unsure or ended  # whether the server went away between making a run and saying so
        if self._unsure:
            self._leave_one_each()
        self._unsure = True
        written = 0
        for key in self.plan.studies:
            records = self.ledger.study_records(key)
            unsettled = [record for record in records if record.uid not in self._settled]
            if not unsettled and not (records and ended):
                continue
            parent = self._parent(key, records[0].started_ms)
            for record in unsettled:
                state = (record.state, len(record.scores), ended)
                if self._written.get(record.uid) != state:
                    self._write(record, parent, ended)
                    self._written[record.uid] = state
                    written += 1
            self._summarise(key, parent, records, ended)
        self._unsure = False
        return written

    def _parent(self, key: StudyKey, started_ms: int) -> str:
        if key.name not in self._runs:
            tags = {
                **study_tags(self.plan, key),
                "kind": "target",
                "sweep.trial": key.name,
                MLFLOW_RUN_NAME: key.name,
            }
            run: Run = self.client.create_run(self.experiment_id, start_time=started_ms, tags=tags)
            self._runs[key.name] = run.info.run_id
        return self._runs[key.name]

    def _write(self, record: TrialRecord, parent: str, ended: bool) -> None:
        if record.uid not in self._runs:
            tags = {
                **study_tags(self.plan, record.study),
                "kind": "trial",
                "sweep.trial": record.uid,
                MLFLOW_RUN_NAME: record.uid,
            }
            run: Run = self.client.create_run(self.experiment_id, start_time=record.started_ms, tags=tags)
            self._runs[record.uid] = run.info.run_id
        run_id = self._runs[record.uid]
        # All of it each time: the server may have gone away after it had made the run.
        state = [RunTag(MLFLOW_PARENT_RUN_ID, parent), *_trial_tags(record)]
        self._log(run_id, trial_metrics(record), _params(record), state)
        if record.state != "running":
            self.client.set_terminated(run_id, RUN_STATUS[record.state], end_time=record.ended_ms)
            self._settled.add(record.uid)
        else:
            self.client.update_run(run_id, status="KILLED" if ended else "RUNNING")

    def _summarise(self, key: StudyKey, parent: str, records: list[TrialRecord], ended: bool) -> None:
        best = self.ledger.best(key)
        state = (best[0].uid if best else None, ended)
        if self._written.get(key.name) == state:
            return
        if best:
            moment = best[0].ended_ms or best[0].started_ms
            final = {m.key: m.value for m in trial_metrics(best[0]) if m.key.startswith("val/encoding_r")}
            del final["val/encoding_r_of_epoch"]
            # All at step 0: MLflow takes the highest step for the latest, which may be a former best trial's.
            self._log(parent, [Metric(name, r, moment, 0) for name, r in final.items()], (), _trial_tags(best[0]))
        if ended:
            finished = len([r for r in records if r.state != "running"]) >= self.plan.studies[key]
            last_ms = max(record.ended_ms or record.started_ms for record in records)
            self.client.set_terminated(parent, "FINISHED" if finished else "KILLED", end_time=last_ms)
        else:
            self.client.update_run(parent, status="RUNNING")
        self._written[key.name] = state

    def _log(self, run_id: str, metrics: Iterable[Metric], params: Iterable[Param], tags: Iterable[RunTag]) -> None:
        points = list(metrics)
        self.client.log_batch(run_id, points[:METRICS_A_BATCH], list(params), list(tags))
        for start in range(METRICS_A_BATCH, len(points), METRICS_A_BATCH):
            self.client.log_batch(run_id, points[start : start + METRICS_A_BATCH])


def trial_metrics(record: TrialRecord) -> list[Metric]:
    """All that a trial measured. ``val/encoding_r`` is the best so far, so that its latest value is what counts."""

    def at(epoch: int) -> int:
        return record.started_ms + epoch

    points, best = [], -math.inf
    for epoch, score in sorted(record.scores.items()):
        best = max(best, score)
        points.append(Metric("val/encoding_r", best, at(epoch), epoch))
        points.append(Metric("val/encoding_r_of_epoch", score, at(epoch), epoch))
    epoch = int(record.details.get("best_epoch", 0))
    for layer, r in record.details.get("r_by_layer", {}).items():
        points.append(Metric(f"val/encoding_r/{layer}", r, at(epoch), epoch))
    for line in record.details.get("history", []):
        if line["train_loss"] is not None:
            points.append(Metric("train/loss", line["train_loss"], at(line["epoch"]), line["epoch"]))
    for name, score in record.details.get("scores", {}).items():
        points.append(Metric(FURTHER_SCORES[name], score, at(epoch), epoch))
    speed = record.details.get("images_per_second")
    if speed:
        points.append(Metric("train/images_per_second", speed, at(epoch), epoch))
    return points


def _params(record: TrialRecord) -> list[Param]:
    unused = set(UNUSED_PARAMS.get(record.study.method, ()))
    if not record.config.get("mse_weight"):
        unused.add("mse_weight")  # most sweeps do not have it
    return [Param(name, str(record.config[name])) for name in PARAMS if name not in unused]


def _objective(record: TrialRecord) -> str | None:
    config = TrialConfig.from_dict(record.config)
    return config.objective_name if config.is_contrastive else None


def _trial_tags(record: TrialRecord) -> list[RunTag]:
    values: dict[str, Any] = {
        "state": record.state,
        "readout_layer": record.details.get("readout_layer"),
        "objective": _objective(record),
        "error": record.error,
    }
    return [RunTag(name, str(value)[:5000]) for name, value in values.items() if value is not None]
