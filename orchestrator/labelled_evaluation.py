"""Classification kept after tuning, and the landscape of models that its probabilities span."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.class_maps import class_maps_base, has_class_maps, write_class_maps
from orchestrator.comparisons import finite
from orchestrator.networks import Building, Network, build_network, building_plan
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage, read_json, resolved, storage_errors, write_json, write_whole
from orchestrator.tasks import TaskRunner
from trainables.errors import ConfigError, DataError, StorageError
from trainables.remote import is_local, read_whole

if TYPE_CHECKING:
    from trainables.data.labelled import LabelledImages

AXES_KEPT = 10
ORACLE = "true labels"


def classify_networks(
    storage: SweepStorage,
    plan: SweepPlan,
    networks: Sequence[Network],
    labelled: Sequence[str],
    tasks: TaskRunner,
    head: dict[str, Any],
    *,
    maps: bool = False,
) -> list[dict[str, Any]]:
    """Score every network on every labelled set, those that are not scored yet; rows for MLflow.

    Scoring leaves salience maps, too; with ``maps`` a network that was scored without them is scored again.

    Raises:
        CortexSweepError: images or models are missing.
    """
    from trainables.data.files import default_cache_dir
    from trainables.data.labelled import decode_labelled, open_labelled

    sets, logged = _current_sets(storage, networks), []
    for root in labelled:
        images = open_labelled(root)
        place = str(resolved(root, "--labelled"))
        _require_own_name(sets, images.name, place)
        if not tasks.address:
            decode_labelled(images, default_cache_dir())
        digest = _digest(images)
        former = sets.get(images.name, {})
        known = {row["network"]: row for row in former.get("rows", [])} if former.get("digest") == digest else {}
        todo = [
            network
            for network in networks
            if (row := known.get(network.name, {})).get("trial") != network.trial
            or (maps and not has_class_maps(storage, images.name, network.name, row))
        ]
        jobs = [_job(storage, plan, images.name, place, network) for network in todo]
        for index, found in tasks.run(classify_network, jobs, f"classification of {images.name}") if jobs else ():
            known[todo[index].name] = _identity(plan, todo[index]) | found
            rows = [known[network.name] for network in networks if network.name in known]
            shared = {name: rows[0][name] for name in ("n_classes", "chance", "n_train", "n_test")}
            sets[images.name] = {**shared, "root": place, "digest": digest, "rows": rows}
            # After each network: an interrupted evaluation goes on where it stopped.
            write_json(storage.evaluation_file("classification"), {**head, "sets": _marked(sets, networks)})
        logged += [row | {"set": images.name} for row in sets[images.name]["rows"] if row["trial"]]
    write_json(storage.evaluation_file("classification"), {**head, "sets": _marked(sets, networks)})
    return logged


def _job(storage: SweepStorage, plan: SweepPlan, name: str, root: str, network: Network) -> dict[str, Any]:
    return {
        "root": root,
        "building": building_plan(storage, plan, network),
        "place": str(_probabilities_file(storage, name, network.name)),
        "maps": str(class_maps_base(storage, name, network.name)),
    }


def _require_own_name(sets: dict[str, Any], name: str, root: str) -> None:
    if name in sets and sets[name]["root"] != root:
        raise ConfigError(
            f"--labelled {root} is called {name!r} like {sets[name]['root']}; rename one of the two folders"
        )


def _digest(images: LabelledImages) -> str:
    listed = [(path.name, int(label)) for path, label in zip(images.paths, images.labels, strict=True)]
    return hashlib.sha256(json.dumps([listed, images.class_names]).encode()).hexdigest()[:16]


def known_sets(storage: SweepStorage) -> dict[str, Any]:
    """What was classified so far, by name of the labelled set."""
    file = storage.evaluation_file("classification")
    return dict(read_json(file)["sets"]) if file.exists() else {}


def _current_sets(storage: SweepStorage, networks: Sequence[Network]) -> dict[str, Any]:
    """What is known, without rows of networks or trials that are not selected any more."""
    trials = {network.name: network.trial for network in networks}
    return {
        name: {**table, "rows": [row for row in table["rows"] if trials.get(row["network"]) == row["trial"]]}
        for name, table in known_sets(storage).items()
    }


def _marked(sets: dict[str, Any], networks: Sequence[Network]) -> dict[str, Any]:
    """Say of each set whether it has every selected network: one that was not asked for after a new selection keeps
    rows that spare work, and is not shown until it is whole again.
    """
    names = {network.name for network in networks}
    return {
        name: {**table, "complete": {row["network"] for row in table["rows"]} == names} for name, table in sets.items()
    }


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
    return storage.evaluation_dir / "classification" / labelled / f"{network}.npy"


def classify_network(root: str, building: Building, place: str, maps: str, device: str) -> dict[str, Any]:
    """Classify with one network's features and keep the class probabilities and a few maps; the body of a Ray task."""
    from trainables.data.files import default_cache_dir
    from trainables.data.labelled import decode_labelled, open_labelled
    from trainables.evaluations.classification import classify

    images = open_labelled(root)
    pictures = decode_labelled(images, default_cache_dir())
    network = build_network(building)[0].to(device)
    try:
        scores = classify(
            network,
            pictures,
            images.labels,
            n_classes=len(images.class_names),
            layer=network.spec.penultimate_layer,
        )
    except ValueError as error:
        raise DataError(f"{root} cannot be classified: {error}") from error
    destination = UPath(place)
    for path, array in ((destination, scores.probabilities), (labels_file(destination), scores.labels)):
        buffer = BytesIO()
        np.save(buffer, array)
        write_whole(path, buffer.getvalue())
    names = ("layer", "accuracy", "chance", "n_train", "n_test", "n_classes", "converged")
    found = {name: getattr(scores, name) for name in names}
    return found | {"class_maps": write_class_maps(network, scores, pictures, images.class_names, UPath(maps))}


def landscapes(storage: SweepStorage, networks: Sequence[Network], head: dict[str, Any]) -> None:
    """InPCA of all classified networks, the true labels among them, for every labelled set.

    Raises:
        StorageError: no network was classified yet.
    """
    sets = {name: table for name, table in known_sets(storage).items() if table.get("complete")}
    if not sets:
        raise StorageError("no labelled set has all selected networks; evaluate classification with --labelled first")
    found = {}
    for name, table in sets.items():
        rows = {row["network"]: row for row in table["rows"]}
        # A row of a former trial is not of this network.
        present = [n.name for n in networks if n.name in rows and rows[n.name]["trial"] == n.trial]
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

    probabilities = [_read(file) for file in files]
    oracle = oracle_probabilities(_read(labels_file(files[0])), probabilities[0].shape[1])
    points = [*probabilities, oracle]
    try:
        found = inpca(bhattacharyya_distances(points), n_axes=min(AXES_KEPT, len(points)))
    except ValueError as error:
        raise DataError(f"there is no landscape of these networks: {error}") from error
    return {
        "coordinates": found.coordinates.tolist(),
        "imaginary": found.imaginary.tolist(),
        "explained_stress": finite(found.explained_stress.tolist()),
    }


def labels_file(probabilities: UPath) -> UPath:
    """True classes of the images that the probabilities are of."""
    return probabilities.with_name(f"{probabilities.stem}.labels.npy")


def _read(path: UPath) -> NDArray[Any]:
    """Memory-mapped where it lies on a disk: hundreds of networks do not fit into memory at once."""
    try:
        with storage_errors(path, "read"):
            if is_local(path):
                mapped: NDArray[Any] = np.load(path.path, mmap_mode="r", allow_pickle=False)
                return mapped
            return np.asarray(np.load(BytesIO(read_whole(path)), allow_pickle=False))
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and evaluate classification again") from error
