"""The transfer matrix: networks on subjects that they were not tuned for, in this data set and in another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.cells import Cell, CellKey
from orchestrator.networks import UNTUNED, Network, places_of, subjects_of
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, read_json
from trainables.errors import DataError


def transfer_keys(plan: SweepPlan, networks: Sequence[Network]) -> list[CellKey]:
    """Cells of every tuned network on the sweep's other subjects that have its ROI."""
    keys = []
    for network in networks:
        for subject in subjects_of(plan):
            own = network.target is None or subject in network.target.subjects
            places = tuple(place for place in network.places if place in places_of(plan, subject))
            if places and not own:
                keys.append(CellKey(network, plan.data, plan.dataset, subject, external=False, places=places))
    return keys


COUNTERPARTS = {"V1v": "V1", "V1d": "V1", "V2v": "V2", "V2d": "V2", "V3v": "V3", "V3d": "V3", "hV4": "V4"}
"""ROIs of the Natural Scenes Dataset, and those of the Natural Object Dataset that hold the same area."""


def counterpart(place: tuple[str, str], sizes: Mapping[str, int]) -> tuple[str, str] | None:
    """Where another data set has the ROI: under its own name or that of its area; None if it has neither.

    Args:
        place: hemisphere and ROI that a network was tuned for.
        sizes: voxels of the other subject's ROIs in that hemisphere.
    """
    for roi in (place[1], COUNTERPARTS.get(place[1], "")):
        if sizes.get(roi, 0):
            return place[0], roi
    return None


def former_external_rows(
    storage: SweepStorage, networks: Sequence[Network], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of other data sets that an earlier evaluation of the same trials left and this one does not ask for."""
    file = storage.evaluation_file("transfer")
    former = read_json(file)["rows"] if file.exists() else []
    trials = {network.name: network.trial for network in networks}
    new = {row["dataset"] for row in rows if row["external"]}  # of every network that it has an ROI for
    return [
        row
        for row in former
        if row["external"] and trials.get(row["network"]) == row["trial"] and row["dataset"] not in new
    ]


def external_keys(networks: Sequence[Network], root: str | None) -> list[CellKey]:
    """Cells of every network, the untuned one too, on the subjects of another data set, in the ROIs that correspond.

    Raises:
        DataError: no ROI of the sweep is in that data set.
    """
    if root is None:
        return []
    from trainables.data.open import open_dataset
    from trainables.data.responses import subject_digest

    dataset = open_dataset(root)
    tuned_for = {place for network in networks for place in network.places}
    keys = []
    for name, subject in dataset.subjects.items():
        sizes = {hemisphere: subject.roi_sizes(hemisphere) for hemisphere in {place[0] for place in tuned_for}}
        twins = {
            place: twin for place in sorted(tuned_for) if (twin := counterpart(place, sizes[place[0]])) is not None
        }
        content = subject_digest(subject) if twins else ""
        for network in networks:
            asked = twins if network.target is None else network.places
            places = tuple(dict.fromkeys(twins[place] for place in asked if place in twins))
            if places:
                keys.append(CellKey(network, str(dataset.root), dataset.name, name, True, places, content=content))
    if not keys:
        raise DataError(
            f"data set {dataset.name} has none of the ROIs {', '.join(sorted({roi for _, roi in tuned_for}))}; "
            f"it has {', '.join(dataset.rois)}"
        )
    return keys


def transfer_rows(plan: SweepPlan, cells: Mapping[CellKey, Cell]) -> list[dict[str, Any]]:
    """The matrix as rows: both metrics of every tuned network on every subject, its own included.

    Network and untuned network are each read at the layer that the protocol chooses for the subject that is scored.
    """
    from trainables.evaluations.transfer import compare_transfer

    untuned = {(k.external, k.data, k.subject): cell for k, cell in cells.items() if k.network.name == UNTUNED}
    rows = []
    for key, cell in cells.items():
        target = key.network.target
        if target is None:
            continue
        place = key.places[0] if key.external else (target.hemisphere, target.roi)
        reference = untuned[key.external, key.data, key.subject]
        layer = cell.layer(place)
        r, untuned_r = cell.r("test", layer, place), reference.r("test", reference.layer(place), place)
        assert r is not None
        assert untuned_r is not None  # the protocol's layers have scores
        rows.append(
            {
                "network": key.network.name,
                "trial": key.network.trial,
                "method": key.network.method,
                "source": "+".join(target.subjects),
                "subject": key.subject,
                "dataset": key.dataset,
                "external": key.external,
                "hemisphere": target.hemisphere,
                "roi": target.roi,
                "roi_group": plan.roi_groups[target.roi],
                "scored_roi": place[1],
                "readout_layer": layer,
                "left_out": target.is_pooled and not key.own,
                **asdict(compare_transfer(r, untuned_r)),
            }
        )
    return rows
