"""A sweep that exists: the plan, as its file says it, and its ledger. Knows no Ray: who looks need not wait for it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ledger import Ledger
from orchestrator.plan import SweepPlan
from orchestrator.selected import require_sweep
from orchestrator.storage import SweepStorage, read_json, write_json
from trainables.errors import StorageError


def open_sweep(name: str, storage: str) -> tuple[SweepStorage, Ledger]:
    """The places and the ledger of an existing sweep, for reading.

    Raises:
        StorageError: there is none of that name.
    """
    places = SweepStorage(storage, name)
    return places, Ledger(load_plan(places))


def write_plan(storage: SweepStorage, plan: SweepPlan) -> None:
    """Keep the plan; defaults that lie within the storage are left open, so that the storage can be moved.

    Raises:
        StorageError: it cannot be written.
    """
    values = plan.to_dict()
    for field, default in _movable(storage).items():
        if values[field] == default:
            values[field] = None
    write_json(storage.plan_file, values)


def _movable(storage: SweepStorage) -> dict[str, str]:
    return {"ledger": str(storage.journal_file), "tracking_uri": storage.default_tracking_uri}


def read_plan(storage: SweepStorage) -> SweepPlan:
    """What the plan's file says, of a sweep that may be half renamed or half deleted.

    Raises:
        StorageError: there is none.
    """
    require_sweep(storage)
    values = read_json(storage.plan_file)
    if isinstance(values, dict):
        values |= {field: default for field, default in _movable(storage).items() if values.get(field) is None}
    return SweepPlan.from_dict(values)


def load_plan(storage: SweepStorage) -> SweepPlan:
    """The plan of an existing sweep.

    Raises:
        StorageError: there is none of that name.
    """
    plan = read_plan(storage)
    if plan.name != storage.name:
        raise StorageError(f"sweep {storage.name!r} is called {plan.name!r} now; use that name, or another")
    if "://" not in plan.ledger and not Path(plan.ledger).exists():
        raise StorageError(
            f"the ledger {plan.ledger} of sweep {storage.name!r} is gone; bring it back, or start a new sweep"
        )
    return plan
