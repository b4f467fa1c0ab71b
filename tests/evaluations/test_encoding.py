"""The test score against the long way and planted truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline

from tests.synthetic import planted_data, tiny_weights
from trainables.data.responses import TargetData
from trainables.encoding.encoder import DEFAULT_ALPHAS
from trainables.encoding.features import extract_features
from trainables.encoding.scores import noise_normalised_r2
from trainables.errors import ConfigError
from trainables.evaluations import encoding
from trainables.evaluations.encoding import evaluate_encoding, fit_encoder, predict_responses, voxels_improved
from trainables.models.backbone import Backbone, build_backbone

LAYER = "features.1"


@pytest.fixture
def tiny() -> Backbone:
    return build_backbone("tiny", tiny_weights().state, "features.3")


@pytest.fixture
def data() -> TargetData:
    return planted_data(n_train=300, n_val=60, noise=0.1)


def test_is_the_long_way(tiny: Backbone, data: TargetData) -> None:
    scores = evaluate_encoding(tiny, LAYER, fit_encoder(tiny, LAYER, data.train), data.val)
    train, unseen = (
        extract_features(tiny, part.stimuli, part.rows, [LAYER])[LAYER].double().numpy()
        for part in (data.train, data.val)
    )
    reference = make_pipeline(PCA(280, svd_solver="full"), RidgeCV(DEFAULT_ALPHAS, alpha_per_target=True))
    predicted = reference.fit(train, data.train.responses.astype(float)).predict(unseen)
    expected = [stats.pearsonr(predicted[:, v], data.val.responses[:, v]).statistic for v in range(data.n_voxels)]
    np.testing.assert_allclose(scores.r, expected, atol=0.02)
    assert scores.mean_r == pytest.approx(np.mean(expected), abs=0.005)
    assert scores.mean_r > 0.3, "the planted model is there to be found"
    assert scores.n_stimuli == 60
    assert scores.noise_normalised_r2 is None
    assert scores.median_noise_normalised_r2 is None


def test_noise_normalised_beside_the_raw_score(tiny: Backbone, data: TargetData) -> None:
    ceiling = np.linspace(0.2, 0.9, data.n_voxels)
    scores = evaluate_encoding(tiny, LAYER, fit_encoder(tiny, LAYER, data.train), data.val, ceiling)
    assert scores.noise_normalised_r2 is not None
    np.testing.assert_array_equal(scores.noise_normalised_r2, noise_normalised_r2(scores.r, ceiling))
    assert scores.median_noise_normalised_r2 == np.median(scores.noise_normalised_r2)
    with pytest.raises(ValueError, match="noise_ceiling"):
        evaluate_encoding(tiny, LAYER, fit_encoder(tiny, LAYER, data.train), data.val, ceiling[1:])


def test_the_scored_part_does_not_reach_the_fit(tiny: Backbone, data: TargetData) -> None:
    encoder = fit_encoder(tiny, LAYER, data.train)
    flipped = replace(data.val, responses=-data.val.responses)
    scores, opposite = (evaluate_encoding(tiny, LAYER, encoder, part) for part in (data.val, flipped))
    np.testing.assert_allclose(scores.r, -opposite.r, atol=1e-12)


def test_predictions_are_in_the_order_of_the_stimuli(
    tiny: Backbone, data: TargetData, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fit_encoder(tiny, LAYER, data.train)
    stimuli = data.val.stimuli
    whole = predict_responses(tiny, LAYER, encoder, stimuli)
    assert whole.shape == (len(stimuli), data.n_voxels)
    assert whole.dtype == np.float32
    monkeypatch.setattr(encoding, "_STIMULI_AT_A_TIME", 7)
    np.testing.assert_allclose(predict_responses(tiny, LAYER, encoder, stimuli), whole, atol=1e-5)
    np.testing.assert_allclose(predict_responses(tiny, LAYER, encoder, stimuli[5:6])[0], whole[5], atol=1e-5)


def test_a_layer_that_the_model_lacks(tiny: Backbone, data: TargetData) -> None:
    with pytest.raises(ConfigError, match=r"'classifier.2'"):
        fit_encoder(tiny, "classifier.2", data.train)


def test_voxels_improved_counts_what_is_strictly_better() -> None:
    assert voxels_improved([0.1, 0.5, 0.3, 0.2], [0.2, 0.4, 0.3, 0.1]) == 50.0
    assert voxels_improved([0.1], [0.2]) == 0.0
    with pytest.raises(ValueError, match="same voxels"):
        voxels_improved([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="same voxels"):
        voxels_improved([], [])
