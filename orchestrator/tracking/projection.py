"""MLflow as a projection of the ledger: written by one process, as often as it likes, always with the same outcome.

Experiment = sweep; a parent run for each (target, method); a child run for each trial. Runs are found again by the tag
``sweep.trial`` and metrics carry times taken from the ledger, so that a second write changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from orchestrator.ledger import Ledger
from orchestrator.passwords import without_password
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.records import TrialRecord
from orchestrator.tracking.client import connect, is_server, tracking_errors
from orchestrator.tracking.contents import (
    RUN_STATUS,
    study_tags,
    sweep_tags,
    trial_metrics,
    trial_params,
    trial_tags,
)
from trainables.errors import StorageError

METRICS_A_BATCH = 1000
BEST_TAG = "best"
"""On the best trial of each study."""


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
            # By its id first: a renaming may have died after MLflow had heard of it.
            known = self.client.search_experiments(filter_string=f"tags.`sweep.id` = '{self.plan.sweep_id}'")
            experiment = known[0] if known else self.client.get_experiment_by_name(self.plan.name)
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
            self._best: dict[str, set[str]] = {}
            """Runs that are marked as the best of their study, by its name."""
            self._runs = {uid: run_ids[0] for uid, run_ids in self._existing_runs().items()}
        self._settled: set[str] = set()
        self._written: dict[str, tuple[Any, ...]] = {}
        """What of a run that is not settled was written last; until it changes nothing is written again."""
        self._running: set[str] = set()
        """Runs that this process has made or opened again: they need not be told that they are running."""
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
                    if run.data.tags.get(BEST_TAG) == "true":
                        self._best.setdefault(uid.rpartition("/")[0], set()).add(run.info.run_id)
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

    def sync(self, ended: bool = False, between: Callable[[], None] = lambda: None) -> int:
        """Write what the ledger holds and MLflow does not; returns how many runs were written.

        With ``ended`` (nothing is running any more) trials in hand are closed as killed. ``between`` is called whenever
        a study is written.
        """
        self._unsure = self._unsure or ended  # whether the server went away between making a run and saying so
        if self._unsure:
            self._leave_one_each()
        self._unsure = True
        written = 0
        for key in self.plan.studies:
            started = self.ledger.uids(key)
            known = key.name in self._written and self._settled.issuperset(started)
            if not started or (known and not ended):
                continue
            records = self.ledger.study_records(key)
            unsettled = [record for record in records if record.uid not in self._settled]
            parent = self._parent(key, records[0].started_ms)
            best = next(iter(self.ledger.best(key)), None)
            for record in unsettled:
                state = (record.state, len(record.scores), ended)
                if self._written.get(record.uid) != state:
                    self._write(record, parent, ended, is_best=best is not None and record.number == best.number)
                    self._written[record.uid] = state
                    written += 1
            self._summarise(key, parent, records, best, ended)
            between()
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
            self._running.add(key.name)
        return self._runs[key.name]

    def _write(self, record: TrialRecord, parent: str, ended: bool, is_best: bool) -> None:
        if record.uid not in self._runs:
            tags = {
                **study_tags(self.plan, record.study),
                "kind": "trial",
                "sweep.trial": record.uid,
                MLFLOW_RUN_NAME: record.uid,
            }
            run: Run = self.client.create_run(self.experiment_id, start_time=record.started_ms, tags=tags)
            self._runs[record.uid] = run.info.run_id
            self._running.add(record.uid)
        run_id = self._runs[record.uid]
        # All of it each time: the server may have gone away after it had made the run.
        state = [RunTag(MLFLOW_PARENT_RUN_ID, parent), *trial_tags(record)]
        if is_best:
            state.append(RunTag(BEST_TAG, "true"))
        self._log(run_id, trial_metrics(record), trial_params(record), state)
        if is_best:
            self._best.setdefault(record.study.name, set()).add(run_id)
        if record.state != "running":
            self.client.set_terminated(run_id, RUN_STATUS[record.state], end_time=record.ended_ms)
            self._settled.add(record.uid)
        elif ended:
            self.client.update_run(run_id, status="KILLED")
        else:
            self._open(record.uid)

    def _open(self, uid: str) -> None:
        """Show a run as running that another process has closed."""
        if uid not in self._running:
            self.client.update_run(self._runs[uid], status="RUNNING")
            self._running.add(uid)

    def _summarise(
        self, key: StudyKey, parent: str, records: list[TrialRecord], best: TrialRecord | None, ended: bool
    ) -> None:
        state = (best.uid if best else None, ended)
        if self._written.get(key.name) == state:
            return
        if best:
            moment = best.ended_ms or best.started_ms
            final = {m.key: m.value for m in trial_metrics(best) if m.key.startswith("val/encoding_r")}
            del final["val/encoding_r_of_epoch"]
            # All at step 0: MLflow takes the highest step for the latest, which may be a former best trial's.
            self._log(parent, [Metric(name, r, moment, 0) for name, r in final.items()], (), trial_tags(best))
            self._mark_best(key, self._runs[best.uid])
        if ended:
            finished = len([r for r in records if r.state != "running"]) >= self.plan.studies[key]
            last_ms = max(record.ended_ms or record.started_ms for record in records)
            self.client.set_terminated(parent, "FINISHED" if finished else "KILLED", end_time=last_ms)
        else:
            self._open(key.name)
        self._written[key.name] = state

    def _mark_best(self, key: StudyKey, run_id: str) -> None:
        marked = self._best.setdefault(key.name, set())
        if run_id not in marked:
            self.client.set_tag(run_id, BEST_TAG, "true")
            marked.add(run_id)
        for former in marked - {run_id}:
            self.client.set_tag(former, BEST_TAG, "false")
            marked.discard(former)

    def _log(self, run_id: str, metrics: Iterable[Metric], params: Iterable[Param], tags: Iterable[RunTag]) -> None:
        points = list(metrics)
        self.client.log_batch(run_id, points[:METRICS_A_BATCH], list(params), list(tags))
        for start in range(METRICS_A_BATCH, len(points), METRICS_A_BATCH):
            self.client.log_batch(run_id, points[start : start + METRICS_A_BATCH])
