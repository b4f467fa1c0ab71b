"""Classification kept after tuning, and the landscape of models that its probabilities span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.comparisons import finite
from orchestrator.networks import Network, build_network
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, read_json, storage_errors, write_json
from orchestrator.tasks import TaskRunner
from trainables.errors import StorageError

AXES_KEPT = 10
ORACLE = "true labels"


def classify_networks(
    storage: SweepStorage,
    plan: SweepPlan,
    networks: Sequence[Network],
    labelled: Sequence[str],
    tasks: TaskRunner,
    head: dict[str, Any],
) -> list[dict[str, Any]]:
    """Score every network on every labelled set, those that are not scored yet; rows for MLflow.

    Raises:
        CortexSweepError: images or models are missing.
    """
    from trainables.data.files import default_cache_dir
    from trainables.data.labelled import decode_labelled, open_labelled

    sets, logged = _known_sets(storage), []
    for root in labelled:
        images = open_labelled(root)
        if not tasks.address:
            decode_labelled(images, default_cache_dir())
        known = {row["network"]: row for row in sets.get(images.name, {}).get("rows", [])}
        todo = [n for n in networks if (known.get(n.name) or {}).get("trial") != n.trial]
        jobs = [
            {
                "root": root,
                "weights": str(storage.weights_file),
                "backbone": plan.backbone,
                "cutoff": plan.cutoffs[-1],
                "tuned": network.tuned,
                "place": str(_probabilities_file(storage, images.name, network.name)),
            }
            for network in todo
        ]
        for index, found in tasks.run(classify_network, jobs, f"classification of {images.name}") if jobs else ():
            network = todo[index]
            known[network.name] = _identity(plan, network) | found
        rows = [known[network.name] for network in networks]
        shared = {name: rows[0][name] for name in ("n_classes", "chance", "n_train", "n_test")}
        sets[images.name] = {**shared, "rows": rows}
        logged += [row | {"set": images.name} for row in rows if row["trial"]]
        write_json(storage.evaluation_file("classification"), {**head, "sets": sets})
    return logged


def _known_sets(storage: SweepStorage) -> dict[str, Any]:
    file = storage.evaluation_file("classification")
    return dict(read_json(file)["sets"]) if file.exists() else {}


def _identity(plan: SweepPlan, network: Network) -> dict[str, Any]:
    target = network.target
    return {
        "network": network.name,
        "trial": network.trial,
        "method": network.method,
        "target": target.name if target else None,
        "roi_group": plan.roi_groups[target.roi] if target else None,
    }


def _probabilities_file(storage: SweepStorage, labelled: str, network: str) -> UPath:
    return storage.evaluation_dir / "classification" / labelled / f"{network}.npz"


def classify_network(
    root: str, weights: str, backbone: str, cutoff: str, tuned: str | None, place: str, device: str
) -> dict[str, Any]:
    """Classify with one network's features and keep the class probabilities; the body of a Ray task."""
    from trainables.data.files import default_cache_dir
    from trainables.data.labelled import decode_labelled, open_labelled
    from trainables.evaluations.classification import classify

    images = open_labelled(root)
    network, _ = build_network(weights, backbone, cutoff, tuned)
    scores = classify(
        network.to(device),
        decode_labelled(images, default_cache_dir()),
        images.labels,
        n_classes=len(images.class_names),
        layer=network.spec.penultimate_layer,
    )
    destination = UPath(place)
    with storage_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with destination.open("wb") as file:
            np.savez(file, probabilities=scores.probabilities, labels=scores.labels)
    names = ("layer", "accuracy", "chance", "n_train", "n_test", "n_classes", "converged")
    return {name: getattr(scores, name) for name in names}


def landscapes(storage: SweepStorage, networks: Sequence[Network], head: dict[str, Any]) -> None:
    """InPCA of all classified networks, the true labels among them, for every labelled set.

    Raises:
        StorageError: no network was classified yet.
    """
    sets = _known_sets(storage)
    if not sets:
        raise StorageError("nothing is classified yet; evaluate classification first")
    found = {}
    for name, table in sets.items():
        rows = {row["network"]: row for row in table["rows"]}
        present = [network.name for network in networks if network.name in rows]
        found[name] = {
            "names": [*present, ORACLE],
            "methods": [*(rows[network]["method"] for network in present), ORACLE],
            "roi_groups": [*(rows[network]["roi_group"] for network in present), None],
            "accuracies": [*(rows[network]["accuracy"] for network in present), 1.0],
            **_coordinates([_probabilities_file(storage, name, network) for network in present]),
        }
    write_json(storage.evaluation_file("landscape"), {**head, "sets": found})


def _coordinates(files: Sequence[UPath]) -> dict[str, Any]:
    from trainables.analyses.landscape import bhattacharyya_distances, inpca, oracle_probabilities

    archives = [_read(file) for file in files]
    probabilities = [archive[0] for archive in archives]
    oracle = oracle_probabilities(archives[0][1], probabilities[0].shape[1])
    points = [*probabilities, oracle]
    found = inpca(bhattacharyya_distances(points), n_axes=min(AXES_KEPT, len(points)))
    return {
        "coordinates": found.coordinates.tolist(),
        "imaginary": found.imaginary.tolist(),
        "explained_stress": finite(found.explained_stress.tolist()),
    }


def _read(path: UPath) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with storage_errors(path, "read"), path.open("rb") as file, np.load(file) as archive:
        return archive["probabilities"], archive["labels"]
