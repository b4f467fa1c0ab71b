from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA

from tests.synthetic import planted_data, tiny_weights
from trainables.encoding.encoder import RidgeEncoder
from trainables.encoding.linear import OtherEncoderError
from trainables.encoding.pls import PLSEncoder, load_encoder
from trainables.encoding.validation import score_readout_layers
from trainables.errors import WeightsError
from trainables.models.backbone import build_backbone


def simulated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features, new = rng.normal(size=(50, 80)) + 2, rng.normal(size=(9, 80)) + 2
    return features, features[:, :3] @ rng.normal(size=(3, 6)) + rng.normal(size=(50, 6)), new


@pytest.mark.parametrize(("n_components", "n_latent"), [(1000, 5), (10, 4), (3, 25)])
def test_predictions_are_those_of_scikit_learn(n_components: int, n_latent: int) -> None:
    features, responses, new = simulated()
    pca = PCA(min(n_components, 49)).fit(features)
    reference = PLSRegression(min(n_latent, n_components), scale=False).fit(pca.transform(features), responses)
    found = PLSEncoder(n_components, n_latent).fit(features, responses).predict(new)
    np.testing.assert_allclose(found, reference.predict(pca.transform(new)), rtol=1e-4, atol=1e-5)


def test_saved_encoders_come_back_as_what_they_were(tmp_path: Path) -> None:
    features, responses, new = simulated()
    for encoder in (PLSEncoder(20, 3), RidgeEncoder(20)):
        fitted = encoder.fit(features, responses)
        fitted.save(tmp_path / encoder.solver)
        loaded = load_encoder(tmp_path / encoder.solver)
        assert type(loaded) is type(encoder)
        assert loaded.settings() == encoder.settings()
        np.testing.assert_array_equal(loaded.predict(new), fitted.predict(new))
    with pytest.raises(OtherEncoderError, match="expected ridge"):
        RidgeEncoder.load(tmp_path / "pls")
    with pytest.raises(WeightsError, match=r"encoder\.json"):
        load_encoder(tmp_path / "nothing")


def test_numbers_below_one_are_told() -> None:
    with pytest.raises(ValueError, match="n_latent 0"):
        PLSEncoder(10, 0)


def test_validation_score_can_come_from_pls() -> None:
    weights, data = tiny_weights(), planted_data()
    network = build_backbone("tiny", weights.state, "features.3")
    by_pls = score_readout_layers(network, data, ["features.3"], encoder="pls")
    by_ridge = score_readout_layers(network, data, ["features.3"])
    assert by_pls.r != by_ridge.r
    assert np.isfinite(by_pls.r)
