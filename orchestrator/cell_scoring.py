"""Scores cells that are not there yet, one Ray task each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from upath import UPath

from orchestrator.cells import (
    CELL_VERSION,
    Cell,
    CellKey,
    Place,
    cell_place,
    measured_name,
    predicted_name,
    read_cell,
)
from orchestrator.networks import UNTUNED, build_network, building_plan
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, write_arrays, write_json
from orchestrator.tasks import TaskRunner
from trainables.data.splits import NESTED, PUBLISHED_A
from trainables.errors import StorageError

if TYPE_CHECKING:
    from trainables.evaluations.subject import FeatureBank, SubjectParts, SubjectScores
    from trainables.models.tuned_model import TunedModel


def score_cells(
    storage: SweepStorage,
    plan: SweepPlan,
    keys: Iterable[CellKey],
    tasks: TaskRunner,
    title: str,
    known: Mapping[CellKey, Cell] | None = None,
) -> dict[CellKey, Cell]:
    """Every cell, computing those that are not there yet; the untuned network's come first.

    ``known`` are cells of an earlier call, among which ``published-a`` may find the untuned network's choices.

    Raises:
        CortexSweepError: data or models are missing.
    """
    wanted = list(dict.fromkeys(keys))
    cells = {key: cell for key in wanted if (cell := read_cell(storage, key)) is not None}
    for untuned_turn in (True, False):  # published-a: the untuned network chooses layer and penalty for the others
        todo = [key for key in wanted if key not in cells and (key.network.name == UNTUNED) == untuned_turn]
        if not todo:
            continue
        jobs = [cell_job(storage, plan, key, {**(known or {}), **cells}) for key in todo]
        for index, _ in tasks.run(score_cell, jobs, title):
            cell = read_cell(storage, todo[index])
            if cell is None:
                raise StorageError(f"{cell_place(storage, todo[index])} vanished after it was written; evaluate again")
            cells[todo[index]] = cell
    return {key: cells[key] for key in wanted}


def cell_job(storage: SweepStorage, plan: SweepPlan, key: CellKey, cells: Mapping[CellKey, Cell]) -> dict[str, Any]:
    """Arguments of `score_cell`, without the device; ``cells`` are those that may hold the untuned network's choices.

    Raises:
        StorageError: ``published-a``, and the untuned network was not scored on that subject.
    """
    choices = None
    if plan.protocol == PUBLISHED_A and key.network.name != UNTUNED:
        where = (key.external, key.data, key.subject)
        untuned = {(k.external, k.data, k.subject): cell for k, cell in cells.items() if k.network.name == UNTUNED}
        if where not in untuned:
            raise StorageError(f"the untuned network was not scored on {key.subject}; evaluate encoding first")
        reference = untuned[where]
        choices = {place: reference.choice(place) for place in key.places}
    target = key.network.target
    return {
        "data": key.data,
        "subject": key.subject,
        "places": list(key.places),
        "split_seed": plan.split_seed,
        "split_digest": "" if key.external else plan.split_digest,
        "content": key.content,
        "protocol": plan.protocol,
        "encoder": plan.encoder,
        **building_plan(storage, plan, key.network),
        "trial": key.network.trial,
        "own_index": target.subjects.index(key.subject) if target and key.own else None,
        "own_place": key.network.places[0] if key.own else None,
        "kept": list(key.kept),
        "keep_measured": key.network.name == UNTUNED,
        "choices": choices,
        "place": str(cell_place(storage, key)),
    }


def score_cell(
    data: str,
    subject: str,
    places: list[Place],
    split_seed: int,
    split_digest: str,
    content: str,
    protocol: str,
    encoder: str,
    weights: str,
    backbone: str,
    cutoff: str,
    tuned: str | None,
    trial: str,
    own_index: int | None,
    own_place: Place | None,
    kept: list[tuple[Place, str]],
    keep_measured: bool,
    choices: dict[Place, tuple[str, float]] | None,
    place: str,
    device: str,
) -> None:
    """Score one network on one subject and keep r of every voxel; the body of a Ray task.

    Raises:
        DataError: the data set is not the one that the sweep ran on, or that the evaluation began with.
    """
    from trainables.data.open import open_dataset
    from trainables.data.responses import require_split, require_subject
    from trainables.evaluations.subject import load_parts, score_subject

    dataset = open_dataset(data)
    if split_digest:
        require_split(dataset, split_seed, split_digest, protocol)
    if content:
        require_subject(dataset, subject, content)
    network, model = build_network(weights, backbone, cutoff, tuned)
    parts = load_parts(dataset, subject, places, split_seed, protocol)
    scores, bank = score_subject(network.to(device), parts, protocol, encoder=encoder, choices=choices)
    information = None
    if model is not None and own_index is not None and own_place is not None and protocol == NESTED:
        information = _information(model, parts, bank, own_index, own_place)
    summary = {
        "version": CELL_VERSION,
        "trial": trial,
        "data": data,
        "kept": kept,
        "protocol": protocol,
        "split": split_digest,
        "content": content,
        "layers": list(network.readout_layers),
        "n_test": len(parts.rows[2]),
        "information": information,
        "places": [
            {"place": where, "columns": [columns.start, columns.stop], "choice": scores.choices.get(where)}
            for where, columns in parts.places.items()
        ],
    }
    destination = UPath(place)
    # The arrays first: the summary beside them says that they are whole.
    arrays = _arrays(summary, scores, parts, keep_measured)
    write_arrays(destination.with_name(f"{destination.name}.npz"), **arrays)
    write_json(destination.with_name(f"{destination.name}.json"), summary)


def _arrays(
    summary: dict[str, Any], scores: SubjectScores, parts: SubjectParts, keep_measured: bool
) -> dict[str, NDArray[Any]]:
    """R of every voxel, and responses to single stimuli where they are kept."""
    arrays: dict[str, NDArray[Any]] = {f"val|{layer}": r for layer, r in scores.val.items()}
    arrays |= {f"test|{layer}": r for layer, r in scores.test.items()}
    if parts.noise_ceiling is not None:
        arrays["noise_ceiling"] = parts.noise_ceiling
    cell = Cell(summary, dict(arrays))
    for where, _ in summary["kept"]:
        columns, layer = parts.places[where], cell.layer(where)
        if layer in scores.predicted:
            arrays[predicted_name(where)] = scores.predicted[layer][:, columns]
        if keep_measured:
            arrays[measured_name(where)] = parts.responses[2][:, columns]
    return arrays


def _information(
    model: TunedModel, parts: SubjectParts, bank: FeatureBank, index: int, place: Place
) -> dict[str, Any] | None:
    """Information and retrieval of a contrastive network on its own subject; None for other methods."""
    from trainables.evaluations.information import embed_pairs, measure_information
    from trainables.evaluations.retrieval import measure_retrieval

    if model.method != "contrastive" and not model.method.startswith("pooled"):
        return None
    features = bank.take(bank.network.readout_layers[-1])
    n_train, n_val = len(parts.rows[0]), len(parts.rows[1])
    columns = parts.places[place]
    val, test = (
        embed_pairs(model, parts.responses[part][:, columns], features[rows], index)
        for part, rows in ((1, slice(n_train, n_train + n_val)), (2, slice(n_train + n_val, None)))
    )
    retrieval = measure_retrieval(*test)
    found = asdict(measure_information(*test, *val)) | {"retrieval": asdict(retrieval)}
    return found if math.isfinite(found["bits"]) else None
