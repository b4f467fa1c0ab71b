"""Whether the hemispheres' models weigh opposite sides, asked over stimuli, over voxels and over subjects.

What each of the three can say is told in `trainables.analyses.lateralisation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.cells import Cell, CellKey
from orchestrator.comparisons import finite
from orchestrator.networks import Building, build_network, building_plan, places_of
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, read_json, reading_arrays, write_json
from orchestrator.tasks import TaskRunner

N_STIMULI = 200
"""Test stimuli that maps are made for, at most."""
Row = dict[str, Any]
Sides = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Preferences of the right and of the left hemisphere's model, of the same stimuli or subjects."""
Group = tuple[str | None, str, str]
"""Subject, if it is of one, ROI and method."""


def lateralisation_tables(
    storage: SweepStorage,
    plan: SweepPlan,
    cells: Mapping[CellKey, Cell],
    maps: Sequence[Row],
    tasks: TaskRunner,
) -> dict[str, list[Row]]:
    """Right less left, above 0 where the right hemisphere weighs the left visual field more, as it should.

    Args:
        storage: of the sweep.
        plan: its plan.
        cells: scored networks of single subjects.
        maps: jobs of `orchestrator.salience_evaluation` whose maps are made, one for each network, subject and ROI.
        tasks: for the exchange of voxels, where it is not computed yet.

    Returns:
        Rows by table: ``lateralisation`` (over stimuli), ``lateralisation_voxels``, ``lateralisation_subjects``.

    Raises:
        CortexSweepError: data or models are missing.
    """
    pairs = _pairs(maps)
    return {
        "lateralisation": _compared(plan, pairs, "stimuli"),
        "lateralisation_voxels": _over_voxels(storage, plan, cells, tasks),
        "lateralisation_subjects": _over_subjects(plan, pairs),
    }


def _pairs(maps: Sequence[Row]) -> dict[Group, Sides]:
    """Both hemispheres' preferences by subject, ROI and method; none where a stimulus has no mass in some map."""
    by_pair: dict[Group, dict[str, Row]] = {}
    for job in maps:
        by_pair.setdefault((job["subject"], job["roi"], job["method"]), {})[job["hemisphere"]] = job
    found: dict[Group, Sides] = {}
    for pair, sides in by_pair.items():
        if len(sides) == 2:
            right, left = _preference(sides["rh"]), _preference(sides["lh"])
            usable = np.isfinite(right) & np.isfinite(left)
            if usable.any():  # maps without any mass say nothing
                found[pair] = right[usable], left[usable]
    return found


def _preference(job: Row) -> NDArray[np.float64]:
    with reading_arrays(UPath(job["place"])) as archive:
        return np.asarray(archive["preference"])


def _over_subjects(plan: SweepPlan, pairs: Mapping[Group, Sides]) -> list[Row]:
    """One right and one left mean preference a subject, for each ROI and method that two subjects have."""
    means: dict[Group, list[tuple[float, float]]] = {}
    for (_, roi, method), (right, left) in pairs.items():
        means.setdefault((None, roi, method), []).append((float(right.mean()), float(left.mean())))
    several = {group: np.array(both).T for group, both in means.items() if len(both) >= 2}
    return _compared(plan, {group: (right, left) for group, (right, left) in several.items()}, "subjects")


def _compared(plan: SweepPlan, groups: Mapping[Group, Sides], unit: str) -> list[Row]:
    """A row for each group, its p corrected over all of them."""
    from trainables.analyses.statistics import compare_over

    if not groups:
        return []
    labels = {group: " ".join(filter(None, group)) for group in groups}
    scores = {labels[group]: sides for group, sides in groups.items()}
    compared = compare_over(scores, protocol=f"{plan.protocol}; pairs are {unit}")
    rows = []
    for (subject, roi, method), label in labels.items():
        found = asdict(compared[label])
        plain = {field: list(value) if isinstance(value, tuple) else value for field, value in found.items()}
        rows.append(
            {"pair": f"{label}: rh - lh", "subject": subject, "roi": roi}
            | {"roi_group": plan.roi_groups[roi], "method": method}
            | {field: finite(value) for field, value in plain.items()}
        )
    return rows


def _over_voxels(storage: SweepStorage, plan: SweepPlan, cells: Mapping[CellKey, Cell], tasks: TaskRunner) -> list[Row]:
    """Exchange of voxels for every network that both hemispheres' encoding models can read.

    These are the untuned network, and each tuned one at its own ROI in both hemispheres.
    """
    from trainables.analyses.statistics import BENJAMINI_HOCHBERG, benjamini_hochberg

    jobs = [
        (key, roi, _exchange_job(storage, plan, key, cell, roi))
        for key, cell in cells.items()
        if not key.external and not (key.network.target and key.network.target.is_pooled)
        for roi in _rois_of_both(plan, key)
    ]
    todo = [job for _, _, job in jobs if not UPath(job["place"]).exists()]
    for _ in tasks.run(exchange_voxels, todo, "exchange of voxels") if todo else ():
        pass
    found = [read_json(UPath(job["place"])) for _, _, job in jobs]
    corrected = benjamini_hochberg([np.nan if one["p"] is None else one["p"] for one in found])
    return [
        {"network": key.network.name, "method": key.network.method, "subject": key.subject, "roi": roi}
        | {"roi_group": plan.roi_groups[roi], **one, "p_corrected": finite(float(p))}
        | {"correction": f"{BENJAMINI_HOCHBERG} over {len(found)} comparisons"}
        | {"protocol": f"{plan.protocol}; {one['basis']}"}
        for (key, roi, _), one, p in zip(jobs, found, corrected, strict=True)
    ]


def _rois_of_both(plan: SweepPlan, key: CellKey) -> list[str]:
    """ROIs that the sweep tunes for in both hemispheres of the subject, of a tuned network its own alone."""
    places = places_of(plan, key.subject)
    asked = key.network.places or places
    return list(dict.fromkeys(roi for _, roi in asked if {("lh", roi), ("rh", roi)} <= set(places)))


def _exchange_job(storage: SweepStorage, plan: SweepPlan, key: CellKey, cell: Cell, roi: str) -> Row:
    layers = [cell.layer((hemisphere, roi)) for hemisphere in ("lh", "rh")]
    trial = key.network.trial.split("/")[-1] or 0
    file = f"exchange-{roi.replace(':', '_')}-{trial}-{'-'.join(layers)}.json"
    folder = key.network.name if key.network.target else f"{key.network.name}.{key.subject}"
    return {
        "subject": key.subject,
        "roi": roi,
        "readout_layers": layers,
        "data": plan.data,
        "split_seed": plan.split_seed,
        "split_digest": plan.split_digest,
        "protocol": plan.protocol,
        "building": building_plan(storage, plan, key.network),
        "place": str(storage.evaluation_dir / "salience" / folder / file),
    }


def exchange_voxels(
    subject: str,
    roi: str,
    readout_layers: list[str],
    data: str,
    split_seed: int,
    split_digest: str,
    protocol: str,
    building: Building,
    place: str,
    device: str,
) -> None:
    """Exchange voxels between the hemispheres' encoding models of one network; the body of a Ray task.

    Both are fitted at one layer: the shallower of both readout layers, or the deepest before it that has places. They
    are ridge whatever the sweep's encoding model is: PLS finds directions for all voxels of a hemisphere together, and
    its voxels cannot be exchanged.
    """
    from trainables.analyses.lateralisation import encoder_lateralisation
    from trainables.analyses.salience import salience_layer
    from trainables.data.open import open_dataset
    from trainables.data.responses import load_target, load_test, require_split
    from trainables.encoding.encoder import RidgeEncoder
    from trainables.encoding.features import extract_features
    from trainables.target import Target

    dataset = open_dataset(data)
    require_split(dataset, split_seed, split_digest, protocol)
    targets = [Target(dataset.name, (subject,), hemisphere, roi) for hemisphere in ("lh", "rh")]
    left, right = (load_target(dataset, target, split_seed, protocol=protocol).train for target in targets)
    test = load_test(dataset, targets[0], split_seed, protocol=protocol)
    model = build_network(building)[0].to(device)
    layer = salience_layer(model, min(readout_layers, key=model.readout_layers.index))
    features = extract_features(model, left.stimuli, left.rows, [layer])[layer]
    fitted = [RidgeEncoder().fit(features, part.responses) for part in (left, right)]
    result: Row = {"layer": layer, "n": sum(encoder.coef_.shape[1] for encoder in fitted)}
    try:
        found = encoder_lateralisation(model, layer, fitted[0], fitted[1], test.stimuli, test.rows[:N_STIMULI])
        result |= {"mean_difference": found.difference, "p": found.p_exchange, "spread": found.exchanged_spread}
        result |= {"left_model": found.left_model, "right_model": found.right_model}
        result["basis"] = f"{found.n_exchanges} exchanges of voxels, {found.n_stimuli} stimuli"
    except ValueError as error:
        result |= dict.fromkeys(("mean_difference", "p", "spread", "left_model", "right_model")) | {"basis": str(error)}
    write_json(UPath(place), result)
