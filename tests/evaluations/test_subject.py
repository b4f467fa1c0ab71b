"""One factorisation for all ROIs gives what scikit-learn gives for each of them, by every protocol."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV

from tests.synthetic import planted_data, tiny_weights, unused_rows
from trainables.encoding.cross_validation import folds
from trainables.encoding.encoder import DEFAULT_ALPHAS
from trainables.encoding.features import extract_features
from trainables.errors import ConfigError
from trainables.evaluations.subject import FeatureBank, SubjectParts, score_subject
from trainables.evaluations.transfer import compare_transfer, transfer_score
from trainables.models.backbone import Backbone, build_backbone

LAYERS = ("features.1", "features.3")
PLACES = {("lh", "V1v"): slice(0, 6), ("rh", "hV4"): slice(6, 10)}
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def network() -> Backbone:
    return build_backbone("tiny", tiny_weights().state, "features.3").eval()


@pytest.fixture(scope="module")
def parts() -> SubjectParts:
    """40 training, 24 validation and 40 test stimuli."""
    data = planted_data(n_train=80, n_val=24)
    train, test = data.train.rows[:40], data.train.rows[40:]
    responses = data.train.responses
    assert len(unused_rows(data)) == 8
    return SubjectParts(
        "subj01",
        data.train.stimuli,
        (train, data.val.rows, test),
        (responses[:40], data.val.responses, responses[40:]),
        PLACES,
        None,
    )


@pytest.fixture(scope="module")
def published(parts: SubjectParts) -> SubjectParts:
    """The same without a validation part."""
    rows, responses = parts.rows, parts.responses
    return replace(
        parts, rows=(rows[0], rows[1][:0], rows[2]), responses=(responses[0], responses[1][:0], responses[2])
    )


def features_of(network: Backbone, parts: SubjectParts, layer: str) -> list[Array]:
    return [
        extract_features(network, parts.stimuli, rows, [layer])[layer].numpy().astype(np.float64) for rows in parts.rows
    ]


def correlations(predicted: Array, measured: NDArray[np.float32]) -> Array:
    return np.array([pearsonr(p, m)[0] for p, m in zip(predicted.T, measured.T, strict=True)])


def test_nested_scores_are_those_of_an_encoding_model_for_each_roi(network: Backbone, parts: SubjectParts) -> None:
    scores, _ = score_subject(network, parts, "nested")
    assert set(scores.val) == set(scores.test) == set(LAYERS)
    for layer in LAYERS:
        train, val, test = features_of(network, parts, layer)
        pca = PCA(39).fit(train)
        for columns in PLACES.values():
            y = parts.responses[0][:, columns].astype(np.float64)
            ridge = RidgeCV(DEFAULT_ALPHAS, alpha_per_target=True).fit(pca.transform(train), y)
            for found, part, features in ((scores.val, 1, val), (scores.test, 2, test)):
                expected = correlations(ridge.predict(pca.transform(features)), parts.responses[part][:, columns])
                np.testing.assert_allclose(found[layer][columns], expected, atol=1e-3)
            predicted = ridge.predict(pca.transform(test))
            np.testing.assert_allclose(scores.predicted[layer][:, columns], predicted, atol=1e-2)


def best_of_folds(network: Backbone, parts: SubjectParts, columns: slice) -> tuple[str, float]:
    """Layer and penalty with the highest mean r over voxels and folds, fold by fold with scikit-learn."""
    means: dict[tuple[str, float], float] = {}
    y = parts.responses[0][:, columns].astype(np.float64)
    for layer in LAYERS:
        x = features_of(network, parts, layer)[0]
        for alpha in DEFAULT_ALPHAS:
            r = []
            for fitted, scored in folds(len(x)):
                pca = PCA(len(fitted) - 1).fit(x[fitted])
                ridge = Ridge(alpha).fit(pca.transform(x[fitted]), y[fitted])
                r.append(correlations(ridge.predict(pca.transform(x[scored])), parts.responses[0][scored][:, columns]))
            means[layer, alpha] = float(np.mean(r))
    return max(means, key=lambda key: means[key])


def test_published_a_takes_layer_and_penalty_from_the_untuned_network(
    network: Backbone, published: SubjectParts
) -> None:
    untuned, _ = score_subject(network, published, "published-a")
    assert untuned.choices == {place: best_of_folds(network, published, columns) for place, columns in PLACES.items()}
    other = build_backbone("tiny", tiny_weights(seed=1).state, "features.3").eval()
    choices = {("lh", "V1v"): ("features.1", 10.0), ("rh", "hV4"): ("features.3", 1000.0)}
    tuned, _ = score_subject(other, published, "published-a", choices=choices)
    assert tuned.choices == choices
    for place, (layer, alpha) in choices.items():
        train, test = features_of(other, published, layer)[::2]
        pca, columns = PCA(39).fit(train), PLACES[place]
        ridge = Ridge(alpha).fit(pca.transform(train), published.responses[0][:, columns].astype(np.float64))
        expected = correlations(ridge.predict(pca.transform(test)), published.responses[2][:, columns])
        np.testing.assert_allclose(tuned.test[layer][columns], expected, atol=1e-3)
        unscored = next(name for name in LAYERS if name != layer)
        assert np.isnan(tuned.test[unscored][columns]).all()


def test_published_b_scores_held_out_stimuli_alone(network: Backbone, parts: SubjectParts) -> None:
    scores, _ = score_subject(network, parts, "published-b")
    x, y = features_of(network, parts, "features.3")[2], parts.responses[2].astype(np.float64)
    by_alpha = []
    for alpha in DEFAULT_ALPHAS:
        r = []
        for fitted, scored in folds(len(x)):
            pca = PCA(len(fitted) - 1).fit(x[fitted])
            ridge = Ridge(alpha).fit(pca.transform(x[fitted]), y[fitted])
            r.append(correlations(ridge.predict(pca.transform(x[scored])), parts.responses[2][scored]))
        by_alpha.append(np.mean(r, axis=0))
    np.testing.assert_allclose(scores.test["features.3"], np.max(by_alpha, axis=0), atol=1e-3)
    assert not scores.val
    broken = SubjectParts(
        parts.name, parts.stimuli, parts.rows, (parts.responses[0] * np.nan, *parts.responses[1:]), PLACES, None
    )
    again, _ = score_subject(network, broken, "published-b")
    np.testing.assert_array_equal(again.test["features.3"], scores.test["features.3"])


def test_bank_gives_the_same_features_whether_it_holds_them_or_not(network: Backbone, parts: SubjectParts) -> None:
    held, passing = (FeatureBank(network, parts.stimuli, parts.rows[0]) for _ in range(2))
    held.hold(LAYERS)
    for layer in LAYERS:
        torch.testing.assert_close(held.take(layer), passing.take(layer))


def test_transfer_is_compared_voxel_by_voxel() -> None:
    found = compare_transfer([0.5, 0.2, 0.3, 0.1], [0.4, 0.3, 0.3, 0.0])
    assert (found.fraction_above_untuned, found.n_voxels) == (0.5, 4)
    assert found.mean_delta_r == pytest.approx(0.025)
    assert found.r == pytest.approx(0.275)
    assert found.untuned_r == pytest.approx(0.25)
    with pytest.raises(ValueError, match="same voxels"):
        compare_transfer([0.1], [0.1, 0.2])


def test_transfer_score_is_the_mean_over_other_subjects(network: Backbone) -> None:
    from trainables.encoding.validation import score_readout_layers

    others = [planted_data(), planted_data(n_voxels=7)]
    expected = np.mean([score_readout_layers(network, data).r for data in others])
    assert transfer_score(network, others) == pytest.approx(float(expected))
    with pytest.raises(ConfigError, match="no other subject"):
        transfer_score(network, [])
