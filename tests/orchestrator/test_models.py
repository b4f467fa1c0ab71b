"""Selected models as scikit-learn objects, from a sweep's folder and from the registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_regressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from orchestrator.models import load_champion, load_model
from orchestrator.selected import Selected, find_model, read_selection
from orchestrator.storage import SweepStorage, write_json
from orchestrator.tracking.client import connect
from tests.orchestrator.selected import LAYERS, TARGETS
from trainables.data.algonauts import AlgonautsDataset
from trainables.errors import ConfigError, CortexSweepError, DataError, StorageError
from trainables.models.backbone import BACKBONES
from trainables.predictor import ResponsePredictor
from trainables.target import Target

NAME = TARGETS[0].name
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (6, 90, 120, 3), dtype=np.uint8)


def reference(saved: SweepStorage, method: str) -> ResponsePredictor:
    return ResponsePredictor.load(saved.model_dir(TARGETS[0], method), "cpu")


@pytest.mark.parametrize("method", ["untuned", "contrastive"])
def test_predicts_as_the_saved_model_does(saved: SweepStorage, pictures: np.ndarray, method: str) -> None:
    model = load_model(NAME, method, sweep="small", storage=str(saved.base))
    predicted = model.predict(pictures)
    assert predicted.dtype == np.float32
    assert predicted.shape == (6, model.n_voxels)
    np.testing.assert_array_equal(predicted, reference(saved, method).predict(pictures))


def test_the_champion_is_the_selection_s(saved: SweepStorage, pictures: np.ndarray) -> None:
    (winner,) = [selected for selected in read_selection(saved) if selected.champion]
    model = load_champion(NAME, sweep="small", storage=str(saved.base))
    assert (model.target, model.method, model.validation_r) == (NAME, winner.method, winner.val_r)
    np.testing.assert_array_equal(model.predict(pictures), reference(saved, winner.method).predict(pictures))


def test_the_registry_has_the_same_models(saved: SweepStorage, pictures: np.ndarray) -> None:
    """Without a sweep, that of the storage is asked."""
    champion = load_champion(NAME, storage=str(saved.base))
    assert champion.provenance == load_champion(NAME, sweep="small", storage=str(saved.base)).provenance
    uri = saved.default_tracking_uri
    tuned = load_model(NAME, "contrastive", tracking_uri=uri, dataset="demo", storage="elsewhere")
    np.testing.assert_array_equal(tuned.predict(pictures), reference(saved, "contrastive").predict(pictures))


def test_attributes_are_those_of_the_trial(saved: SweepStorage) -> None:
    tuned = load_model(NAME, "contrastive", sweep="small", storage=str(saved.base))
    (winner,) = [selected for selected in read_selection(saved) if selected.method == "contrastive"]
    config = tuned.provenance["config"]
    assert tuned.provenance["trial"] == winner.trial
    assert (tuned.readout_layer, tuned.validation_r) == (winner.readout_layer, winner.val_r) == (LAYERS[0], 0.2)
    # The first trial of a study is the published recipe, at the deepest cutoff that the plan allows.
    assert (tuned.layer_cutoff, tuned.temperature, tuned.learning_rate) == (LAYERS[1], 0.3, 1e-4)
    assert config["temperature"] == 0.3
    untuned = load_model(NAME, "untuned", sweep="small", storage=str(saved.base))
    assert (untuned.layer_cutoff, untuned.temperature, untuned.learning_rate) == (None, None, None)


def test_score_is_the_mean_correlation(saved: SweepStorage, pictures: np.ndarray) -> None:
    model = load_model(NAME, "contrastive", sweep="small", storage=str(saved.base))
    predicted = model.predict(pictures)
    measured = predicted + np.random.default_rng(1).normal(0, predicted.std(axis=0), predicted.shape)
    expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, measured.T, strict=True)])
    assert 0.2 < expected < 0.95
    assert model.score(pictures, measured) == pytest.approx(expected)
    with pytest.raises(DataError, match=r"responses have shape \(5, .*subj01/lh/V1v and these images need \(6, "):
        model.score(pictures, measured[:5])
    with pytest.raises(DataError, match="at least two images"):
        model.score(pictures[:1], measured[:1])


def test_files_and_pictures_are_images_too(saved: SweepStorage, pictures: np.ndarray, tmp_path: Path) -> None:
    model = load_model(NAME, "contrastive", sweep="small", storage=str(saved.base))
    small = Image.fromarray(pictures[1]).resize((31, 57))
    Image.fromarray(pictures[0]).save(tmp_path / "first.png")
    mixed = [tmp_path / "first.png", str(tmp_path / "first.png"), small, pictures[0]]
    predicted = model.predict(mixed)
    alone = [model.predict(pictures[:1])] * 2 + [model.predict(np.asarray(small)[None]), model.predict(pictures[:1])]
    np.testing.assert_allclose(predicted, np.concatenate(alone), atol=1e-5)
    with pytest.raises(DataError, match="images hold a float"):
        model.predict([0.5])
    with pytest.raises(DataError, match=r"gone\.png: it is missing"):
        model.predict([tmp_path / "gone.png"])
    with pytest.raises(DataError, match=r"images are float64 \(6, 90, 120, 3\); expected uint8"):
        model.predict(pictures / 255)


def test_features_are_what_the_encoding_model_reads(saved: SweepStorage, pictures: np.ndarray) -> None:
    """Linear in them, with the fitted weights: the predictions come out again."""
    model = load_model(NAME, "contrastive", sweep="small", storage=str(saved.base))
    features = model.features.transform(pictures)
    assert features.shape == (6, BACKBONES["alexnet"].readout_layers[LAYERS[0]])
    encoder = model.predictor.encoder
    again = (features.astype(float) - encoder.feature_mean_) @ encoder.coef_.astype(float) + encoder.response_mean_
    np.testing.assert_allclose(again, model.predict(pictures), atol=1e-4)


def test_features_feed_a_pipeline(saved: SweepStorage, demo: AlgonautsDataset) -> None:
    """A ridge on the features of the deepest layer, fitted and searched by scikit-learn, as by hand."""
    model = load_model(NAME, "untuned", sweep="small", storage=str(saved.base))
    subject = demo.subject("subj01")
    rows = np.arange(12)
    images = [str(subject.image_paths[row]) for row in rows]
    responses = subject.responses("lh", "V1v", rows)
    pipeline = make_pipeline(model.features, Ridge(1e4)).fit(images[:9], responses[:9])
    by_hand = Ridge(1e4).fit(model.features.transform(images[:9]), responses[:9])
    expected = by_hand.predict(model.features.transform(images[9:]))
    np.testing.assert_allclose(pipeline.predict(images[9:]), expected, rtol=1e-4, atol=1e-5)
    search = GridSearchCV(clone(pipeline), {"networkfeatures__layer": list(LAYERS)}, cv=2).fit(images, responses)
    assert search.best_params_["networkfeatures__layer"] in LAYERS
    assert model.features.layer is None, "a search sets the layer of clones alone"


def test_scikit_learn_takes_it_for_its_own(saved: SweepStorage, pictures: np.ndarray) -> None:
    model = load_champion(NAME, sweep="small", storage=str(saved.base))
    for estimator in (model, model.features):
        check_is_fitted(estimator)
        copy = clone(estimator)
        assert copy is not estimator
        assert copy.get_params() == estimator.get_params()
        assert copy.predictor is model.predictor, "a clone shares the network"
        assert estimator.fit(None) is estimator
        assert type(estimator).__name__ in repr(estimator)
    assert is_regressor(model)
    np.testing.assert_array_equal(clone(model).predict(pictures[:2]), model.predict(pictures[:2]))
    with pytest.raises(ConfigError, match=r"readout layer is 'features\.9'"):
        model.features.set_params(layer="features.9").transform(pictures[:1])


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"target": "subj01/lh/V1w"}, ConfigError, r"target is 'subj01/lh/V1w'; expected one such as subj01/lh/V1v"),
        ({"method": "regression"}, ConfigError, r"method is 'regression'; subj01/lh/V1v has untuned, contrastive in"),
        ({"sweep": "other"}, StorageError, r"no sweep 'other' in .*; there are: small"),
        ({"tracking_uri": "sqlite:///x.db"}, ConfigError, r"both sweep \('small'\) and tracking_uri"),
        ({"sweep": None, "target": "subj09/lh/V1v"}, ConfigError, r"expected one such as demo\.subj01-lh-V1v \(of 1\)"),
        ({"sweep": None, "dataset": "nsd"}, ConfigError, r"target is 'subj01/lh/V1v'; expected one such as demo\.subj"),
        ({"sweep": None, "method": "regression"}, ConfigError, r"has no regression in the registry; .* champion, "),
        ({"sweep": None, "storage": "nowhere"}, StorageError, r"no model registry at sqlite:.*nowhere/mlflow\.db"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    saved: SweepStorage, arguments: dict[str, str | None], kind: type[CortexSweepError], sentence: str
) -> None:
    asked = {"target": NAME, "method": "contrastive", "sweep": "small", "storage": str(saved.base), **arguments}
    with pytest.raises(kind, match=sentence):
        load_model(**asked)  # type: ignore[arg-type] # every combination is a call that somebody may write
    assert not Path("nowhere").exists(), "asking makes no database"


def test_a_sweep_before_its_selection_and_one_without_champions(saved: SweepStorage, tmp_path: Path) -> None:
    copy = SweepStorage(str(tmp_path), "small")
    shutil.copytree(str(saved.root / "models"), str(copy.root / "models"))
    shutil.copy(str(saved.plan_file), str(copy.plan_file))
    with pytest.raises(StorageError, match="nothing is selected in sweep small; run `sweep.py select small"):
        load_champion(NAME, sweep="small", storage=str(tmp_path))
    entries = [{**entry, "champion": False} for entry in json.loads(saved.selection_file.read_text())]
    copy.selection_file.write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"no champion in sweep small \(.*\); name a method: untuned, contrastive"):
        load_champion(NAME, sweep="small", storage=str(tmp_path))
    shutil.rmtree(str(copy.model_dir(TARGETS[0], "untuned")))
    with pytest.raises(StorageError, match="the untuned model of subj01/lh/V1v is not in"):
        load_model(NAME, "untuned", sweep="small", storage=str(tmp_path))


def test_a_pooled_network_is_found_for_each_of_its_subjects(tmp_path: Path) -> None:
    """By its method alone, where its model was saved: pools that leave a subject out have none."""
    storage = SweepStorage(str(tmp_path), "pools")
    both = Target("demo", ("subj01", "subj02"), "lh", "V1v")
    entry = Selected(both.to_dict(), "pooled-avg", "a trial", 0, 0.3, LAYERS[0], True, "digest")
    write_json(storage.selection_file, [asdict(entry)])
    write_json(storage.plan_file, {})
    write_json(storage.model_dir(both.of_subject("subj02"), "pooled-avg") / "encoder/encoder.json", {})
    found = find_model(storage, "subj02/lh/V1v", "pooled-avg")
    assert (found.target.name, found.selected, found.champion) == ("subj02/lh/V1v", entry, False)
    with pytest.raises(ConfigError, match=r"subj02/lh/V1v has no champion in sweep pools"):
        find_model(storage, "subj02/lh/V1v", None)
    with pytest.raises(ConfigError, match=r"expected one such as subj02/lh/V1v \(of 1\)"):
        find_model(storage, "subj01/lh/V1v", "pooled-avg")


def test_one_target_of_two_data_sets_asks_which(saved: SweepStorage, tmp_path: Path) -> None:
    shutil.copy(str(saved.base / "mlflow.db"), tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    connect(uri).create_registered_model("nsd.subj01-lh-V1v", tags={"dataset": "nsd"})
    with pytest.raises(ConfigError, match=r"several data sets; choose one of them by dataset=: demo, nsd"):
        load_champion(NAME, tracking_uri=uri)
    assert load_champion(NAME, tracking_uri=uri, dataset="demo").target == NAME


def test_a_sweep_s_model_needs_neither_ray_nor_mlflow() -> None:
    """They take seconds to import, which a notebook need not wait for."""
    code = "import sys, orchestrator.models; sys.exit(sorted({'ray', 'mlflow'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
