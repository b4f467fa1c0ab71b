"""Sweeps that are called otherwise, put away or deleted, and what that frees."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import optuna
from upath import UPath

from orchestrator.driver import sole_driver
from orchestrator.ledger import Ledger
from orchestrator.ledger_storage import ledger_errors, open_storage
from orchestrator.opening import read_plan, write_plan
from orchestrator.passwords import without_password
from orchestrator.plan import SweepPlan
from orchestrator.selected import read_selection
from orchestrator.storage import RENAMED, SweepStorage, storage_errors, write_json
from orchestrator.tracking.client import is_server
from orchestrator.tracking.keeping import KeptExperiment
from trainables.errors import ConfigError


@dataclass(frozen=True)
class Freed:
    """What went."""

    n_bytes: int
    models: tuple[str, ...] = ()
    """Registered model versions, as ``name version 3``."""
    left: str = ""
    """What stays until `remover` is run."""
    remover: str = ""
    """A command of MLflow's."""
    selected: bool = True
    """False: nothing was, so that all weights stay."""


def rename(old: str, new: str, storage_uri: str) -> None:
    """Call a sweep ``new``, in the storage and in MLflow.

    Its folder keeps its first name: MLflow, workers and colleagues know files by their whole path.

    It can be repeated after it died half way.

    Raises:
        ConfigError: the new name is taken or is no name, or the storage is remote.
        StorageError: there is no such sweep, somebody runs it, or MLflow is away.
    """
    source, target = SweepStorage(storage_uri, old), SweepStorage(storage_uri, new)
    if not source.is_local:
        raise ConfigError(f"--storage is {source.base}; a sweep can be renamed in a folder of this machine alone")
    with _held(source) as (plan, experiment):
        own = target.folder == source.folder  # its first name, or a renaming died half way
        if new == old or experiment.is_taken(new) or (target.root.exists() and not own):
            raise ConfigError(f"sweep {old} cannot be called {new!r}, there is one of that name; choose another")
        experiment.rename(new)
        if new != source.folder:
            write_json(source.base / new / RENAMED, {"folder": source.folder})
        write_plan(source, replace(plan, name=new, ledger_name=plan.ledger_name or source.folder))
        if old != source.folder:  # it had been renamed before
            _delete(source.base / old)


def archive(name: str, storage_uri: str) -> Freed:
    """Hide a sweep from lists and from MLflow's, and delete the weights of trials that nobody selected.

    Scores, selected models and the ledger stay; `unarchive` brings the sweep back.

    Raises:
        StorageError: there is no such sweep, somebody runs it, or MLflow is away.
    """
    places = SweepStorage(storage_uri, name)
    with _held(places) as (plan, experiment):
        selected = read_selection(places) if places.selection_file.exists() else []
        keep = {places.trial_dir(s.key.target, s.method, s.number).path for s in selected}
        freed, ledger = 0, Ledger(plan)
        for key in plan.studies if selected else ():
            best = {record.number for record in ledger.best(key)}  # which the next `select` would choose
            for record in ledger.study_records(key):
                place = places.trial_dir(key.target, key.method, record.number)
                if place.path not in keep and record.number not in best:
                    freed += _delete(place)
        freed += _delete(places.snapshots_dir) + _delete(places.root / "scratch")
        write_json(places.archived_file, {"freed_bytes": freed})
        experiment.hide()
    return Freed(freed, selected=bool(selected))


def unarchive(name: str, storage_uri: str) -> None:
    """Show an archived sweep again; weights that went are gone.

    Raises:
        StorageError: there is no such sweep, somebody runs it, or MLflow is away.
    """
    places = SweepStorage(storage_uri, name)
    with _held(places) as (_, experiment):
        experiment.show()
        with storage_errors(places.archived_file, "delete"):
            places.archived_file.unlink(missing_ok=True)


def delete(name: str, storage_uri: str) -> Freed:
    """Delete a sweep for good: folder, studies, MLflow runs and artifacts, and the models registered from it.

    Raises:
        StorageError: there is no such sweep, somebody runs it, or MLflow is away.
    """
    places = SweepStorage(storage_uri, name)
    with _held(places) as (plan, experiment):
        models = experiment.remove_models()
        experiment.remove()
        if plan.ledger != str(places.journal_file):
            _delete_studies(plan)
        # The plan goes last: until then it can be repeated, and nothing of it passes for another sweep's.
        last = ("driver.lock", "plan.json", places.journal_file.name)
        freed = sum(_delete(child) for child in _children(places.root) if child.name not in last)
        freed += _delete(places.root / places.journal_file.name) + _delete(places.plan_file)
    _delete(places.root)
    if places.folder != name:
        _delete(places.base / name)
    served = is_server(plan.tracking_uri)  # its artifacts lie in its own place, not in the storage
    where = "" if served else f" --backend-store-uri {shlex.quote(without_password(plan.tracking_uri))}"
    left = "its rows, figures and models" if served else "its rows"
    return Freed(freed, tuple(models), left, f"mlflow gc{where}")


@contextmanager
def _held(places: SweepStorage) -> Iterator[tuple[SweepPlan, KeptExperiment]]:
    """A sweep that nobody runs meanwhile."""
    plan = read_plan(places)
    with sole_driver(places.driver_lock, plan.ledger, plan.sweep_id):
        yield plan, KeptExperiment(plan)


def _delete_studies(plan: SweepPlan) -> None:
    storage, ledger = open_storage(plan.ledger), Ledger(plan)
    with ledger_errors(plan.ledger):
        existing = set(optuna.get_all_study_names(storage))
        for key in plan.studies:
            if (name := ledger.study_name(key)) in existing:
                optuna.delete_study(study_name=name, storage=storage)


def _children(folder: UPath) -> list[UPath]:
    with storage_errors(folder, "list"):
        return list(folder.iterdir()) if folder.exists() else []


def _delete(place: UPath) -> int:
    """Delete a file or folder; bytes that it held."""
    with storage_errors(place, "delete"):
        if not place.exists():
            return 0
        freed = int(sum(place.fs.du(place.path, total=False).values()))
        place.fs.rm(place.path, recursive=True)
        return freed


def size(n_bytes: int) -> str:
    """``1.2 GB``, ``340 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"
