"""The distinct networks of a selection: one for each selected tuned trial, and the untuned one for all targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upath import UPath

from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.selected import Selected, weights_of
from orchestrator.storage import SweepStorage
from trainables.target import Target

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from trainables.models.backbone import Backbone
    from trainables.models.tuned_model import TunedModel

UNTUNED = "untuned"


@dataclass(frozen=True)
class Network:
    """What evaluations compute with."""

    name: str
    """``untuned``, or ``subj01-lh-V1v.contrastive``."""
    method: str
    target: Target | None
    """What it was tuned for; None for the untuned network."""
    trial: str
    """As `TrialRecord.uid`; empty for the untuned network."""
    tuned: str | None
    """Folder of the tuned weights."""
    readout_layer: str = ""
    """Chosen with the trial; empty for the untuned network, which has one for each target."""

    @property
    def places(self) -> list[tuple[str, str]]:
        """Hemisphere and ROI that it was tuned for."""
        return [(self.target.hemisphere, self.target.roi)] if self.target else []


def network_name(key: StudyKey) -> str:
    """Name of the network that won a study."""
    return UNTUNED if key.method == UNTUNED else f"{key.target.slug}.{key.method}"


def networks_of(storage: SweepStorage, ledger: Ledger, selection: Sequence[Selected]) -> list[Network]:
    """Every network once, the untuned one first: the others are compared with it."""
    found = {UNTUNED: Network(UNTUNED, UNTUNED, None, "", None)}
    for selected in selection:
        if selected.method != UNTUNED:
            name = network_name(selected.key)
            place = weights_of(storage, ledger, selected)
            found[name] = Network(
                name, selected.method, selected.key.target, selected.trial, place, selected.readout_layer
            )
    return list(found.values())


def places_of(plan: SweepPlan, subject: str) -> list[tuple[str, str]]:
    """Hemispheres and ROIs that the plan tunes for in one subject."""
    own = [target for target in plan.targets if target.subjects == (subject,)]
    return [(target.hemisphere, target.roi) for target in own]


def subjects_of(plan: SweepPlan) -> list[str]:
    """Subjects of the sweep."""
    return list(dict.fromkeys(name for target in plan.targets for name in target.subjects))


@dataclass(frozen=True)
class Building:
    """What a task has to know to build a network."""

    weights: str
    backbone: str
    cutoff: str
    tuned: str | None


def building_plan(storage: SweepStorage, plan: SweepPlan, network: Network) -> Building:
    """For `build_network`."""
    return Building(str(storage.weights_file), plan.backbone, plan.cutoffs[-1], network.tuned)


def build_network(building: Building) -> tuple[Backbone, TunedModel | None]:
    """The network on the CPU, and the tuned model with its head; called where a task runs.

    Raises:
        WeightsError: files that are missing or damaged.
    """
    from trainables.models.backbone import build_backbone
    from trainables.models.tuned_model import TunedModel
    from trainables.models.weights import load_weights

    if building.tuned is None:
        weights = load_weights(building.weights, building.backbone)
        return build_backbone(building.backbone, weights.state, building.cutoff).eval(), None
    model = TunedModel.load(UPath(building.tuned))
    return model.build(), model
