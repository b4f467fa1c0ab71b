"""Is one method better than another: paired comparisons, and how sure one may be of them.

Over subjects: `compare_paired`, and `compare_over` for several ROIs at once. Over stimuli, for the voxels of one
target: `bootstrap_stimuli`. Every result carries its n, its protocol and its correction, so that a table can say them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables.analyses.bootstrap import bootstrap_means
from trainables.encoding.scores import pearson_r

EXACT_UP_TO = 16
"""Most pairs whose sign flips are enumerated, all 65,536 of them; more pairs draw flips at random."""

UNCORRECTED = "none"
BENJAMINI_HOCHBERG = "Benjamini-Hochberg"

_CONFIDENCE = 0.95
# Sums of differences that are this near, as a share of the largest sum, differ by rounding alone.
_ROUNDING = 1e-12
_SIGNS_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class BootstrapInterval:
    """How much the difference between two models' encoding accuracies depends on which stimuli were scored."""

    mean_difference: float
    """Pearson r of a - r of b, averaged over voxels, on the stimuli as they are."""
    interval: tuple[float, float]
    """95 % percentile interval over resamples of the stimuli, at these voxels."""
    n_stimuli: int
    n_voxels: int
    n_resamples: int
    protocol: str
    """Which split and which stimuli."""
    correction: str = UNCORRECTED


@dataclass(frozen=True)
class PairedComparison:
    """Scores of two methods for the same subjects (or stimuli), a less b."""

    n: int
    """Pairs."""
    mean_difference: float
    """Mean of a - b, in the scores' unit."""
    interval: tuple[float, float]
    """95 % confidence interval of the mean difference, from Student's t; NaN where ``t`` is."""
    t: float
    """Of the paired t-test; NaN for a single pair and where all differences are equal: without a spread there is
    nothing to measure the mean by."""
    p: float
    """Of the paired t-test, two-sided; NaN where ``t`` is."""
    p_sign_flip: float
    """Of the sign-flip permutation test, two-sided. With n pairs it is never below ``2 / 2^n``: 1 for a single pair,
    0.0078 for 8 subjects."""
    p_corrected: float
    """``p`` after ``correction``; ``p`` itself where there was none."""
    p_sign_flip_corrected: float
    """``p_sign_flip`` after ``correction``."""
    protocol: str
    """Where the scores come from: which split, which stimuli, what the pairs are."""
    correction: str = UNCORRECTED
    """``none``, or the method and over how many comparisons."""


def compare_paired(
    scores_a: ArrayLike, scores_b: ArrayLike, *, protocol: str = "not given", n_flips: int = 10_000, seed: int = 0
) -> PairedComparison:
    """Compare two methods by the scores that they gave for the same subjects.

    The sign-flip test asks how often a mean at least as far from 0 comes about if each difference had its sign by
    chance. Up to `EXACT_UP_TO` pairs every assignment of signs is counted, for more ``n_flips`` random ones, with the
    observed one among them (Phipson & Smyth 2010, doi 10.2202/1544-6115.1585).

    Args:
        scores_a: ``[n]``, finite.
        scores_b: ``[n]``, finite, in the same order.
        protocol: see `PairedComparison`.
        n_flips: random assignments of signs.
        seed: of their generator; the same seed gives the same p.

    Raises:
        ValueError: no pair, scores of different shapes, or a score that is not finite.
    """
    differences = _differences(scores_a, scores_b)
    n, mean = len(differences), float(differences.mean())
    interval, t, p = _student(differences)
    p_sign_flip = _sign_flip(differences, n_flips, seed)
    return PairedComparison(n, mean, interval, t, p, p_sign_flip, p, p_sign_flip, protocol)


def compare_over(
    scores: Mapping[str, tuple[ArrayLike, ArrayLike]], *, protocol: str, n_flips: int = 10_000, seed: int = 0
) -> dict[str, PairedComparison]:
    """One comparison for each ROI, with p-values corrected over all of them.

    Args:
        scores: by name of the ROI, scores of a and of b, each ``[n of that ROI]``.
        protocol: see `PairedComparison`.
        n_flips: see `compare_paired`.
        seed: likewise.

    Returns:
        One comparison for each name, in the order given; each p is corrected over all names by
        `benjamini_hochberg`, the t-tests' apart from the sign flips'.

    Raises:
        ValueError: see `compare_paired`.
    """
    found = {
        name: compare_paired(a, b, protocol=protocol, n_flips=n_flips, seed=seed) for name, (a, b) in scores.items()
    }
    correction = f"{BENJAMINI_HOCHBERG} over {len(found)} comparisons"
    corrected = benjamini_hochberg([each.p for each in found.values()])
    flips = benjamini_hochberg([each.p_sign_flip for each in found.values()])
    return {
        name: replace(each, p_corrected=float(p), p_sign_flip_corrected=float(flip), correction=correction)
        for (name, each), p, flip in zip(found.items(), corrected, flips, strict=True)
    }


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for the false discovery rate.

    With the m p-values in ascending order, ``min over k >= i of p_k m / k``. A NaN (a comparison without an answer)
    stays NaN and still counts as one of the m: leaving it out would make the others look better.

    Args:
        p_values: ``[m]``, each in [0, 1] or NaN.

    Returns:
        float64 ``[m]``, in the order given.

    Raises:
        ValueError: not one-dimensional, or a value outside [0, 1].

    Source: Benjamini & Hochberg 1995 (doi 10.1111/j.2517-6161.1995.tb02031.x).
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise ValueError(f"p_values are {p}; expected one dimension of numbers from 0 to 1")
    missing = np.isnan(p)
    order = np.argsort(np.where(missing, 1.0, p), kind="stable")
    scaled = np.where(missing, 1.0, p)[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    adjusted[missing] = np.nan
    return adjusted


def bootstrap_stimuli(
    predicted_a: ArrayLike,
    predicted_b: ArrayLike,
    measured: ArrayLike,
    *,
    protocol: str,
    n_resamples: int = 2000,
    seed: int = 0,
) -> BootstrapInterval:
    """95 % interval of the difference between two models' encoding accuracies at one target.

    Stimuli are drawn with replacement, the same ones for both models and for all voxels, because noise and pictures
    are shared by neighbouring voxels: these are not independent, whereas stimuli are. A voxel that does not vary in a
    resample scores 0 there, as in `trainables.encoding.scores.pearson_r`.

    Memory is a few hundred MB at most beyond the arguments, for any number of voxels and resamples.

    Args:
        predicted_a: responses predicted by one model, ``[n_stimuli, n_voxels]``, finite.
        predicted_b: by the other.
        measured: responses to the same stimuli, of voxels in the same order.
        protocol: see `BootstrapInterval`.
        n_resamples: draws of as many stimuli as there are.
        seed: of their generator; the same seed gives the same interval.

    Raises:
        ValueError: shapes that differ, fewer than two stimuli, no voxel, or values that are not finite.
    """
    a, b, y = (np.asarray(each) for each in (predicted_a, predicted_b, measured))
    of_a, of_b = bootstrap_means((a, b), y, n_resamples, seed)
    difference = float((pearson_r(a, y) - pearson_r(b, y)).mean())
    n_stimuli, n_voxels = y.shape
    resampled = of_a - of_b
    low, high = np.quantile(resampled, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return BootstrapInterval(difference, (float(low), float(high)), n_stimuli, n_voxels, n_resamples, protocol)


def _differences(scores_a: ArrayLike, scores_b: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"scores have shapes {a.shape} and {b.shape}; expected one shape [n], with at least one pair")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores hold NaN or infinite values; leave out subjects without a score, in both methods")
    differences = a - b
    # Differences that are equal (or 0) but for the rounding of the scores are equal (or 0).
    rounding = _ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    if np.ptp(differences) <= rounding:
        mean = differences.mean()
        return np.full_like(differences, 0.0 if abs(mean) <= rounding else mean)
    return differences


def _student(differences: NDArray[np.float64]) -> tuple[tuple[float, float], float, float]:
    """95 % interval of the mean, t and two-sided p."""
    n = len(differences)
    if n < 2 or np.ptp(differences) == 0:
        return (np.nan, np.nan), np.nan, np.nan
    from scipy import special  # here, since a machine that only trains may lack it

    mean, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(n))
    t = mean / error
    half_width = float(special.stdtrit(n - 1, (1 + _CONFIDENCE) / 2)) * error
    return (mean - half_width, mean + half_width), t, float(2 * special.stdtr(n - 1, -abs(t)))


def _sign_flip(differences: NDArray[np.float64], n_flips: int, seed: int) -> float:
    n = len(differences)
    least = abs(differences.sum()) - _ROUNDING * np.abs(differences).sum()
    if n <= EXACT_UP_TO:
        # A flip of all signs gives the same absolute sum: the first sign can stay as it is.
        sums = differences[:1]
        for difference in differences[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= least))
    generator = np.random.default_rng(seed)
    step = max(1, _SIGNS_AT_A_TIME // n)
    as_far = 0
    for start in range(0, n_flips, step):
        signs = generator.integers(0, 2, size=(min(step, n_flips - start), n)) * 2.0 - 1.0
        as_far += int(np.sum(np.abs(signs @ differences) >= least))
    return (as_far + 1) / (n_flips + 1)
