"""The transfer matrix: networks on subjects that they were not tuned for, in this data set and in another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.cells import Cell, CellKey
from orchestrator.networks import UNTUNED, Network, places_of, subjects_of
from orchestrator.plan import SweepPlan
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


def external_keys(networks: Sequence[Network], root: str | None) -> list[CellKey]:
    """Cells of every network, the untuned one too, on the subjects of another data set that has ROIs of the same names.

    Raises:
        DataError: no ROI of the sweep is in that data set.
    """
    if root is None:
        return []
    from trainables.data.open import open_dataset

    dataset = open_dataset(root)
    tuned_for = {place for network in networks for place in network.places}
    keys = []
    for name, subject in dataset.subjects.items():
        sizes = {hemisphere: subject.roi_sizes(hemisphere) for hemisphere in {place[0] for place in tuned_for}}
        has = [place for place in sorted(tuned_for) if sizes[place[0]].get(place[1], 0)]
        for network in networks:
            places = tuple(has if network.target is None else [place for place in network.places if place in has])
            if places:
                keys.append(CellKey(network, str(dataset.root), dataset.name, name, external=True, places=places))
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

    untuned = {(key.dataset, key.subject): cell for key, cell in cells.items() if key.network.name == UNTUNED}
    rows = []
    for key, cell in cells.items():
        target = key.network.target
        if target is None:
            continue
        place = target.hemisphere, target.roi
        reference = untuned[key.dataset, key.subject]
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
                "readout_layer": layer,
                "left_out": target.is_pooled and not key.own,
                **asdict(compare_transfer(r, untuned_r)),
            }
        )
    return rows
