"""The encoding model against scikit-learn, brute force and planted truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline

from trainables.encoding import _solvers
from trainables.encoding.encoder import DEFAULT_ALPHAS, RidgeEncoder
from trainables.errors import WeightsError

N_TRAIN, N_FEATURES, N_VOXELS = 40, 300, 6


def _problem(noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated features with a mean, as after a ReLU; voxels of very different signal."""
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(N_TRAIN + 20, 30)) * np.logspace(0.5, -1.5, 30)
    features = latent @ generator.normal(size=(30, N_FEATURES)) + 5.0
    features += 0.05 * generator.normal(size=features.shape)
    signal = latent[:, :8] @ generator.normal(size=(8, N_VOXELS)) * np.logspace(1, -2, N_VOXELS)
    responses = signal + noise * generator.normal(size=signal.shape) + 2.0
    return features[:N_TRAIN], responses[:N_TRAIN], features[N_TRAIN:]


def test_overwriting_fit_is_the_same_without_a_second_copy_of_the_features() -> None:
    features, responses, unseen = _problem()
    ours = torch.from_numpy(features).float()
    kept = RidgeEncoder().fit(ours, responses)
    assert float(ours.mean()) > 1, "left as it was"
    overwritten = RidgeEncoder().fit(ours, responses, overwrite=True)
    np.testing.assert_array_equal(overwritten.coef_, kept.coef_)
    np.testing.assert_array_equal(overwritten.predict(unseen), kept.predict(unseen))
    np.testing.assert_allclose(ours.mean(dim=0), 0, atol=1e-5)


@pytest.mark.parametrize("n_components", [1000, 12])
def test_is_scikit_learns_pca_and_ridge(n_components: int) -> None:
    features, responses, unseen = _problem()
    encoder = RidgeEncoder(n_components).fit(features, responses)
    # A full PCA of centred data has one component without variance; the encoder drops it by its tolerance.
    kept = min(n_components, N_TRAIN - 1)
    reference = make_pipeline(PCA(kept, svd_solver="full"), RidgeCV(DEFAULT_ALPHAS, alpha_per_target=True)).fit(
        features, responses
    )
    np.testing.assert_array_equal(encoder.best_alphas_, reference[-1].alpha_)
    assert len(set(encoder.best_alphas_)) > 2, "the problem must tell voxels apart"
    assert encoder.n_components_ == kept
    np.testing.assert_allclose(encoder.predict(unseen), reference.predict(unseen), rtol=1e-5, atol=1e-6)


def test_float32_features_give_nearly_the_same() -> None:
    features, responses, unseen = _problem()
    exact = RidgeEncoder().fit(features, responses).predict(unseen)
    single = RidgeEncoder().fit(features.astype(np.float32), responses.astype(np.float32))
    np.testing.assert_allclose(single.predict(unseen.astype(np.float32)), exact, atol=2e-3)


def test_leave_one_out_errors_are_those_of_refits() -> None:
    features, responses, _ = _problem()
    alphas = (0.1, 10.0, 1e4)
    scores = PCA(10, svd_solver="full").fit_transform(features)
    brute_force = np.zeros((len(alphas), N_VOXELS))
    for a, alpha in enumerate(alphas):
        for i in range(N_TRAIN):
            others = np.delete(np.arange(N_TRAIN), i)
            fit = Ridge(alpha).fit(scores[others], responses[others])
            brute_force[a] += (fit.predict(scores[[i]])[0] - responses[i]) ** 2 / N_TRAIN
    centred = torch.from_numpy(features - features.mean(0))
    components = _solvers.principal_components(_solvers.cross_gram(centred, centred), 10, 1e-12)
    y = torch.from_numpy(responses - responses.mean(0))
    errors = _solvers.leave_one_out_errors(components, y, torch.tensor(alphas, dtype=torch.float64))
    np.testing.assert_allclose(errors.numpy(), brute_force, rtol=1e-9)


def test_leave_one_out_errors_keep_their_digits_in_single_precision() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(40, 300)) * np.logspace(0, -4, 300)  # as many components as stimuli: ŷ is y, nearly
    centred = torch.from_numpy(features - features.mean(0))
    components = _solvers.principal_components(_solvers.cross_gram(centred, centred), 1000, 1e-12)
    y = torch.from_numpy(rng.normal(size=(40, 5)))
    alphas = torch.logspace(-9, 3, 13, dtype=torch.float64)
    exact = _solvers.leave_one_out_errors(components, y - y.mean(0), alphas)
    single = _solvers.leave_one_out_errors(components, y - y.mean(0), alphas, torch.float32)
    assert len(components.variances) == 39
    np.testing.assert_allclose(single.numpy(), exact.numpy(), rtol=1e-4)


def test_shared_products_are_fewer_and_sum_to_all() -> None:
    variances = torch.logspace(7, 4, 200, dtype=torch.float64)
    shrinkage = variances / (variances + torch.logspace(-1, 7, 9, dtype=torch.float64)[:, None])
    weights, shared = _solvers.shared_products(shrinkage, 1e-6)
    assert len(shared) < 9
    largest = shrinkage.amax(dim=1, keepdim=True)
    np.testing.assert_allclose((weights @ shared / largest).numpy(), (shrinkage / largest).numpy(), atol=1e-6)
    exact = _solvers.shared_products(shrinkage, 0.0)
    np.testing.assert_allclose((exact.weights @ exact.shared).numpy(), shrinkage.numpy(), atol=1e-12)


def test_cross_gram_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_solvers, "FEATURE_BLOCK", 7)
    features, _, unseen = (torch.from_numpy(array) for array in _problem())
    expected = features.numpy() @ unseen.numpy().T
    np.testing.assert_allclose(_solvers.cross_gram(features, unseen).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 5e-3), (np.float64, 1e-5)])
def test_repeated_stimuli_leave_finite_and_unchanged_predictions(dtype: type, tolerance: float) -> None:
    features, responses, unseen = _problem()
    features[20:] = features[:20]
    encoder = RidgeEncoder(alphas=[1.0]).fit(features.astype(dtype), responses)
    assert encoder.n_components_ <= 19
    # Ridge on each stimulus twice is ridge on the averaged responses with half the penalty.
    averaged = (responses[:20] + responses[20:]) / 2
    reference = Ridge(0.5).fit(features[:20], averaged).predict(unseen)
    np.testing.assert_allclose(encoder.predict(unseen.astype(dtype)), reference, atol=tolerance)


def test_recovers_a_planted_linear_model() -> None:
    generator = np.random.default_rng(1)
    features, weights = generator.normal(size=(200, 10)), generator.normal(size=(10, 3))
    encoder = RidgeEncoder(alphas=[1e-8]).fit(features, features @ weights + 4)
    np.testing.assert_allclose(encoder.coef_, weights, atol=1e-6)
    np.testing.assert_allclose(encoder.predict(np.zeros((1, 10))), [[4, 4, 4]], atol=1e-5)


def test_noise_voxels_are_shrunk_to_their_mean() -> None:
    features, responses, unseen = _problem()
    responses[:, 0] = np.random.default_rng(2).normal(size=N_TRAIN)
    encoder = RidgeEncoder().fit(features, responses)
    assert encoder.best_alphas_[0] >= 1e3
    np.testing.assert_allclose(encoder.predict(unseen)[:, 0], responses[:, 0].mean(), atol=0.5)


def test_features_that_do_not_vary_predict_the_mean() -> None:
    encoder = RidgeEncoder().fit(np.full((5, 4), 3.0), np.arange(10.0).reshape(5, 2))
    assert encoder.n_components_ == 0
    np.testing.assert_allclose(encoder.predict(np.ones((1, 4))), [[4.0, 5.0]])


def test_tensors_give_tensors_and_arrays_give_arrays() -> None:
    features, responses, unseen = _problem()
    encoder = RidgeEncoder().fit(torch.from_numpy(features), torch.from_numpy(responses))
    predicted = encoder.predict(torch.from_numpy(unseen))
    assert isinstance(predicted, torch.Tensor)
    array = encoder.predict(unseen)
    assert array.dtype == np.float32
    assert array.shape == (20, N_VOXELS)
    np.testing.assert_array_equal(predicted.numpy(), array)


def test_each_voxel_is_fitted_by_itself() -> None:
    features, responses, unseen = _problem()
    together = RidgeEncoder().fit(features, responses).predict(unseen)
    alone = RidgeEncoder().fit(features, responses[:, [3]]).predict(unseen)
    np.testing.assert_allclose(alone[:, 0], together[:, 3], rtol=1e-5)


def test_arguments_are_left_as_they_were() -> None:
    features, responses, _ = _problem()
    before = features.copy(), responses.copy()
    RidgeEncoder().fit(features, responses)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(responses, before[1])


@pytest.mark.parametrize(
    "features, responses",
    [
        (np.ones((4, 3)), np.ones((5, 2))),
        (np.ones(4), np.ones((4, 2))),
        (np.ones((1, 3)), np.ones((1, 2))),
        (np.full((4, 3), np.nan), np.ones((4, 2))),
        (np.ones((4, 3)), np.full((4, 2), np.inf)),
    ],
)
def test_fit_refuses(features: np.ndarray, responses: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected|at least"):
        RidgeEncoder().fit(features, responses)


@pytest.mark.parametrize("alphas", [[], [0.0], [-1.0], [np.nan]])
def test_refuses_penalties(alphas: list[float]) -> None:
    with pytest.raises(ValueError, match="alphas"):
        RidgeEncoder(alphas=alphas)


def test_refuses_no_components() -> None:
    with pytest.raises(ValueError, match="n_components"):
        RidgeEncoder(0)


def test_predict_refuses_before_fit_and_other_widths() -> None:
    features, responses, _ = _problem()
    with pytest.raises(ValueError, match="not fitted"):
        RidgeEncoder().predict(features)
    with pytest.raises(ValueError, match="shape"):
        RidgeEncoder().fit(features, responses).predict(features[:, :5])


def test_save_and_load(tmp_path: Path) -> None:
    features, responses, unseen = _problem()
    encoder = RidgeEncoder(50, [1.0, 100.0]).fit(features, responses)
    encoder.save(tmp_path / "encoder")
    loaded = RidgeEncoder.load(tmp_path / "encoder")
    np.testing.assert_array_equal(loaded.predict(unseen), encoder.predict(unseen))
    np.testing.assert_array_equal(loaded.best_alphas_, encoder.best_alphas_)
    assert (loaded.n_components, loaded.alphas, loaded.n_components_) == (
        50,
        (1.0, 100.0),
        encoder.n_components_,
    )
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "encoder.json",
        "encoder.safetensors",
    ]


def test_load_refuses_a_description_without_its_fields(tmp_path: Path) -> None:
    features, responses, _ = _problem()
    RidgeEncoder().fit(features, responses).save(tmp_path)
    description = json.loads((tmp_path / "encoder.json").read_text())
    del description["alphas"]
    (tmp_path / "encoder.json").write_text(json.dumps(description))
    with pytest.raises(WeightsError, match="alphas"):
        RidgeEncoder.load(tmp_path)


def test_an_encoder_without_a_fit_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        RidgeEncoder().save(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
