from __future__ import annotations

from dataclasses import replace

from orchestrator.plan import SweepPlan
from orchestrator.tracking.contents import study_tags
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.registry import Registry
from tests.orchestrator.plans import V1_CONTRASTIVE, open_ledger


def test_champion_of_another_sweep_is_known(tracked_plan: SweepPlan) -> None:
    """Models are named by their target alone, so a later sweep's winner takes the alias from an earlier one's."""
    other = replace(tracked_plan, name="other", sweep_id="another-id")
    earlier, later = (Registry(Projection(open_ledger(plan), "file:///nowhere")) for plan in (tracked_plan, other))
    target = V1_CONTRASTIVE.target
    name = earlier.model_name(target)
    client = earlier.client
    client.create_registered_model(name)
    assert later.champion_of_another_sweep(target) is None
    tags = {**study_tags(tracked_plan, V1_CONTRASTIVE), "val_r": "0.500000"}
    version = client.create_model_version(name, source="file:///nowhere/model", tags=tags)
    client.set_registered_model_alias(name, "champion", version.version)
    assert earlier.champion_of_another_sweep(target) is None
    assert later.champion_of_another_sweep(target) == f"version 1, of sweep {tracked_plan.name} with val r 0.500000"
