"""Sweeps on servers that are put away and deleted: PostgreSQL, MLflow with users, artifacts in its bucket."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from mlflow.entities import ViewType

from orchestrator.housekeeping import archive, delete, rename, unarchive
from orchestrator.ledger import Ledger
from orchestrator.ledger_storage import open_storage
from orchestrator.opening import load_plan, write_plan
from orchestrator.storage import SweepStorage
from orchestrator.tracking.client import connect
from orchestrator.tracking.projection import Projection
from tests.orchestrator.plans import V1_CONTRASTIVE, complete, open_ledger
from tests.servers import Servers, plan_on, postgres_is_missing, runs_of

pytestmark = [
    pytest.mark.timeout(590),
    pytest.mark.skipif(bool(postgres_is_missing()), reason=postgres_is_missing() or "nothing is missing"),
]


def test_sweep_on_servers_is_renamed_put_away_and_deleted(head: Servers, tmp_path: Path) -> None:
    storage = str(tmp_path / "results")
    kept, other = plan_on(head, tmp_path, "kept"), plan_on(head, tmp_path, "other")
    for plan in (kept, other):
        places = SweepStorage(storage, plan.name)
        places.create()
        write_plan(places, plan)
        ledger = open_ledger(plan)
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})
        Projection(ledger, places.artifacts_uri).sync(ended=True)
    client = connect(head.address)

    rename("kept", "pilot", storage)
    pilot = load_plan(SweepStorage(storage, "pilot"))
    assert Ledger(pilot).trials_left() == Ledger(kept).trials_left()
    assert set(runs_of(pilot)) == set(runs_of(other))

    def is_shown() -> bool:
        return "pilot" in {experiment.name for experiment in client.search_experiments(ViewType.ACTIVE_ONLY)}

    archive("pilot", storage)
    assert not is_shown()
    unarchive("pilot", storage)
    assert is_shown()

    freed = delete("pilot", storage)
    assert "figures" in freed.left
    assert client.get_experiment_by_name("pilot") is None
    assert "other" in {experiment.name for experiment in client.search_experiments(ViewType.ACTIVE_ONLY)}
    studies = optuna.get_all_study_names(open_storage(other.ledger))
    assert {name.partition("/")[0] for name in studies} == {f"other-{other.sweep_id}"}
    assert len(Ledger(other).study_records(V1_CONTRASTIVE)) == 1
    assert not (tmp_path / "results/kept").exists()
