"""Comparisons against SciPy, closed forms, naive loops and null simulations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from trainables.analyses import bootstrap, statistics
from trainables.analyses.statistics import benjamini_hochberg, bootstrap_stimuli, compare_over, compare_paired
from trainables.encoding.scores import pearson_r

PROTOCOL = "nested, test stimuli, subjects"


def _scores(n: int, effect: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    b = generator.uniform(0.3, 0.5, n)
    return b + generator.normal(effect, 0.03, n), b


def _mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a - b))


@pytest.mark.parametrize("n", [2, 8, 40])
def test_t_test_is_scipys(n: int) -> None:
    a, b = _scores(n)
    found = compare_paired(a, b, protocol=PROTOCOL)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.n == n
    assert found.mean_difference == pytest.approx(np.mean(a - b))
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (found.p_corrected, found.p_sign_flip_corrected) == (found.p, found.p_sign_flip)
    assert (found.protocol, found.correction) == (PROTOCOL, "none")


@pytest.mark.parametrize("n, effect", [(2, 0.02), (5, 0.0), (8, 0.02), (10, 0.01)])
def test_sign_flip_of_few_pairs_is_scipys_exact_test(n: int, effect: float) -> None:
    a, b = _scores(n, effect)
    expected = stats.permutation_test((a, b), _mean_difference, permutation_type="samples", n_resamples=4096)
    assert compare_paired(a, b, protocol=PROTOCOL).p_sign_flip == pytest.approx(expected.pvalue, abs=1e-12)


def test_differences_of_one_sign_reach_the_smallest_p() -> None:
    a, b = np.linspace(0.4, 0.5, 8), np.linspace(0.35, 0.38, 8)
    assert compare_paired(a, b, protocol=PROTOCOL).p_sign_flip == 2 / 2**8


def test_equal_sums_count_as_equally_far_despite_rounding() -> None:
    """Of (0.1, 0.2, -0.3): the observed sum is 0, and every other one is at least as far."""
    assert compare_paired([0.1, 0.2, -0.3], [0.0] * 3, protocol=PROTOCOL).p_sign_flip == 1.0
    # 0.1 + 0.2 + 0.3 = 0.6 is reached by all plus and all minus alone.
    assert compare_paired([0.1, 0.2, 0.3], [0.0] * 3, protocol=PROTOCOL).p_sign_flip == 0.25


def test_random_flips_agree_with_all_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _scores(12, 0.01)
    exact = compare_paired(a, b, protocol=PROTOCOL).p_sign_flip
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 5)
    drawn = compare_paired(a, b, protocol=PROTOCOL, n_flips=20_000)
    assert 0.01 < exact < 0.9
    assert drawn.p_sign_flip == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
    assert drawn.p_sign_flip != exact, "this one is drawn"
    assert drawn == compare_paired(a, b, protocol=PROTOCOL, n_flips=20_000), "by a seeded generator"
    monkeypatch.setattr(statistics, "_SIGNS_AT_A_TIME", 100)
    assert drawn == compare_paired(a, b, protocol=PROTOCOL, n_flips=20_000), "in parts of any size"


def test_random_flips_never_give_p_zero() -> None:
    b = np.linspace(0.1, 0.2, 60)
    assert compare_paired(b + np.linspace(1, 2, 60), b, protocol=PROTOCOL, n_flips=99).p_sign_flip == 0.01


def test_a_single_pair_and_equal_differences_have_no_t() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = compare_paired([0.5], [0.4], protocol=PROTOCOL)
        shifted = compare_paired(np.arange(4) / 10 + 0.03, np.arange(4) / 10, protocol=PROTOCOL)
        equal = compare_paired(np.arange(4) / 10 + 1e-17, np.arange(4) / 10, protocol=PROTOCOL)
    for found in (single, shifted, equal):
        assert np.isnan([found.t, found.p, found.p_corrected, *found.interval]).all()
    assert single.mean_difference == pytest.approx(0.1)
    assert shifted.mean_difference == pytest.approx(0.03)
    assert equal.mean_difference == 0.0
    assert (single.p_sign_flip, shifted.p_sign_flip, equal.p_sign_flip) == (1.0, 2 / 2**4, 1.0)


def test_p_values_without_an_effect_are_uniform() -> None:
    generator = np.random.default_rng(11)
    found = [compare_paired(*generator.normal(size=(2, 8)), protocol=PROTOCOL) for _ in range(1000)]
    assert stats.kstest([each.p for each in found], "uniform").pvalue > 0.01
    # The exact test has steps of 2 / 2^8; it must not reject too often.
    flips = np.array([each.p_sign_flip for each in found])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(flips <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 1000) + 2 / 2**8)
    covered = np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found])
    assert covered == pytest.approx(0.95, abs=0.021)


@pytest.mark.parametrize(
    "a, b, message", [([], [], "at least one"), ([1.0, 2.0], [1.0], "shape"), ([np.nan, 1.0], [1.0, 1.0], "NaN")]
)
def test_compare_paired_refuses(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(a, b, protocol=PROTOCOL)


def test_benjamini_hochberg_is_scipys() -> None:
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(0, 1, 23) ** 3
        p[3] = p[7]
        np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12)
    assert benjamini_hochberg([]).shape == (0,)


def test_a_comparison_without_an_answer_still_counts() -> None:
    adjusted = benjamini_hochberg([0.01, np.nan, 0.04])
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06], rtol=1e-12)
    np.testing.assert_allclose(adjusted[[0, 2]], stats.false_discovery_control([0.01, 1.0, 0.04])[[0, 2]])


@pytest.mark.parametrize("p", [[1.1], [-0.1, 0.5], [[0.5]]])
def test_benjamini_hochberg_refuses(p: list[float]) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        benjamini_hochberg(p)


def test_comparisons_over_rois_are_corrected_together() -> None:
    rois = {"V1v": _scores(8, 0.05), "hV4": _scores(8, 0.0, 1), "EBA": _scores(7, 0.02, 2), "OFA": _scores(1)}
    found = compare_over(rois, protocol=PROTOCOL)
    assert list(found) == list(rois)
    plain = {name: compare_paired(a, b, protocol=PROTOCOL) for name, (a, b) in rois.items()}
    assert [found[name].p for name in rois] == pytest.approx([plain[name].p for name in rois], nan_ok=True)
    expected = stats.false_discovery_control(np.nan_to_num([each.p for each in plain.values()], nan=1.0))
    assert [each.p_corrected for each in found.values()] == pytest.approx([*expected[:3], np.nan], nan_ok=True)
    expected = stats.false_discovery_control([each.p_sign_flip for each in plain.values()])
    assert [each.p_sign_flip_corrected for each in found.values()] == pytest.approx(expected)
    assert {each.correction for each in found.values()} == {"Benjamini-Hochberg over 4 comparisons"}
    assert [each.n for each in found.values()] == [8, 8, 7, 1]


def _responses(n_stimuli: int = 40, n_voxels: int = 6, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    measured = generator.normal(size=(n_stimuli, n_voxels))
    a, b = (measured + each * generator.normal(size=measured.shape) for each in (noise, 1.5))
    return 3 + a, 100 * b, measured


def test_bootstrap_is_a_naive_loop_over_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, measured = _responses()
    a[:, 2], measured[:, 4] = 0.1, 7.0  # voxels that do not vary
    found = bootstrap_stimuli(a, b, measured, protocol=PROTOCOL, n_resamples=60, seed=3)
    draws = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=60)
    differences = []
    for times in draws:
        rows = np.repeat(np.arange(40), times)
        differences.append(np.mean(pearson_r(a[rows], measured[rows]) - pearson_r(b[rows], measured[rows])))
    assert found.interval == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), rel=1e-9)
    assert found.mean_difference == pytest.approx(np.mean(pearson_r(a, measured) - pearson_r(b, measured)))
    assert (found.n_stimuli, found.n_voxels, found.n_resamples) == (40, 6, 60)
    assert (found.protocol, found.correction) == (PROTOCOL, "none")
    monkeypatch.setattr(bootstrap, "_RESAMPLES_AT_A_TIME", 7)
    monkeypatch.setattr(bootstrap, "_VOXELS_AT_A_TIME", 4)
    again = bootstrap_stimuli(a, b, measured, protocol=PROTOCOL, n_resamples=60, seed=3)
    assert again.interval == pytest.approx(found.interval, rel=1e-9), "whatever is held at a time"


def test_bootstrap_agrees_with_scipys() -> None:
    a, b, measured = _responses(n_voxels=1)

    def difference(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
        return float(np.corrcoef(x, z)[0, 1] - np.corrcoef(y, z)[0, 1])

    arrays = (a[:, 0], b[:, 0], measured[:, 0])
    expected = stats.bootstrap(
        arrays, difference, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=1
    ).confidence_interval
    found = bootstrap_stimuli(a, b, measured, protocol=PROTOCOL)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.025)


def test_bootstrap_finds_a_better_model_and_no_other() -> None:
    a, b, measured = _responses(n_stimuli=300, n_voxels=5, noise=0.8)
    assert bootstrap_stimuli(a, b, measured, protocol=PROTOCOL, n_resamples=300).interval[0] > 0
    assert bootstrap_stimuli(b, a, measured, protocol=PROTOCOL, n_resamples=300).interval[1] < 0
    same = bootstrap_stimuli(a, 2 * a + 1, measured, protocol=PROTOCOL, n_resamples=300)
    assert (same.mean_difference, *same.interval) == pytest.approx((0, 0, 0), abs=1e-12)


def test_two_stimuli_are_drawn_without_a_warning() -> None:
    """Half of the resamples hold one stimulus twice; nothing varies there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_stimuli([[0.0], [1.0]], [[1.0], [0.0]], [[0.0], [1.0]], protocol=PROTOCOL, n_resamples=50)
    assert found.interval == (0.0, 2.0)


@pytest.mark.parametrize("shapes", [((5, 2), (5, 3)), ((5,), (5,)), ((1, 2), (1, 2)), ((5, 0), (5, 0))])
def test_bootstrap_refuses_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="two stimuli and one voxel"):
        bootstrap_stimuli(np.ones(shapes[0]), np.ones(shapes[0]), np.ones(shapes[1]), protocol=PROTOCOL)


def test_bootstrap_refuses_damaged_data() -> None:
    a, b, measured = _responses()
    b[3, 2] = np.inf
    with pytest.raises(ValueError, match="predicted_b"):
        bootstrap_stimuli(a, b, measured, protocol=PROTOCOL)
