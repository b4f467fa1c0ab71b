"""Builds the one Tuner of a sweep and runs it."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib
import ray
from ray import tune
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.tune import TuneError

from cluster.profiles import COORDINATOR, COORDINATOR_CPUS, Profile
from orchestrator.forgetting import forget_old_snapshots, forget_snapshots, forget_weights
from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.node_watch import asked_to_end, node_watched
from orchestrator.passwords import not_inherited
from orchestrator.progress import SweepProgress
from orchestrator.pruning import StudyPruning
from orchestrator.reclaim import abandoned_reclaimed
from orchestrator.search import StudySearch
from orchestrator.selected import read_selection
from orchestrator.slot import Slot, slot_with
from orchestrator.storage import SweepStorage
from orchestrator.tune_leftovers import EndedTrials, tune_folder
from trainables.data.cache import cache_limit
from trainables.errors import ConfigError, StorageError
from trainables.remote import node_settings
from trainables.tuning.bench import Workspace

SLOT_ATTEMPTS = 2
"""How often a trial is run again after its worker group died under it."""

RAY_ATTEMPTS = 2
"""A machine that is busy for a moment may miss Ray's own limit on how long it starts."""

SHARED, WHOLE_GPU = "shared", "whole gpu"
"""What of a machine a trial gets."""

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files of every trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no score
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the ledger is what a resume reads
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}


def slot_settings(storage: SweepStorage, ledger: Ledger, profile: Profile) -> dict[str, Any]:
    """What every trial's Tune configuration says about the slot it runs in."""
    workspace = Workspace(
        data=ledger.plan.data,
        weights=str(storage.weights_file),
        backbone=ledger.plan.backbone,
        cache_dir=None,
        split_seed=ledger.plan.split_seed,
        protocol=ledger.plan.protocol,
        scores=ledger.plan.scores,
        transfer_targets=tuple((t.subjects[0], t.hemisphere, t.roi) for t in ledger.plan.targets if not t.is_pooled),
        labelled=ledger.plan.labelled,
        threads=profile.cpus_per_worker,
        gpu_memory_fraction=profile.gpus_per_worker,
    )
    return {
        "workspace": asdict(workspace),
        "workers": profile.workers_per_slot,
        "cpus": profile.cpus_per_worker,
        "gpus": profile.gpus_per_worker,
        "scratch": storage.scratch,
    }


def with_whole_gpu(settings: dict[str, Any]) -> dict[str, Any]:
    """A slot with a GPU of its own for each worker, for a trial that ran out of memory on a share."""
    return {**settings, "gpus": 1.0, "workspace": {**settings["workspace"], "gpu_memory_fraction": 1.0}}


def run_trials(
    storage: SweepStorage,
    ledger: Ledger,
    profile: Profile,
    slots: int,
    progress: SweepProgress,
    warm: bool = True,
) -> bool:
    """Run what the ledger says is left; False if it was interrupted.

    Ray has to be running. Trials in hand when interrupted stay in the ledger as running and are taken up by the next
    call. Without ``warm`` every trial starts a slot of its own, which is there to be measured against.
    """
    settings = slot_settings(storage, ledger, profile)
    shares = {SHARED: settings, WHOLE_GPU: with_whole_gpu(settings)}
    selected = {each.trial for each in read_selection(storage)} if storage.selection_file.exists() else set()
    gone: set[str] = set()
    forget_old_snapshots(storage, ledger)

    def job(trial: OpenTrial, score_to_beat: float, alone: bool) -> dict[str, Any]:
        place = storage.trial_dir(trial.study.target, trial.study.method, trial.trial.number)
        command = {
            "config": trial.config.to_dict(),
            "weights_dir": str(place),
            "snapshot_dir": str(storage.snapshot_dir(trial.study.target, trial.study.method, trial.trial.number)),
            "score_to_beat": score_to_beat,
        }
        return {"share": WHOLE_GPU if alone else SHARED, "trial": command}

    def finished(trial: OpenTrial) -> None:
        forget_weights(storage, ledger, trial, selected, gone)
        forget_snapshots(storage, trial.study, trial.trial.number)
        progress.trial_ended(trial)

    search = StudySearch(ledger, job, finished, larger_share=profile.has_larger_share)
    progress.start(search)
    with terminations_as_interrupts(), abandoned_reclaimed(), tune_folder(storage) as folder:
        while handed_out := search.due or search.give_last_chance():
            tuner = _tuner(search, folder, shares, min(slots, handed_out), warm)
            _fit(tuner, search)
            if search.failure is not None:
                raise search.failure
            if search.running or search.due or asked_to_end.is_set():
                return False
    return True


def _fit(tuner: tune.Tuner, search: StudySearch) -> None:
    """Run until everything handed out has ended or somebody interrupts."""
    interrupts = signal.getsignal(signal.SIGINT)
    try:
        tuner.fit()
    except TuneError:
        if search.failure is None:
            raise
    finally:
        signal.signal(signal.SIGINT, interrupts)  # Tune leaves its own, which hears nobody any more


def _tuner(search: StudySearch, folder: str, shares: dict[str, dict[str, Any]], slots: int, warm: bool) -> tune.Tuner:
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)  # else one slot starts at a time; the search says how many
    return tune.Tuner(
        tune.with_resources(slot_with(Slot, shares), COORDINATOR),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=StudyPruning(search),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=warm,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:12]}",
            storage_path=folder,
            verbose=0,
            callbacks=[EndedTrials()],
            failure_config=tune.FailureConfig(max_failures=SLOT_ATTEMPTS),
            # Else a call to the slot and a folder in the storage, for every trial that ends, with nothing in it.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


@contextmanager
def terminations_as_interrupts() -> Iterator[None]:
    """Let SIGTERM (what batch systems send) end a sweep as Ctrl-C does: Tune ends cleanly on SIGUSR1 too."""

    def end(*_: object) -> None:
        asked_to_end.set()
        os.kill(os.getpid(), signal.SIGUSR1)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def ray_running(address: str | None, cpus: int | None = None) -> Iterator[dict[str, float]]:
    """Join the cluster at ``address`` or start Ray on this machine; yields the resources.

    The dashboard stays on, on loopback: without it placement groups of the slots' worker groups dead-lock.
    """
    if ray.is_initialized():  # by a caller, which ends it too
        yield dict(ray.cluster_resources())
        return
    if not address and (set_elsewhere := os.environ.get("RAY_ADDRESS")):
        raise ConfigError(
            f"RAY_ADDRESS is {set_elsewhere}; give --address auto to use that cluster, or unset it to start Ray here"
        )
    cache_limit()  # a size that is none is told here, not by every worker
    os.environ.update(TUNE_SETTINGS)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    cores = cpus or joblib.cpu_count()  # those that affinity and container limits leave
    if address:
        try:
            ray.init(address=address, runtime_env=runtime_env(), **quiet)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(_why_not_joined(address, error)) from error
    else:
        _start_ray(cores, quiet)
    try:
        resources = dict(ray.cluster_resources())
        if not address:
            resources["CPU"] = resources["CPU"] - 1 + COORDINATOR_CPUS * cores
        with node_watched(own=not address):
            yield resources
    finally:
        ray.shutdown()


def _why_not_joined(address: str, error: Exception) -> str:
    """Ray tells a refused token only in the cause of a failed connection, and not every process takes up the file."""
    if "InvalidAuthToken" in f"{error} {error.__cause__}":
        return (
            f"the Ray cluster at --address {address} asks for a token; put its token in ~/.ray/auth_token of this "
            "machine and set RAY_AUTH_MODE=token"
        )
    return f"no Ray cluster answers at --address {address} ({error}); start one, or leave it out"


def runtime_env() -> dict[str, Any]:
    """What all processes of the sweep are told, on whichever node: where S3 is, how large a cache may be.

    A job that was submitted with variables of its own has them on all nodes already, and Ray refuses a second value.
    """
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}")
    known = (job.get("runtime_env") or {}).get("env_vars") or {}
    told = {name: value for name, value in node_settings().items() if name not in known}
    return {"env_vars": told} if told else {}


def _start_ray(cores: int, quiet: dict[str, Any]) -> None:
    # A slot is four processes that start at once; Ray's default lets one a core start at a time, and warns.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(8 + 2 * cores))
    for attempt in range(1, RAY_ATTEMPTS + 1):
        try:
            # "local": without it Ray would join any other cluster that runs on this machine, which nobody named.
            # One logical core more than there are, for the coordinators, which only wait.
            with not_inherited():
                ray.init("local", num_cpus=cores + 1, include_dashboard=True, dashboard_host="127.0.0.1", **quiet)
        except Exception as error:  # Ray raises the bare class when its node does not start within 30 s
            ray.shutdown()
            if attempt == RAY_ATTEMPTS:
                raise StorageError(
                    f"Ray did not start here in {attempt} attempts ({error}); end what loads the machine and try again"
                ) from error
        else:
            _keep_token_private()
            return


def _keep_token_private() -> None:
    """Ray asks for a token on loopback too, and writes it so that others can read it: with it they can run code."""
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # none there, or none of one's own
        token.chmod(0o600)
