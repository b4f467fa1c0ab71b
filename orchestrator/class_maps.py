"""Grad-CAM for the true class of a few labelled pictures, while their classifier is at hand; published so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.networks import Network
from orchestrator.overlays import GALLERY, overlay, write_overlays
from orchestrator.storage import SweepStorage

if TYPE_CHECKING:
    from trainables.evaluations.classification import ClassificationScores
    from trainables.models.backbone import Backbone


def class_maps_base(storage: SweepStorage, labelled: str, network: str) -> UPath:
    """Place and beginning of the names of a network's maps on a labelled set."""
    return storage.evaluation_dir / "salience" / network.replace(":", "_") / f"class-{labelled}"


def write_class_maps(
    network: Backbone,
    scores: ClassificationScores,
    images: NDArray[np.uint8],
    class_names: Sequence[str],
    base: UPath,
) -> dict[str, Any]:
    """Maps at the deepest layer with places that the classifier's features pass, AlexNet's ``features.12``.

    The pictures are spread over the classes of those that the classifier was not fitted to: the same ones for all
    networks of a set.

    Args:
        network: on the device that is to compute.
        scores: of `trainables.evaluations.classification.classify` on this network and all of ``images``.
        images: RGB, uint8 ``[n, size, size, 3]``.
        class_names: of the set.
        base: see `class_maps_base`.

    Returns:
        ``{"layer", "classes"}``: of the maps, and true class of each picture.
    """
    from trainables.analyses.salience import GRAD_CAM, class_score, salience_maps

    known = np.isfinite(scores.classifier.fit.intercepts.cpu().numpy())[scores.labels]
    candidates = np.flatnonzero(known)
    spread = np.linspace(0, len(candidates) - 1, min(GALLERY, len(candidates))).round().astype(int)
    chosen = candidates[spread]
    labels = np.zeros(len(images), np.int64)
    labels[scores.test_rows] = scores.labels
    rows = scores.test_rows[chosen]
    found = salience_maps(network, class_score(network, labels, scores.classifier), images, rows, kind=GRAD_CAM)
    write_overlays(base, images[rows], found.maps)
    return {"layer": found.layer, "classes": [class_names[label] for label in scores.labels[chosen]]}


def has_class_maps(storage: SweepStorage, labelled: str, network: str, row: Mapping[str, Any]) -> bool:
    """Whether the maps that a row of the classification speaks of are there."""
    base, made = class_maps_base(storage, labelled, network), row.get("class_maps")
    return made is not None and all(overlay(base, index).exists() for index in range(len(made["classes"])))


def class_gallery(
    storage: SweepStorage, sets: Mapping[str, Mapping[str, Any]], networks: Sequence[Network]
) -> list[dict[str, Any]]:
    """For the report: the maps of every network on every labelled set, those that were made."""
    trials = {network.name: network.trial for network in networks}
    entries = []
    for name, table in sets.items():
        for row in table["rows"]:
            network = row["network"]
            if trials.get(network) != row["trial"] or not has_class_maps(storage, name, network, row):
                continue
            base = class_maps_base(storage, name, network)
            files = [overlay(base, index) for index in range(len(row["class_maps"]["classes"]))]
            places = [f"salience/{file.parent.name}/{file.name}" for file in files]
            entries.append({"network": network, "method": row["method"], "set": name, "images": places})
            entries[-1] |= row["class_maps"]
    return entries
