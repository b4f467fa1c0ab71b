"""Where in a picture selected networks look, and whether the hemispheres look at opposite sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from upath import UPath

from orchestrator.cells import Cell, CellKey
from orchestrator.comparisons import finite
from orchestrator.networks import UNTUNED, build_network, places_of
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, reading_arrays, write_arrays, write_json, write_whole
from orchestrator.tasks import TaskRunner

N_STIMULI = 200
"""Test stimuli that maps are made for, at most."""
IDENTITY = ("network", "method")
"""Of a job, for the tables alone."""
GALLERY = 4
"""Pictures with their maps in the report, for each network."""


def salience_of_networks(
    storage: SweepStorage,
    plan: SweepPlan,
    cells: Mapping[CellKey, Cell],
    tasks: TaskRunner,
    head: dict[str, Any],
) -> list[dict[str, Any]]:
    """Maps of every network of a single subject, at its readout layer; a test for every pair of hemispheres.

    The untuned network is read by the encoding models of each of its ROIs. Returns rows for MLflow (none).

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
    done = {}
    todo = [job for job in jobs if not UPath(job["place"]).exists()]
    for _ in (
        tasks.run(make_maps, [{n: v for n, v in job.items() if n not in IDENTITY} for job in todo], "salience maps")
        if todo
        else ()
    ):
        pass
    for job in jobs:
        done[job["network"], job["subject"], job["roi"], job["hemisphere"]] = job
    content = {
        **head,
        "layer": sorted({_layer(UPath(job["place"])) for job in jobs}),
        "gallery": [_gallery_entry(job) for job in jobs],
        "lateralisation": _lateralisation(plan, done),
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
        "protocol": plan.protocol,
        "encoder": plan.encoder,
        "weights": str(storage.weights_file),
        "backbone": plan.backbone,
        "cutoff": plan.cutoffs[-1],
        "tuned": key.network.tuned,
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
    protocol: str,
    encoder: str,
    weights: str,
    backbone: str,
    cutoff: str,
    tuned: str | None,
    place: str,
    device: str,
) -> None:
    """Maps of pictures and mirror images for one network and ROI; the body of a Ray task."""
    from trainables.analyses.lateralisation import mirrored, side_preference
    from trainables.analyses.salience import HIRES_CAM, response_score, salience_maps
    from trainables.data.open import open_dataset
    from trainables.data.responses import load_target, load_test
    from trainables.evaluations.encoding import fit_encoder
    from trainables.target import Target

    dataset = open_dataset(data)
    target = Target(dataset.name, (subject,), hemisphere, roi)
    train = load_target(dataset, target, split_seed, protocol=protocol).train
    test = load_test(dataset, target, split_seed, protocol=protocol)
    model = build_network(weights, backbone, cutoff, tuned)[0].to(device)
    score = response_score(fit_encoder(model, readout_layer, train, encoder=encoder), readout_layer)
    rows = test.rows[:N_STIMULI]
    # Only these pictures: mirroring makes a copy of what it is given.
    pictures, places = np.ascontiguousarray(test.stimuli[rows]), np.arange(len(rows))
    # Which places, not which channels: a voxel's receptive field is in the gradient's places.
    maps = salience_maps(model, score, pictures, places, kind=HIRES_CAM)
    mirror = salience_maps(model, score, mirrored(pictures), places, kind=HIRES_CAM)
    destination = UPath(place)
    for index in range(min(GALLERY, len(rows))):
        _write_overlay(_overlay(destination, index), pictures[index], maps.maps[index])
    preference = side_preference(maps.maps, mirror.maps)
    # Last: it says that all is there.
    write_arrays(destination, preference=preference, ids=test.stimulus_ids[: len(rows)], layer=maps.layer)


def _overlay(maps: UPath, index: int) -> UPath:
    return maps.with_name(f"{maps.stem}-{index}.png")


def _write_overlay(path: UPath, picture: np.ndarray[Any, Any], salience: np.ndarray[Any, Any]) -> None:
    """The picture, dark where the map is low."""
    from io import BytesIO

    from PIL import Image

    share = salience / max(float(salience.max()), 1e-12)
    pixels = picture * (0.25 + 0.75 * share[..., None])
    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())


def _layer(path: UPath) -> str:
    with reading_arrays(path) as archive:
        return str(archive["layer"])


def _gallery_entry(job: dict[str, Any]) -> dict[str, Any]:
    maps = UPath(job["place"])
    overlays = [_overlay(maps, index) for index in range(GALLERY)]
    images = [f"salience/{path.parent.name}/{path.name}" for path in overlays if path.exists()]
    kept = ("network", "method", "subject", "roi", "hemisphere")
    return {name: job[name] for name in kept} | {"images": images}


def _lateralisation(plan: SweepPlan, done: Mapping[tuple[str, str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Right less left hemisphere's networks, paired over stimuli, for each subject, ROI and method.

    Above 0: the right hemisphere weighs the left visual field more, as it should.
    """
    from trainables.analyses.statistics import compare_over

    by_pair: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for job in done.values():
        by_pair.setdefault((job["subject"], job["roi"], job["method"]), {})[job["hemisphere"]] = job
    pairs = {pair: sides for pair, sides in by_pair.items() if len(sides) == 2}
    scores = {"/".join(pair): _both(sides["rh"], sides["lh"]) for pair, sides in pairs.items()}
    scores = {name: both for name, both in scores.items() if len(both[0])}  # maps without any mass say nothing
    if not scores:
        return []
    compared = compare_over(scores, protocol=f"{plan.protocol}; pairs are stimuli")
    lines = []
    for pair in pairs:
        if "/".join(pair) not in compared:
            continue
        subject, roi, method = pair
        found = asdict(compared["/".join(pair)])
        line = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        lines.append(
            {"pair": f"{subject} {roi} {method}: rh - lh", "subject": subject, "roi": roi}
            | {"roi_group": plan.roi_groups[roi], "method": method}
            | {name: finite(value) for name, value in line.items()}
        )
    return lines


def _both(right: dict[str, Any], left: dict[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Preferences on the stimuli of which both networks' maps have mass."""
    ours, theirs = _preference(right), _preference(left)
    usable = np.isfinite(ours) & np.isfinite(theirs)
    return ours[usable], theirs[usable]


def _preference(job: dict[str, Any]) -> np.ndarray[Any, Any]:
    path = UPath(job["place"])
    with reading_arrays(path) as archive:
        return np.asarray(archive["preference"])
