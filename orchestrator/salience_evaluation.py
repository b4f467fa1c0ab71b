"""Where in a picture selected networks look, and whether the hemispheres look at opposite sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from upath import UPath

from orchestrator.cells import Cell, CellKey
from orchestrator.class_maps import class_gallery
from orchestrator.labelled_evaluation import known_sets
from orchestrator.lateralisation_evaluation import N_STIMULI, lateralisation_tables
from orchestrator.networks import UNTUNED, Building, build_network, building_plan, places_of
from orchestrator.overlays import GALLERY, overlay, write_overlays
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, reading_arrays, write_arrays, write_json
from orchestrator.tasks import TaskRunner

IDENTITY = ("network", "method")
"""Of a job, for the tables alone."""


def salience_of_networks(
    storage: SweepStorage,
    plan: SweepPlan,
    cells: Mapping[CellKey, Cell],
    tasks: TaskRunner,
    head: dict[str, Any],
) -> list[dict[str, Any]]:
    """Maps of every network of a single subject, at its readout layer; comparisons of the hemispheres.

    The untuned network is read by the encoding models of each of its ROIs. Maps for classes of labelled pictures are
    those that came with the classification of these networks. Returns rows for MLflow (none).

    Raises:
        CortexSweepError: data or models are missing.
    """
    jobs = []
    for key, cell in cells.items():
        target = key.network.target
        if key.external or (target is not None and target.is_pooled):
            continue
        for hemisphere, roi in key.network.places or places_of(plan, key.subject):
            jobs.append(_job(storage, plan, key, cell, hemisphere, roi))
    todo = [job for job in jobs if not UPath(job["place"]).exists()]
    for _ in (
        tasks.run(make_maps, [{n: v for n, v in job.items() if n not in IDENTITY} for job in todo], "salience maps")
        if todo
        else ()
    ):
        pass
    content = {
        **head,
        "layer": sorted({_layer(UPath(job["place"])) for job in jobs}),
        "gallery": [_gallery_entry(job) for job in jobs],
        "class_gallery": class_gallery(storage, known_sets(storage), [key.network for key in cells]),
        **lateralisation_tables(storage, plan, cells, jobs, tasks),
    }
    write_json(storage.evaluation_file("salience"), content)
    return []


def _job(storage: SweepStorage, plan: SweepPlan, key: CellKey, cell: Cell, hemisphere: str, roi: str) -> dict[str, Any]:
    layer = cell.layer((hemisphere, roi))
    name = key.network.name if key.network.name != UNTUNED else f"{UNTUNED}.{key.subject}-{hemisphere}-{roi}"
    return {
        "network": name,
        "method": key.network.method,
        "subject": key.subject,
        "hemisphere": hemisphere,
        "roi": roi,
        "readout_layer": layer,
        "data": plan.data,
        "split_seed": plan.split_seed,
        "split_digest": plan.split_digest,
        "protocol": plan.protocol,
        "encoder": plan.encoder,
        "building": building_plan(storage, plan, key.network),
        "place": str(storage.evaluation_dir / "salience" / name.replace(":", "_") / _file_name(key, layer)),
    }


def _file_name(key: CellKey, layer: str) -> str:
    return f"maps-{key.network.trial.split('/')[-1] or 0}-{layer}.npz"


def make_maps(
    subject: str,
    hemisphere: str,
    roi: str,
    readout_layer: str,
    data: str,
    split_seed: int,
    split_digest: str,
    protocol: str,
    encoder: str,
    building: Building,
    place: str,
    device: str,
) -> None:
    """Maps of pictures and mirror images for one network and ROI; the body of a Ray task."""
    from trainables.analyses.lateralisation import mirrored, side_preference
    from trainables.analyses.salience import HIRES_CAM, response_score, salience_maps
    from trainables.data.open import open_dataset
    from trainables.data.responses import load_target, load_test, require_split
    from trainables.evaluations.encoding import fit_encoder
    from trainables.target import Target

    dataset = open_dataset(data)
    require_split(dataset, split_seed, split_digest, protocol)
    target = Target(dataset.name, (subject,), hemisphere, roi)
    train = load_target(dataset, target, split_seed, protocol=protocol).train
    test = load_test(dataset, target, split_seed, protocol=protocol)
    model = build_network(building)[0].to(device)
    score = response_score(fit_encoder(model, readout_layer, train, encoder=encoder), readout_layer)
    rows = test.rows[:N_STIMULI]
    # Only these pictures: mirroring makes a copy of what it is given.
    pictures, places = np.ascontiguousarray(test.stimuli[rows]), np.arange(len(rows))
    # Which places, not which channels: a voxel's receptive field is in the gradient's places.
    maps = salience_maps(model, score, pictures, places, kind=HIRES_CAM)
    mirror = salience_maps(model, score, mirrored(pictures), places, kind=HIRES_CAM)
    destination = UPath(place)
    write_overlays(_overlays(destination), pictures[:GALLERY], maps.maps[:GALLERY])
    preference = side_preference(maps.maps, mirror.maps)
    # Last: it says that all is there.
    write_arrays(destination, preference=preference, ids=test.stimulus_ids[: len(rows)], layer=maps.layer)


def _overlays(maps: UPath) -> UPath:
    return maps.with_name(maps.stem)


def _layer(path: UPath) -> str:
    with reading_arrays(path) as archive:
        return str(archive["layer"])


def _gallery_entry(job: dict[str, Any]) -> dict[str, Any]:
    maps = UPath(job["place"])
    overlays = [overlay(_overlays(maps), index) for index in range(GALLERY)]
    images = [f"salience/{path.parent.name}/{path.name}" for path in overlays if path.exists()]
    kept = ("network", "method", "subject", "roi", "hemisphere")
    return {name: job[name] for name in kept} | {"images": images}
