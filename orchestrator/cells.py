"""Network × subject: the unit of encoding and transfer evaluations, computed by a Ray task, once.

A cell's files hold r of every voxel at every readout layer; all tables are made from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.networks import UNTUNED, Network, build_network
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, read_json, reading_arrays, write_arrays, write_json
from orchestrator.tasks import TaskRunner
from trainables.data.splits import NESTED, PUBLISHED_A, PUBLISHED_B
from trainables.errors import StorageError

if TYPE_CHECKING:
    from trainables.evaluations.subject import FeatureBank, SubjectParts, SubjectScores
    from trainables.models.tuned_model import TunedModel

CELL_VERSION = 1
Place = tuple[str, str]


@dataclass(frozen=True)
class CellKey:
    """Which network on which subject."""

    network: Network
    data: str
    """Root of the subject's data set."""
    dataset: str
    subject: str
    external: bool
    """Of another data set than the sweep's."""
    places: tuple[Place, ...]
    """Hemispheres and ROIs to score."""
    kept: tuple[tuple[Place, str], ...] = ()
    """Readout layers that were chosen with the trial, for some places: predictions of single stimuli are kept there."""

    @property
    def own(self) -> bool:
        """Whether the network was tuned for this subject, among others perhaps."""
        target = self.network.target
        return target is not None and not self.external and self.subject in target.subjects


class Cell:
    """A scored cell. It holds r; predictions of single stimuli are read when they are asked for."""

    def __init__(
        self, summary: dict[str, Any], arrays: Mapping[str, NDArray[Any]], source: UPath | None = None
    ) -> None:
        self.summary, self._arrays, self._source = summary, arrays, source
        self.protocol: str = summary["protocol"]
        self.layers: list[str] = summary["layers"]
        self.n_test: int = summary["n_test"]
        self.information: dict[str, Any] | None = summary["information"]
        self._columns = {tuple(entry["place"]): slice(*entry["columns"]) for entry in summary["places"]}
        self._choices = {tuple(entry["place"]): entry["choice"] for entry in summary["places"]}
        self._kept: dict[tuple[str, ...], str] = {tuple(place): layer for place, layer in summary["kept"]}

    @property
    def places(self) -> list[Place]:
        """Hemispheres and ROIs that were scored."""
        return list(self._columns)

    def r(self, part: str, layer: str, place: Place) -> NDArray[np.float64] | None:
        """R of the place's voxels in ``val`` or ``test``; None where the protocol has none for that layer."""
        values = self._arrays.get(f"{part}|{layer}")
        found = None if values is None else values[self._columns[place]]
        return None if found is None or np.isnan(found).all() else found

    def layer(self, place: Place) -> str:
        """The readout layer that the protocol chooses for a place: on validation stimuli (``nested``), by the untuned
        network (``published-a``), or on the folds that are reported (``published-b``).
        """
        if self.protocol == PUBLISHED_A:
            return str(self._choices[place][0])
        if self.protocol == NESTED and place in self._kept:
            return self._kept[place]
        part = "val" if self.protocol == NESTED else "test"
        means = {layer: r.mean() for layer in self.layers if (r := self.r(part, layer, place)) is not None}
        return max(means, key=lambda layer: means[layer])

    def choice(self, place: Place) -> tuple[str, float]:
        """``published-a``: readout layer and penalty."""
        layer, alpha = self._choices[place]
        return str(layer), float(alpha)

    def predicted(self, place: Place) -> NDArray[np.float32] | None:
        """Predicted test responses ``[n_test, n_voxels]`` at the chosen layer; None where they were not kept."""
        return self._read(_predicted(place))

    def measured(self, place: Place) -> NDArray[np.float32] | None:
        """Measured test responses ``[n_test, n_voxels]``; kept in the untuned network's cells."""
        return self._read(_measured(place))

    def _read(self, name: str) -> NDArray[np.float32] | None:
        if self._source is None:
            return None
        with reading_arrays(self._source) as archive:
            return archive.get(name)

    def noise_ceiling(self, place: Place) -> NDArray[np.float32] | None:
        """Share of each voxel's variance that the stimulus can explain."""
        found = self._arrays.get("noise_ceiling")
        return None if found is None else found[self._columns[place]]


def cell_place(storage: SweepStorage, key: CellKey) -> UPath:
    """Where a cell lies, without its ending."""
    subject = f"{key.dataset}.{key.subject}" if key.external else key.subject
    return storage.evaluation_dir / "cells" / key.network.name / subject


def read_cell(storage: SweepStorage, key: CellKey) -> Cell | None:
    """The cell, or None if it was not scored yet, for another trial, or for fewer places."""
    place = cell_place(storage, key)
    summary_file = place.with_name(f"{place.name}.json")
    if not summary_file.exists():
        return None
    summary = read_json(summary_file)
    scored = {tuple(entry["place"]) for entry in summary["places"]}
    identity = (CELL_VERSION, key.network.trial, key.data, [[list(place), layer] for place, layer in key.kept])
    found = tuple(summary.get(name) for name in ("version", "trial", "data", "kept"))
    if found != identity or not set(key.places) <= scored:
        return None
    arrays_file = place.with_name(f"{place.name}.npz")
    with reading_arrays(arrays_file) as archive:
        held = [name for name in archive if not name.startswith(("predicted|", "measured|"))]
        return Cell(summary, {name: archive[name] for name in held}, arrays_file)


def _predicted(place: Place) -> str:
    return f"predicted|{place[0]}|{place[1]}"


def _measured(place: Place) -> str:
    return f"measured|{place[0]}|{place[1]}"


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
        jobs = [_job(storage, plan, key, {**(known or {}), **cells}) for key in todo]
        for index, _ in tasks.run(score_cell, jobs, title):
            cell = read_cell(storage, todo[index])
            if cell is None:
                raise StorageError(f"{cell_place(storage, todo[index])} vanished after it was written; evaluate again")
            cells[todo[index]] = cell
    return {key: cells[key] for key in wanted}


def _job(storage: SweepStorage, plan: SweepPlan, key: CellKey, cells: Mapping[CellKey, Cell]) -> dict[str, Any]:
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
        "protocol": plan.protocol,
        "encoder": plan.encoder,
        "weights": str(storage.weights_file),
        "backbone": plan.backbone,
        "cutoff": plan.cutoffs[-1],
        "tuned": key.network.tuned,
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
        DataError: the data set is not the one that the sweep ran on.
    """
    from trainables.data.open import open_dataset
    from trainables.data.responses import require_split
    from trainables.evaluations.subject import load_parts, score_subject

    dataset = open_dataset(data)
    if split_digest:
        require_split(dataset, split_seed, split_digest, protocol)
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
            arrays[_predicted(where)] = scores.predicted[layer][:, columns]
        if keep_measured:
            arrays[_measured(where)] = parts.responses[2][:, columns]
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


OPTIMISTIC = {
    NESTED: "",
    PUBLISHED_A: "",
    PUBLISHED_B: "readout layer and penalties are chosen on the folds that are reported: these r are optimistic",
}
"""What a table of each protocol has to say about itself."""
SHARED = "networks of single subjects were tuned on some of the pictures that other subjects hold out"
"""What a transfer table of a published protocol, which splits by row, has to say."""
