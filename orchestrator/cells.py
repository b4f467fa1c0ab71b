"""Network × subject: the unit of encoding and transfer evaluations, scored once (`orchestrator.cell_scoring`).

A cell's files hold r of every voxel at every readout layer; all tables are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.networks import Network
from orchestrator.storage import SweepStorage, read_json, reading_arrays
from trainables.data.splits import NESTED, PUBLISHED_A, PUBLISHED_B

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
    content: str = ""
    """`subject_digest` of another data set's subject, which may change as it will; empty in the sweep's own data set,
    whose split the plan holds."""

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
        return self._read(predicted_name(place))

    def measured(self, place: Place) -> NDArray[np.float32] | None:
        """Measured test responses ``[n_test, n_voxels]``; kept in the untuned network's cells."""
        return self._read(measured_name(place))

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
    """The cell, or None if it was not scored yet, for another trial, on other data, or for fewer places."""
    place = cell_place(storage, key)
    summary_file = place.with_name(f"{place.name}.json")
    if not summary_file.exists():
        return None
    summary = read_json(summary_file)
    scored = {tuple(entry["place"]) for entry in summary["places"]}
    identity = (CELL_VERSION, key.network.trial, key.data, [[list(place), layer] for place, layer in key.kept])
    found = tuple(summary.get(name) for name in ("version", "trial", "data", "kept"))
    if found != identity or summary.get("content", "") != key.content or not set(key.places) <= scored:
        return None
    arrays_file = place.with_name(f"{place.name}.npz")
    with reading_arrays(arrays_file) as archive:
        held = [name for name in archive if not name.startswith(("predicted|", "measured|"))]
        return Cell(summary, {name: archive[name] for name in held}, arrays_file)


def predicted_name(place: Place) -> str:
    """Name of the array of predicted responses."""
    return f"predicted|{place[0]}|{place[1]}"


def measured_name(place: Place) -> str:
    """Name of the array of measured responses."""
    return f"measured|{place[0]}|{place[1]}"


OPTIMISTIC = {
    NESTED: "",
    PUBLISHED_A: "",
    PUBLISHED_B: "readout layer and penalties are chosen on the folds that are reported: these r are optimistic",
}
"""What a table of each protocol has to say about itself."""
SHARED = "networks of single subjects were tuned on some of the pictures that other subjects hold out"
"""What a transfer table of a published protocol, which splits by row, has to say."""
