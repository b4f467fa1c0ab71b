"""How much a mean Pearson r depends on which stimuli were scored: resamples of the stimuli, for all voxels at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Variances that are this small are those of constant columns, but for rounding.
_ROUNDING = 1e-12
# Memory of the bootstrap: 10 arrays of 500 x 1024 doubles, and 500 draws of all stimuli.
_RESAMPLES_AT_A_TIME = 500
_VOXELS_AT_A_TIME = 1024


def score_interval(
    predicted: ArrayLike, measured: ArrayLike, *, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of one model's mean Pearson r over voxels, over resamples of the stimuli.

    It says how much the score depends on which stimuli were shown, at these voxels; nothing of other subjects.

    Args:
        predicted: responses predicted by the model, ``[n_stimuli, n_voxels]``, finite.
        measured: responses to the same stimuli, of voxels in the same order.
        n_resamples: draws of as many stimuli as there are.
        seed: of their generator; the same seed gives the same interval.

    Raises:
        ValueError: shapes that differ, fewer than two stimuli, no voxel, or values that are not finite.
    """
    (resampled,) = bootstrap_means((np.asarray(predicted),), np.asarray(measured), n_resamples, seed)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_means(
    predictions: Sequence[NDArray[Any]], measured: NDArray[Any], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Mean Pearson r over voxels of each prediction in every resample of the stimuli, ``[n_predictions, n_resamples]``.

    Arguments and errors are those of `trainables.analyses.statistics.bootstrap_stimuli`.
    """
    _require_bootstrap(predictions, measured)
    n_stimuli, n_voxels = measured.shape
    generator = np.random.default_rng(seed)
    means = np.zeros((len(predictions), n_resamples))
    for start in range(0, n_resamples, _RESAMPLES_AT_A_TIME):
        part = slice(start, min(start + _RESAMPLES_AT_A_TIME, n_resamples))
        draws = generator.multinomial(n_stimuli, np.full(n_stimuli, 1 / n_stimuli), size=part.stop - start)
        times = draws.astype(np.float64)
        for first in range(0, n_voxels, _VOXELS_AT_A_TIME):
            voxels = slice(first, first + _VOXELS_AT_A_TIME)
            found = _resampled_r(times, [each[:, voxels] for each in predictions], measured[:, voxels])
            means[:, part] += np.stack([r.sum(axis=1) for r in found]) / n_voxels
    return means


def _require_bootstrap(predictions: Sequence[NDArray[Any]], y: NDArray[Any]) -> None:
    shapes = [each.shape for each in predictions]
    if y.ndim != 2 or any(shape != y.shape for shape in shapes) or len(y) < 2 or y.shape[1] == 0:
        raise ValueError(
            f"predictions have shapes {' and '.join(map(str, shapes))} and measured {y.shape}; expected one shape "
            "[n_stimuli, n_voxels] with two stimuli and one voxel at least"
        )
    for name, values in (*zip(("predicted_a", "predicted_b"), predictions, strict=False), ("measured", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinite values; leave out voxels without data, in all of them")


def _resampled_r(
    times: NDArray[np.float64], predictions: Sequence[NDArray[Any]], measured: NDArray[Any]
) -> list[NDArray[np.float64]]:
    """Pearson r of each prediction in every resample, ``[n_resamples, n_voxels]`` each.

    Args:
        times: how often each stimulus was drawn, ``[n_resamples, n_stimuli]``.
        predictions: ``[n_stimuli, n_voxels]`` each.
        measured: ``[n_stimuli, n_voxels]``.
    """
    n = times.shape[1]
    y = _unit_spread(measured)
    y_mean, y_variance = times @ y / n, times @ y**2 / n
    y_variance -= y_mean**2
    correlations = []
    for predicted in predictions:
        x = _unit_spread(predicted)
        x_mean = times @ x / n
        x_variance = times @ x**2 / n - x_mean**2
        covariance = times @ (x * y) / n - x_mean * y_mean
        varies = (x_variance > _ROUNDING) & (y_variance > _ROUNDING)
        scale = np.sqrt(np.where(varies, x_variance * y_variance, 1.0))
        correlations.append(np.where(varies, np.clip(covariance / scale, -1.0, 1.0), 0.0))
    return correlations


def _unit_spread(columns: NDArray[Any]) -> NDArray[np.float64]:
    """Columns with mean 0 and variance 1, so that sums of squares keep their digits; constant ones become 0."""
    wide = np.asarray(columns, dtype=np.float64)
    mean, spread = wide.mean(axis=0), wide.std(axis=0)
    constant = spread <= _ROUNDING * np.abs(mean)
    return np.asarray(np.where(constant, 0.0, (wide - mean) / np.where(constant, 1.0, spread)))
