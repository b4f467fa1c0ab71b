"""Classification against the long way, and that the test images stay out of everything but the test score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.synthetic import IMAGE_SIZE, tiny_weights
from trainables.encoding.features import extract_features
from trainables.errors import ConfigError
from trainables.evaluations import classification
from trainables.evaluations.classification import classify, split_rows, standardise
from trainables.evaluations.logistic import fit_logistic
from trainables.models.backbone import Backbone, build_backbone

N, N_CLASSES = 200, 4


@pytest.fixture
def tiny() -> Backbone:
    return build_backbone("tiny", tiny_weights().state, "classifier.2")


@pytest.fixture(scope="module")
def labelled() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of a coarse pattern for each class, under noise."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, N_CLASSES, N)
    patterns = np.kron(generator.uniform(70, 180, (N_CLASSES, 4, 4, 3)), np.ones((1, 4, 4, 1)))
    noise = generator.normal(0, 60, (N, IMAGE_SIZE, IMAGE_SIZE, 3))
    return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels


def test_is_the_long_way(tiny: Backbone, labelled: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    images, labels = labelled
    scores = classify(tiny, images, labels, layer="features.3")
    dataset = torch.utils.data.TensorDataset(torch.arange(N))
    train, test = torch.utils.data.random_split(dataset, [170, 30], torch.Generator().manual_seed(0))
    assert scores.test_rows.tolist() == sorted(test.indices)
    features = extract_features(tiny, images, np.arange(N), ["features.3"])["features.3"].double().numpy()
    fitted = sorted(train.indices)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-8, max_iter=5000))
    expected = reference.fit(features[fitted], labels[fitted]).predict_proba(features[scores.test_rows])
    np.testing.assert_allclose(scores.probabilities, expected, atol=1e-3)
    assert scores.accuracy == np.mean(expected.argmax(axis=1) == labels[scores.test_rows])
    assert scores.accuracy > 0.6, "the planted classes are there to be found"
    np.testing.assert_array_equal(scores.labels, labels[scores.test_rows])
    assert (scores.layer, scores.part, scores.converged) == ("features.3", "test", True)
    assert (scores.n_train, scores.n_test, scores.n_classes) == (170, 30, N_CLASSES)
    assert scores.probabilities.dtype == np.float32
    assert scores.chance == np.bincount(labels).max() / N


def test_labels_without_meaning_score_at_chance(
    tiny: Backbone, labelled: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    images, _ = labelled
    accuracies = [
        classify(tiny, images, np.random.default_rng(seed).permutation(np.arange(N) % N_CLASSES)).accuracy
        for seed in range(8)
    ]
    scores = classify(tiny, images, np.arange(N) % N_CLASSES)
    assert scores.chance == 0.25
    # 240 guesses: a standard error of 0.028.
    assert abs(np.mean(accuracies) - 0.25) < 0.1


def test_a_cut_network_gives_its_deepest_layer(labelled: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    images, labels = labelled
    state = tiny_weights().state
    for cutoff, expected in [("features.1", "features.1"), ("features.3", "features.3"), ("output", "classifier.2")]:
        assert classify(build_backbone("tiny", state, cutoff), images, labels).layer == expected
    whole = build_backbone("tiny", state, "output")
    assert classify(whole, images, labels, layer="features.1").layer == "features.1"


def test_validation_never_sees_the_test_part(
    tiny: Backbone, labelled: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    images, labels = labelled
    _, test = split_rows(N, "test")
    spoiled, wrong = images.copy(), labels.copy()
    spoiled[test], wrong[test] = 0, (labels[test] + 1) % N_CLASSES
    scores = classify(tiny, images, labels, part="val")
    again = classify(tiny, spoiled, wrong, part="val")
    np.testing.assert_array_equal(scores.probabilities, again.probabilities)
    assert (scores.accuracy, scores.chance) == (again.accuracy, again.chance)
    assert (scores.n_train, scores.n_test, scores.part) == (140, 30, "val")
    assert not np.intersect1d(scores.test_rows, test).size
    # The scored part does not reach the fit either.
    _, val = split_rows(N, "val")
    wrong = labels.copy()
    wrong[val] = (labels[val] + 1) % N_CLASSES
    np.testing.assert_array_equal(classify(tiny, images, wrong, part="val").probabilities, scores.probabilities)


@pytest.mark.parametrize("n", [7, 20, 1001])
def test_parts_cover_the_set_once(n: int) -> None:
    fitted, test = split_rows(n)
    fitted_for_val, val = split_rows(n, "val")
    assert sorted([*fitted, *test]) == list(range(n))
    assert sorted([*fitted_for_val, *val]) == fitted.tolist()
    assert len(fitted) == int(0.85 * n)
    assert split_rows(n, seed=1)[1].tolist() != test.tolist()


def test_standardisation_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(5.0, 3.0, (30, 6)).astype(np.float32)
    features[:, 2] = 7.3  # never varies
    features[:20, 4] = 0.1  # varies in the scored part alone
    expected = StandardScaler().fit(features[:20]).transform(features)
    found = torch.from_numpy(features.copy())
    standardise(found, 20)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isfinite(found.numpy()).all()


def test_classes_of_the_set_that_no_image_has(
    tiny: Backbone, labelled: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    images, labels = labelled
    scores = classify(tiny, images, labels, n_classes=9)
    assert scores.probabilities.shape == (30, 9)
    assert not scores.probabilities[:, N_CLASSES:].any()


def test_what_cannot_be_classified_is_refused(
    tiny: Backbone, labelled: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    images, labels = labelled
    for wrong in (labels[1:], labels.astype(float), labels[:, None]):
        with pytest.raises(ValueError, match="expected integers of shape"):
            classify(tiny, images, wrong)
    for wrong, n_classes in ((labels - 1, None), (labels, 3)):
        with pytest.raises(ValueError, match="labels run from"):
            classify(tiny, images, wrong, n_classes=n_classes)
    with pytest.raises(ValueError, match="two or more"):
        classify(tiny, images, np.zeros(N, dtype=np.int64))
    with pytest.raises(ValueError, match="holds 3 images"):
        split_rows(3, "val")
    with pytest.raises(ValueError, match="'train'"):
        split_rows(30, "train")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expects uint8"):
        classify(tiny, images[:, :8], labels)


def test_a_fit_that_did_not_converge_says_so(
    tiny: Backbone, labelled: tuple[NDArray[np.uint8], NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "fit_logistic", lambda x, y, k: fit_logistic(x, y, k, max_iterations=1))
    assert not classify(tiny, *labelled).converged
