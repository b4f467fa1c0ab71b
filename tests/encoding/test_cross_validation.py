from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from trainables.encoding import cross_validation
from trainables.encoding.cross_validation import cross_validate, folds, from_stimuli_is_less


def simulated(n: int = 60, p: int = 30, v: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(n, p)) + 5
    responses = features @ rng.normal(size=(p, v)) / 3 + rng.normal(size=(n, v))
    return features, responses.astype(np.float32)


def test_folds_score_every_stimulus_once_and_fit_on_the_others() -> None:
    held_out = []
    for fitted, scored in folds(23):
        assert set(fitted) | set(scored) == set(range(23))
        assert not set(fitted) & set(scored)
        held_out += scored.tolist()
    assert sorted(held_out) == list(range(23))


@pytest.fixture(params=["by components", "from stimuli", "as counted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to predict, and the one that is chosen."""
    if request.param != "as counted":
        monkeypatch.setattr(cross_validation, "from_stimuli_is_less", lambda *_: request.param == "from stimuli")
    return str(request.param)


def test_the_way_with_fewer_multiplications_is_taken() -> None:
    def multiplications(rows: int, components: int, fitted: int, voxels: int) -> tuple[int, int]:
        loadings, predicted = components * fitted * voxels, rows * components * voxels
        return loadings + predicted, rows * components * fitted + rows * fitted * voxels

    for shape in [(2160, 959, 960, 13_800), (2160, 600, 960, 13_800), (2160, 959, 960, 100), (36, 47, 48, 300)]:
        by_components, from_stimuli = multiplications(*shape)
        assert from_stimuli_is_less(*shape) == (from_stimuli < by_components)


@pytest.mark.parametrize(("n_components", "n_features", "n_voxels"), [(1000, 30, 4), (7, 30, 4), (1000, 80, 300)])
def test_scores_are_those_of_scikit_learn_refitted_in_every_fold(
    way: str, n_components: int, n_features: int, n_voxels: int
) -> None:
    features, responses = simulated(p=n_features, v=n_voxels)
    alphas = (0.1, 10.0, 1000.0)
    expected = np.zeros((len(alphas), responses.shape[1]))
    for fitted, scored in folds(len(features)):
        pca = PCA(min(n_components, len(fitted) - 1, features.shape[1])).fit(features[fitted])
        for a, alpha in enumerate(alphas):
            ridge = Ridge(alpha).fit(pca.transform(features[fitted]), responses[fitted])
            predicted = ridge.predict(pca.transform(features[scored]))
            expected[a] += [pearsonr(predicted[:, v], responses[scored, v])[0] / 5 for v in range(responses.shape[1])]
    found = cross_validate(torch.tensor(features), responses, n_components=n_components, alphas=alphas)
    np.testing.assert_allclose(found.r, expected, atol=1e-8)
    best = expected.mean(axis=1).argmax()
    assert found.one_alpha == alphas[best]
    np.testing.assert_allclose(found.r_at_one_alpha, expected[best], atol=1e-8)
    np.testing.assert_allclose(found.r_at_best_alphas, expected.max(axis=0), atol=1e-8)


def test_repeated_stimuli_give_finite_scores(way: str) -> None:
    features, responses = simulated()
    features[1::2] = features[::2]
    assert np.isfinite(cross_validate(torch.tensor(features).float(), responses).r).all()


def test_too_few_stimuli_are_told() -> None:
    with pytest.raises(ValueError, match="14 stimuli for 5 folds"):
        cross_validate(torch.zeros(14, 3), np.zeros((14, 2), np.float32))


def test_single_precision_changes_no_score(way: str) -> None:
    features, responses = simulated()
    double = cross_validate(torch.tensor(features), responses)
    single = cross_validate(torch.tensor(features).float(), responses.astype(np.float32))
    np.testing.assert_allclose(single.r, double.r, atol=1e-5)


def test_voxels_that_do_not_vary_score_nothing_and_damage_shows(way: str) -> None:
    features, responses = simulated()
    responses = responses.astype(np.float32)
    responses[:, 0], responses[0, 1] = 0.1, np.nan
    r = cross_validate(torch.tensor(features).float(), responses).r
    assert (r[:, 0] == 0).all()
    assert np.isnan(r[:, 1]).all()
    assert np.isfinite(r[:, 2:]).all()
