"""A sweep that is selected and not evaluated yet: real data and networks, trials that nobody ran."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from orchestrator.ledger import Ledger
from orchestrator.opening import write_plan
from orchestrator.plan import StudyKey
from orchestrator.selection import choose, select
from orchestrator.storage import SweepStorage, write_json
from orchestrator.tracking.projection import Projection
from tests.orchestrator.inline import InlineTasks
from tests.orchestrator.plans import complete, open_ledger, small_plan
from trainables.data.algonauts import AlgonautsDataset
from trainables.data.responses import split_digest
from trainables.models.backbone import BACKBONES, Backbone
from trainables.models.heads import ContrastiveHead
from trainables.models.tuned_model import TunedModel
from trainables.target import Target

LAYERS = ("features.2", "features.5")
TARGETS = tuple(
    Target("demo", (subject,), hemisphere, "V1v")
    for subject, hemisphere in (("subj01", "lh"), ("subj01", "rh"), ("subj02", "lh"))
)


def selected_sweep(
    dataset: AlgonautsDataset, folder: Path, targets: tuple[Target, ...] = TARGETS
) -> tuple[SweepStorage, Ledger]:
    """One trial of the untuned network and one contrastive one for each of ``targets``, with random weights."""
    storage = SweepStorage(str(folder), "small")
    storage.create()
    save_file(_state(0, LAYERS[1]), str(storage.weights_file))
    plan = small_plan(
        Path(str(storage.root)),
        data=str(dataset.root),
        split_digest=split_digest(dataset),
        targets=targets,
        roi_groups={"V1v": "early"},
        methods=("contrastive", "untuned"),
        trials=1,
        cutoffs=LAYERS,
        tracking_uri=storage.default_tracking_uri,
        ledger=str(storage.journal_file),
    )
    write_plan(storage, plan)
    ledger = open_ledger(plan)
    for key in plan.studies:
        _win(storage, ledger, key, dataset)
    write_json(storage.selection_file, [asdict(winner) for winner in choose(ledger)])
    Projection(ledger, storage.artifacts_uri).sync(ended=True)
    return storage, ledger


def _win(storage: SweepStorage, ledger: Ledger, key: StudyKey, dataset: AlgonautsDataset) -> None:
    trial = ledger.ask(key)
    layer = LAYERS[1] if key.method == "untuned" else LAYERS[0]
    details = {"readout_layer": layer, "weights": None}
    if key.method != "untuned":
        target, seed = key.target, 1 + TARGETS.index(key.target)
        place = storage.trial_dir(target, key.method, trial.trial.number)
        torch.manual_seed(seed)
        n_voxels = len(dataset.subject(target.subjects[0]).voxels(target.hemisphere, target.roi))
        made = {"config": trial.config.to_dict()}
        head = ContrastiveHead(BACKBONES["alexnet"].readout_layers[layer], n_voxels)
        TunedModel("alexnet", layer, key.method, layer, _state(seed, layer), head.state_dict(), made).save(place)
        details["weights"] = str(place)
    complete(ledger, trial, {trial.config.epochs: 0.2}, **details)


def _state(seed: int, layer: str) -> dict[str, torch.Tensor]:
    """Random weights of AlexNet up to a layer: a whole one takes seconds to draw, and each task reads it."""
    with torch.device("meta"):
        shapes = Backbone(BACKBONES["alexnet"], layer).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(like.shape, generator=generator) * (2 / like[0].numel()) ** 0.5
        if name.endswith("weight")
        else torch.zeros(like.shape)
        for name, like in shapes.items()
    }


def saved_sweep(dataset: AlgonautsDataset, folder: Path) -> SweepStorage:
    """As `selected_sweep`, of the first target alone, with its encoding models fitted, saved and registered."""
    storage, ledger = selected_sweep(dataset, folder, TARGETS[:1])
    select(ledger.plan.name, str(folder), InlineTasks())
    return storage
