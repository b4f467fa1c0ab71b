"""Scores against SciPy, naive loops and planted truth."""

import numpy as np
import pytest
from scipy import stats

from trainables.encoding.scores import noise_ceiling, noise_normalised_r2, pearson_r


def _pair(n_stimuli: int = 30, n_voxels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    measured = generator.normal(size=(n_stimuli, n_voxels))
    return 0.5 * measured + generator.normal(size=measured.shape), measured


def test_pearson_r_is_scipys() -> None:
    predicted, measured = _pair()
    expected = [stats.pearsonr(predicted[:, v], measured[:, v]).statistic for v in range(measured.shape[1])]
    np.testing.assert_allclose(pearson_r(predicted, measured), expected, rtol=1e-12)


def test_pearson_r_of_float32_far_from_zero_keeps_its_digits() -> None:
    predicted, measured = _pair()
    shifted = (predicted + 1000).astype(np.float32)
    expected = [stats.pearsonr(shifted[:, v].astype(float), measured[:, v]).statistic for v in range(5)]
    np.testing.assert_allclose(pearson_r(shifted, measured), expected, rtol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3, np.float32(0.7)])
def test_a_voxel_that_does_not_vary_scores_zero(constant: float) -> None:
    predicted, measured = _pair()
    untouched = pearson_r(predicted, measured)
    predicted[:, 1] = constant
    measured[:, 3] = constant
    r = pearson_r(predicted, measured)
    assert r[1] == 0.0
    assert r[3] == 0.0
    np.testing.assert_array_equal(r[[0, 2, 4]], untouched[[0, 2, 4]])


def test_tiny_but_real_variation_counts() -> None:
    _, measured = _pair()
    np.testing.assert_allclose(pearson_r(1e-9 * measured, measured), 1.0)


def test_damaged_data_stays_visible() -> None:
    predicted, measured = _pair()
    measured[4, 2] = np.nan
    r = pearson_r(predicted, measured)
    assert np.isnan(r[2])
    assert np.isfinite(np.delete(r, 2)).all()


@pytest.mark.parametrize("shapes", [((5, 2), (5, 3)), ((5,), (5,)), ((1, 2), (1, 2))])
def test_pearson_r_refuses(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"shape|at least 2"):
        pearson_r(np.ones(shapes[0]), np.ones(shapes[1]))


def test_noise_ceiling_is_the_published_formula() -> None:
    ncsnr = np.array([0.0, 0.2, 1.0, 3.0])
    repeats = np.array([3, 3, 1, 2, 3, 2])
    n1, n2, n3 = ((repeats == k).sum() for k in (1, 2, 3))
    expected = [snr**2 / (snr**2 + (n3 / 3 + n2 / 2 + n1) / (n1 + n2 + n3)) for snr in ncsnr]
    np.testing.assert_allclose(noise_ceiling(ncsnr, repeats), expected, rtol=1e-6)


def test_noise_ceiling_is_the_r2_of_a_perfect_model() -> None:
    generator = np.random.default_rng(3)
    repeats, ncsnr = generator.integers(1, 4, 200_000), 0.8
    signal = generator.normal(0, ncsnr, len(repeats))
    response = signal + generator.normal(0, 1, len(repeats)) / np.sqrt(repeats)
    r2 = pearson_r(signal[:, None], response[:, None])[0] ** 2
    assert r2 == pytest.approx(float(noise_ceiling([ncsnr], repeats)[0]), abs=0.005)


@pytest.mark.parametrize(
    "ncsnr, repeats", [([-0.1], [3]), ([np.nan], [3]), ([np.inf], [3]), ([0.1], []), ([0.1], [3, 0])]
)
def test_noise_ceiling_refuses(ncsnr: list[float], repeats: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        noise_ceiling(ncsnr, repeats)


def test_noise_normalised_r2_is_the_challenge_score() -> None:
    r = np.array([-0.5, 0.0, 0.3, 0.3, 0.9, 0.2, 0.0])
    ceiling = np.array([0.5, 0.5, 0.36, 0.9, 0.4, 0.0, 0.0])
    expected = []
    for correlation, nc in zip(r, ceiling, strict=True):
        positive = correlation if correlation > 0 else 0.0
        score = positive**2 / (nc if nc > 0 else 1e-14)
        expected.append(1.0 if score > 1 else score)
    np.testing.assert_allclose(noise_normalised_r2(r, ceiling), expected, rtol=1e-12)


@pytest.mark.parametrize("ceiling", [[0.5], [0.5, 40.0], [0.5, -0.1], [0.5, np.nan]])
def test_noise_normalised_r2_refuses(ceiling: list[float]) -> None:
    with pytest.raises(ValueError, match="noise_ceiling"):
        noise_normalised_r2([0.1, 0.2], ceiling)
