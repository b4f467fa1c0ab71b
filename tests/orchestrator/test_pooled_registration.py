"""A network of all subjects becomes a registered model of each of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from upath import UPath

from orchestrator.ledger import Ledger
from orchestrator.opening import write_plan
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.selection import choose, registrations, select
from orchestrator.storage import SweepStorage, read_json
from orchestrator.tracking.client import connect
from orchestrator.tracking.projection import Projection
from tests.orchestrator.inline import InlineTasks
from tests.orchestrator.plans import open_ledger, small_plan, worker_details
from trainables.data.algonauts import open_algonauts
from trainables.data.responses import load_target, split_digest
from trainables.encoding.encoder import RidgeEncoder
from trainables.encoding.features import extract_features
from trainables.models.backbone import build_backbone
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import load_weights
from trainables.predictor import ResponsePredictor
from trainables.target import Target

LAYER = "features.2"
PLACE = ("rh", "V1v")


def _pool(*subjects: int) -> Target:
    return Target("demo", tuple(f"subj0{number}" for number in subjects), *PLACE)


def _win(ledger: Ledger, target: Target, weights: str | None = None) -> None:
    """A complete trial, better for each further subject."""
    trial = ledger.ask(StudyKey(target, "pooled-avg"))
    by_subject = {subject: 0.1 * (place + 1) for place, subject in enumerate(target.subjects)}
    mean = float(np.mean(list(by_subject.values())))
    ledger.report(trial, 1, mean)
    details = worker_details(1, {LAYER: mean}, trial.config.epochs)
    ledger.finish(trial, "complete", mean, details | {"r_by_subject": by_subject, "weights": weights})


def test_only_a_network_of_all_subjects_has_models_one_for_each(tmp_path: Path) -> None:
    pools = (_pool(1, 2, 3), _pool(2, 3), _pool(1, 3), _pool(1, 2))
    singles = tuple(_pool(number) for number in (1, 2, 3))
    plan = small_plan(tmp_path, targets=(*singles, *pools), methods=("pooled-avg",), trials=1)
    ledger = open_ledger(plan)
    for target in pools:
        _win(ledger, target)
    chosen = choose(ledger)
    assert len(chosen) == 4, "all are evaluated"
    found = {model.selected.key.target.name: model for model in registrations(ledger, chosen)}
    assert set(found) == {"subj01/rh/V1v", "subj02/rh/V1v", "subj03/rh/V1v"}
    for number, (name, model) in enumerate(found.items(), start=1):
        assert model.selected.trial == "subj01+subj02+subj03/rh/V1v/pooled-avg/00000"
        assert model.selected.val_r == pytest.approx(0.1 * number), name
        assert model.artifact == f"model-subj0{number}"
        assert not model.selected.champion


def _swept(folder: Path, demo_root: Path) -> tuple[SweepStorage, SweepPlan, TunedModel]:
    """A finished sweep with one pooled trial, whose network is random weights of another seed."""
    storage = SweepStorage(str(folder), "small")
    storage.create()
    targets = (_pool(1), _pool(2), _pool(1, 2))
    digest = split_digest(open_algonauts(demo_root))
    changes = {"data": str(demo_root), "targets": targets, "methods": ("pooled-avg",), "split_digest": digest}
    plan = small_plan(folder, **changes, trials=1, ledger=str(storage.journal_file), roi_groups={"V1v": "early"})
    write_plan(storage, plan)
    state = build_backbone("alexnet", load_weights("random", "alexnet", 1).state, LAYER).state_dict()
    model = TunedModel("alexnet", LAYER, "pooled-avg", LAYER, state)
    place = storage.trial_dir(targets[-1], "pooled-avg", 0)
    model.save(place)
    ledger = open_ledger(plan)
    _win(ledger, targets[-1], str(place))
    Projection(ledger, storage.artifacts_uri).sync(ended=True)
    return storage, plan, model


def test_each_model_predicts_its_own_subject(demo_root: Path, tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    storage, plan, model = _swept(tmp_path, demo_root)
    select("small", str(tmp_path), InlineTasks())
    assert [entry["trial"] for entry in read_json(storage.selection_file)] == [
        "subj01+subj02/rh/V1v/pooled-avg/00000"
    ], "one network is evaluated"
    client = connect(plan.tracking_uri)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    shapes = set()
    for number in (1, 2):
        name = f"demo.subj0{number}-rh-V1v"
        version = client.get_model_version_by_alias(name, "pooled-avg")
        assert set(client.get_registered_model(name).aliases) == {"pooled-avg"}
        assert version.tags["val_r"] == f"{0.1 * number:.6f}"
        assert version.tags["subject"] == f"subj0{number}"
        (encoder,) = Path(urlparse(str(version.source)).path).rglob("encoder.json")
        predicted = ResponsePredictor.load(UPath(encoder.parents[1]), "cpu").predict(pictures)
        train = load_target(open_algonauts(demo_root), _pool(number)).train
        network = model.build()
        fitted = RidgeEncoder().fit(
            extract_features(network, train.stimuli, train.rows, [LAYER])[LAYER], train.responses
        )
        expected = fitted.predict(extract_features(network, pictures, np.arange(3), [LAYER])[LAYER])
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)
        shapes.add(predicted.shape)
    assert len(shapes) == 2, "the subjects' areas have different numbers of voxels, so no model is the other's"
    before = client.search_model_versions("name LIKE 'demo.%'")
    select("small", str(tmp_path), InlineTasks())
    assert len(client.search_model_versions("name LIKE 'demo.%'")) == len(before) == 2, "once each"
