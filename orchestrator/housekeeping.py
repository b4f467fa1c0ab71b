"""Sweeps that are called otherwise, put away or deleted, and what that frees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import optuna
from upath import UPath

from orchestrator.driver import sole_driver
from orchestrator.launch import load_plan, write_plan
from orchestrator.ledger import Ledger
from orchestrator.ledger_storage import ledger_errors, open_storage
from orchestrator.plan import SweepPlan
from orchestrator.selected import read_selection
from orchestrator.storage import SweepStorage, storage_errors, write_json
from orchestrator.tracking.keeping import KeptExperiment
from trainables.errors import ConfigError

ARTIFACTS = "artifacts"
"""MLflow knows its place by its whole path, so it stays where it is."""


@dataclass(frozen=True)
class Freed:
    """What went."""

    n_bytes: int
    models: tuple[str, ...] = ()
    """Registered model versions, as ``name version 3``."""


def rename(old: str, new: str, storage_uri: str) -> None:
    """Call a sweep ``new``, in the storage and in MLflow; its artifacts stay in the folder of the old name.

    Raises:
        ConfigError: the new name is taken, or is no name.
        StorageError: there is no such sweep, somebody runs it, or MLflow is away.
    """
    source, target = SweepStorage(storage_uri, old), SweepStorage(storage_uri, new)
    with _held(source) as (plan, experiment):
        if experiment.is_taken(new) or target.plan_file.exists():
            raise ConfigError(f"sweep {old} cannot be called {new!r}, there is one of that name; choose another")
        renamed = replace(plan, name=new, ledger_name=plan.ledger_name or old)
        target.create()
        for child in _children(source.root):
            if child.name not in (ARTIFACTS, "driver.lock", "plan.json"):
                _move(child, target.root / child.name)
        write_plan(target, _with_moved_ledger(renamed, source, target))
        with storage_errors(source.plan_file, "delete"):
            source.plan_file.unlink()
        experiment.rename(new)


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
        freed = 0
        for key in plan.studies if selected else ():
            for record in Ledger(plan).study_records(key):
                place = places.trial_dir(key.target, key.method, record.number)
                if place.path not in keep:
                    freed += _delete(place)
        freed += _delete(places.snapshots_dir) + _delete(places.root / "scratch")
        write_json(places.archived_file, {"freed_bytes": freed})
        experiment.hide()
    return Freed(freed)


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
        freed = 0
        if experiment.artifacts is not None:
            own = UPath(experiment.artifacts)
            if own.name == ARTIFACTS and own.path.startswith(places.base.path):
                freed += _delete(own)
        experiment.remove()
        _delete_studies(plan)
        with storage_errors(places.root, "delete"):
            places.plan_file.unlink()  # first: what is left of a deletion that fails is no sweep
        for child in _children(places.root):
            if child.name != "driver.lock":
                freed += _delete(child)
    _delete(places.root)
    return Freed(freed, tuple(models))


@contextmanager
def _held(places: SweepStorage) -> Iterator[tuple[SweepPlan, KeptExperiment]]:
    """A sweep that nobody runs meanwhile."""
    plan = load_plan(places)
    with sole_driver(places.driver_lock, plan.ledger, plan.sweep_id):
        yield plan, KeptExperiment(plan)


def _with_moved_ledger(plan: SweepPlan, source: SweepStorage, target: SweepStorage) -> SweepPlan:
    return replace(plan, ledger=str(target.journal_file)) if plan.ledger == str(source.journal_file) else plan


def _delete_studies(plan: SweepPlan) -> None:
    if "://" not in plan.ledger:
        return  # the journal goes with the folder
    storage, ledger = open_storage(plan.ledger), Ledger(plan)
    with ledger_errors(plan.ledger):
        existing = set(optuna.get_all_study_names(storage))
        for key in plan.studies:
            if (name := ledger.study_name(key)) in existing:
                optuna.delete_study(study_name=name, storage=storage)


def _children(folder: UPath) -> list[UPath]:
    with storage_errors(folder, "list"):
        return list(folder.iterdir()) if folder.exists() else []


def _move(source: UPath, target: UPath) -> None:
    with storage_errors(source, "move"):
        source.fs.mv(source.path, target.path, recursive=source.is_dir())


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
