"""Chooses the best trial of every target and method by validation score, and puts it into the model registry.

A registered model predicts the responses of one subject. A network of all subjects is registered for each of them, with
that subject's own encoding model; networks that leave a subject out are for that subject, see `evaluate`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from upath import UPath

from orchestrator.ledger import Ledger
from orchestrator.opening import open_sweep
from orchestrator.plan import StudyKey
from orchestrator.records import TrialRecord
from orchestrator.registry_cards import write_cards
from orchestrator.selected import Selected, weights_of
from orchestrator.storage import SweepStorage, write_json
from orchestrator.tasks import TaskRunner
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.registry import Registry
from orchestrator.tracking.views import publish_views
from trainables.data.splits import NESTED
from trainables.errors import StorageError
from trainables.target import Target


@dataclass(frozen=True)
class Registration:
    """What one registered model is made of."""

    selected: Selected
    """Of the one subject that it predicts; the trial is that of the network, which may be a pooled one's."""
    winner: Selected
    """Whose network it is."""

    @property
    def artifact(self) -> str:
        """Folder among the artifacts of the trial's run, where a pooled network's models lie side by side."""
        pooled = self.winner.key.target.is_pooled
        return f"model-{self.selected.key.target.subjects[0]}" if pooled else "model"


def registrations(ledger: Ledger, chosen: list[Selected]) -> list[Registration]:
    """A model for each winner and subject. No pooled network is a champion: those are the best of their own target."""
    found = []
    for winner in chosen:
        target = winner.key.target
        if not target.is_pooled:
            found.append(Registration(winner, winner))
        elif target in ledger.plan.pools:
            record = next(r for r in ledger.study_records(winner.key) if r.number == winner.number)
            for subject, val_r in record.details["r_by_subject"].items():
                own = target.of_subject(subject).to_dict()
                found.append(Registration(replace(winner, target=own, val_r=val_r, champion=False), winner))
    return found


def choose(ledger: Ledger) -> list[Selected]:
    """The best complete trial of every study, by validation score alone; an earlier trial wins a tie.

    Raises:
        StorageError: no study has a complete trial.
    """
    winners = [(key, *found) for key in ledger.plan.studies if (found := _winner(ledger, key))]
    if not winners:
        raise StorageError(
            f"sweep {ledger.plan.name} has no complete trial yet; `sweep.py resume {ledger.plan.name}` goes on with it"
        )
    champions: dict[Target, float] = {}
    for key, _, value in winners:
        champions[key.target] = max(champions.get(key.target, -2.0), value)
    crowned: set[Target] = set()
    chosen = []
    order = {target: place for place, target in enumerate(ledger.plan.targets)}
    for key, record, value in sorted(winners, key=lambda winner: order[winner[0].target]):
        # A published protocol has one trial a study, scored on the stimuli that it was tuned on: nothing is chosen.
        chosen_by_it = ledger.plan.protocol == NESTED
        champion = chosen_by_it and value == champions[key.target] and key.target not in crowned
        if champion:
            crowned.add(key.target)
        layer = str(record.details["readout_layer"])
        chosen.append(
            Selected(
                key.target.to_dict(),
                key.method,
                record.uid,
                record.number,
                value,
                layer,
                champion,
                ledger.plan.split_digest,
            )
        )
    return chosen


def challengers(chosen: list[Selected]) -> set[str]:
    """Trials that are second to their target's champion, by validation score."""
    second: dict[Target, Selected] = {}
    crowned = {selected.key.target for selected in chosen if selected.champion}
    for selected in chosen:
        target = selected.key.target
        best_yet = second.get(target)
        if target not in crowned or target.is_pooled or selected.champion:
            continue
        if best_yet is None or selected.val_r > best_yet.val_r:
            second[target] = selected
    return {selected.trial for selected in second.values()}


def _winner(ledger: Ledger, key: StudyKey) -> tuple[TrialRecord, float] | None:
    """A study's trial to take, and the validation r to go by."""
    best = next(iter(ledger.best(key)), None)
    return (best, best.value) if best is not None and best.value is not None else None


def select(name: str, storage_uri: str, tasks: TaskRunner) -> list[dict[str, Any]]:
    """Choose, fit the encoding model of each winner, and register it.

    Raises:
        CortexSweepError: nothing to choose from, or data, weights or registry are missing.
    """
    storage, ledger = open_sweep(name, storage_uri)
    storage.require_not_archived()
    chosen = choose(ledger)
    registry = Registry(Projection(ledger, storage.artifacts_uri))
    models = registrations(ledger, chosen)
    todo = [model for model in models if not registry.holds(model.selected.key, model.selected.trial)]
    if todo:
        _build_predictors(storage, ledger, todo, tasks)
        for model in todo:
            selected = model.selected
            place = storage.model_dir(selected.key.target, selected.method)
            registry.register(selected.key, asdict(selected), place, model.artifact)
            if not tasks.quiet:
                tasks.console.print(
                    f"registered {registry.model_name(selected.key.target)}: {selected.method} ({selected.trial})",
                    soft_wrap=True,
                )
    second = challengers(chosen)
    for model in models:
        selected = model.selected
        former = registry.champion_of_another_sweep(selected.key.target) if selected.champion else None
        registry.point(selected.key, selected.trial, selected.champion, selected.trial in second)
        if former and not tasks.quiet:  # models are named by their target, whichever sweep they come from
            name = registry.model_name(selected.key.target)
            tasks.console.print(
                f"`champion` of {name} was {former}; it is this sweep's now, with val r {selected.val_r:.6f}",
                soft_wrap=True,
            )
    write_json(storage.selection_file, [asdict(selected) for selected in chosen])
    for target in {model.selected.key.target for model in models}:
        if not any(target == other.key.target for other in chosen if other.trial in second):
            registry.withdraw_challenger(target)
    named = {id(model): (model.selected.key.target, model.winner.method) for model in models}
    write_cards(storage, ledger.plan, registry, named.values(), {named[id(model)] for model in todo})
    publish_views(registry.client, registry.projection.experiment_id, ledger.plan)
    if not tasks.quiet:
        champions = sum(model.selected.champion for model in models)
        how = " by validation score" if ledger.plan.protocol == NESTED else ", the one trial of each study"
        tasks.console.print(
            f"{len(chosen)} models selected{how}, {champions} with the alias `champion`.",
            soft_wrap=True,
        )
    return [asdict(selected) for selected in chosen]


def _build_predictors(storage: SweepStorage, ledger: Ledger, todo: list[Registration], tasks: TaskRunner) -> None:
    plan = ledger.plan
    jobs = [
        {
            "data": plan.data,
            "target": model.selected.target,
            "readout_layer": model.selected.readout_layer,
            "split_seed": plan.split_seed,
            "weights": str(storage.weights_file),
            "tuned": weights_of(storage, ledger, model.winner),
            "split_digest": plan.split_digest,
            "protocol": plan.protocol,
            "encoder": plan.encoder,
            "backbone": plan.backbone,
            "place": str(storage.model_dir(model.selected.key.target, model.selected.method)),
            "provenance": {
                **asdict(model.selected),
                "dataset": plan.dataset,
                "protocol": plan.protocol,
                "weights": {"source": plan.weights_source, "digest": plan.weights_digest},
                "sweep": plan.name,
                "git_commit": plan.git_commit,
            },
        }
        for model in todo
    ]
    for _ in tasks.run(build_predictor, jobs, "fitting encoding models"):
        pass


def build_predictor(
    data: str,
    target: dict[str, Any],
    readout_layer: str,
    split_seed: int,
    split_digest: str,
    protocol: str,
    encoder: str,
    backbone: str,
    weights: str,
    tuned: str | None,
    place: str,
    provenance: dict[str, Any],
    device: str,
) -> None:
    """Fit the encoding model of one selected network to the training stimuli and save both at ``place``.

    The body of a Ray task: it imports the science where it runs.

    Raises:
        DataError: the data set is not the one that the sweep ran on.
    """
    from trainables.data.open import open_dataset
    from trainables.data.responses import load_target, require_split
    from trainables.evaluations.encoding import fit_encoder
    from trainables.models.tuned_model import TunedModel
    from trainables.models.weights import load_weights
    from trainables.predictor import ResponsePredictor

    if tuned is None:
        pretrained = load_weights(weights, backbone)
        model = TunedModel(pretrained.backbone, readout_layer, "untuned", readout_layer, pretrained.state)
    else:
        model = TunedModel.load(UPath(tuned))
    model = TunedModel(
        model.backbone,
        model.layer_cutoff,
        model.method,
        readout_layer,
        model.state,
        provenance={**model.provenance, **provenance},
    )
    dataset = open_dataset(data)
    require_split(dataset, split_seed, split_digest, protocol)
    parts = load_target(dataset, Target.from_dict(target), split_seed, protocol=protocol)
    fitted = fit_encoder(model.build().to(device), readout_layer, parts.train, encoder=encoder)
    ResponsePredictor(model, fitted, device).save(UPath(place))
