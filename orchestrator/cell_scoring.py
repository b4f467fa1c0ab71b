"""Scores cells that are not there yet, one Ray task each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
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
from orchestrator.networks import UNTUNED, Building, build_network, building_plan
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, write_arrays, write_json
from orchestrator.tasks import TaskRunner
from trainables.data.splits import NESTED, PUBLISHED_A
from trainables.errors import StorageError

if TYPE_CHECKING:
    from trainables.data.dataset import Dataset
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
        jobs = [{"job": cell_job(storage, plan, key, {**(known or {}), **cells})} for key in todo]
        for index, _ in tasks.run(score_cell, jobs, title):
            cell = read_cell(storage, todo[index])
            if cell is None:
                raise StorageError(f"{cell_place(storage, todo[index])} vanished after it was written; evaluate again")
            cells[todo[index]] = cell
    return {key: cells[key] for key in wanted}


@dataclass(frozen=True)
class CellJob:
    """What the task that scores one cell is told."""

    key: CellKey
    split_seed: int
    split_digest: str
    """Of the sweep's own data set, which has to be the same still; empty for another one."""
    protocol: str
    encoder: str
    building: Building
    choices: Mapping[Place, tuple[str, float]] | None
    """Layer and penalty of every place where the protocol takes those of the untuned network."""
    place: str
    """Where the cell is kept, without an ending."""


def cell_job(storage: SweepStorage, plan: SweepPlan, key: CellKey, cells: Mapping[CellKey, Cell]) -> CellJob:
    """The task of one cell; ``cells`` are those that may hold the untuned network's choices.

    Raises:
        StorageError: ``published-a``, and the untuned network was not scored on that subject.
    """
    choices = None
    if plan.protocol == PUBLISHED_A and key.network.name != UNTUNED:
        where = (key.external, key.data, key.subject)
        untuned = {(k.external, k.data, k.subject): cell for k, cell in cells.items() if k.network.name == UNTUNED}
        if where not in untuned:
            raise StorageError(f"the untuned network was not scored on {key.subject}; evaluate encoding first")
        choices = {place: untuned[where].choice(place) for place in key.places}
    return CellJob(
        key,
        plan.split_seed,
        "" if key.external else plan.split_digest,
        plan.protocol,
        plan.encoder,
        building_plan(storage, plan, key.network),
        choices,
        str(cell_place(storage, key)),
    )


def score_cell(job: CellJob, device: str) -> None:
    """Score one network on one subject and keep r of every voxel; the body of a Ray task.

    Raises:
        DataError: the data set is not the one that the sweep ran on, or that the evaluation began with.
    """
    from trainables.evaluations.subject import load_parts, score_subject

    key, network_of = job.key, job.key.network
    network, model = build_network(job.building)
    parts = load_parts(_same_data(job), key.subject, list(key.places), job.split_seed, job.protocol)
    scores, bank = score_subject(network.to(device), parts, job.protocol, encoder=job.encoder, choices=job.choices)
    summary = {
        "version": CELL_VERSION,
        "trial": network_of.trial,
        "data": key.data,
        "kept": list(key.kept),
        "protocol": job.protocol,
        "split": job.split_digest,
        "content": key.content,
        "layers": list(network.readout_layers),
        "n_test": len(parts.rows[2]),
        "information": _information(job, model, parts, bank),
        "places": [
            {"place": where, "columns": [columns.start, columns.stop], "choice": scores.choices.get(where)}
            for where, columns in parts.places.items()
        ],
    }
    destination = UPath(job.place)
    # The arrays first: the summary beside them says that they are whole.
    arrays = _arrays(summary, scores, parts, keep_measured=network_of.name == UNTUNED)
    write_arrays(destination.with_name(f"{destination.name}.npz"), **arrays)
    write_json(destination.with_name(f"{destination.name}.json"), summary)


def _same_data(job: CellJob) -> Dataset:
    """The subject's data set, if it is what it was.

    Raises:
        DataError: it changed since the sweep ran, or since the evaluation began.
    """
    from trainables.data.open import open_dataset
    from trainables.data.responses import require_split, require_subject

    dataset = open_dataset(job.key.data)
    if job.split_digest:
        require_split(dataset, job.split_seed, job.split_digest, job.protocol)
    if job.key.content:
        require_subject(dataset, job.key.subject, job.key.content)
    return dataset


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
    job: CellJob, model: TunedModel | None, parts: SubjectParts, bank: FeatureBank
) -> dict[str, Any] | None:
    """Information and retrieval of a contrastive network on its own subject; None for others or without validation."""
    from trainables.evaluations.information import embed_pairs, measure_information
    from trainables.evaluations.retrieval import measure_retrieval

    target = job.key.network.target
    if model is None or target is None or not job.key.own or job.protocol != NESTED:
        return None
    if model.method != "contrastive" and not model.method.startswith("pooled"):
        return None
    features = bank.take(bank.network.readout_layers[-1])
    n_train, n_val = len(parts.rows[0]), len(parts.rows[1])
    columns, index = parts.places[job.key.network.places[0]], target.subjects.index(job.key.subject)
    val, test = (
        embed_pairs(model, parts.responses[part][:, columns], features[rows], index)
        for part, rows in ((1, slice(n_train, n_train + n_val)), (2, slice(n_train + n_val, None)))
    )
    try:
        information = measure_information(*test, *val)
    except ValueError:  # embeddings that are not finite, or fewer than two stimuli
        return None
    return asdict(information) | {"retrieval": asdict(measure_retrieval(*test))}
