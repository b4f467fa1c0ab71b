"""Encoding accuracy: how well predicted responses match measured ones, voxel by voxel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A column whose spread is below this share of its size varies by rounding alone.
_CONSTANT = 1e-13
# Stands for a noise ceiling of zero, as in the Algonauts 2023 challenge, so that the ratio exists.
_SMALLEST_CEILING = 1e-14


def pearson_r(predicted: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation over stimuli, one per voxel.

    A voxel whose predictions or measured responses do not vary over the stimuli gets 0, not NaN: a prediction
    that ignores the stimulus explains nothing, and one such voxel must not erase the mean of its ROI. NaN in
    either argument stays NaN, because it means damaged data.

    Args:
        predicted: ``[n_stimuli, n_voxels]``.
        measured: ``[n_stimuli, n_voxels]``.

    Returns:
        r in [-1, 1], float64 ``[n_voxels]``.

    Raises:
        ValueError: shapes that differ or are not two-dimensional, or fewer than two stimuli.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"predicted has shape {x.shape} and measured {y.shape}; expected one shape [n_stimuli, n_voxels]"
        )
    if len(x) < 2:
        raise ValueError(f"predicted holds {len(x)} stimuli; a correlation needs at least 2")
    (x, x_varies), (y, y_varies) = _unit_columns(x), _unit_columns(y)
    r = np.clip((x * y).sum(axis=0), -1.0, 1.0)
    return np.where(x_varies & y_varies, r, 0.0)


def _unit_columns(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Columns centred and scaled to norm 1, and which of them vary (NaN counts as varying)."""
    mean = columns.mean(axis=0)
    centred = columns - mean
    norm = np.sqrt((centred**2).sum(axis=0))
    constant = norm <= _CONSTANT * np.abs(mean) * np.sqrt(len(columns))
    return centred / np.where(constant, 1.0, norm), ~constant


def noise_ceiling(ncsnr: ArrayLike, repeats: ArrayLike) -> NDArray[np.float32]:
    """Share of a voxel's variance that the stimulus can explain, for responses averaged over repeats.

    ``NC = ncsnr² / (ncsnr² + mean over stimuli of 1 / repeats)``, which for one to three repeats is the
    Natural Scenes Dataset's ``(n3/3 + n2/2 + n1) / (n1 + n2 + n3)``.

    Args:
        ncsnr: noise-ceiling signal-to-noise ratio (standard deviations), ``[n_voxels]``, >= 0.
        repeats: how often each scored stimulus was shown, int ``[n_stimuli]``, >= 1.

    Returns:
        float32 ``[n_voxels]`` in [0, 1).

    Raises:
        ValueError: no stimulus, a repeat below 1, or an ncsnr that is negative or not finite.

    Source: Allen et al. 2022 (doi 10.1038/s41593-021-00962-x).
    """
    snr, shown = np.asarray(ncsnr, dtype=np.float64), np.asarray(repeats)
    if shown.size == 0 or not np.all(shown >= 1):
        raise ValueError(f"repeats holds {shown.min() if shown.size else 'no stimulus'}; expected 1 or more for each")
    if not np.all(np.isfinite(snr) & (snr >= 0)):
        raise ValueError("ncsnr holds a negative or non-finite value; expected a ratio >= 0 for every voxel")
    noise_variance = np.mean(1.0 / shown)
    return (snr**2 / (snr**2 + noise_variance)).astype(np.float32)


def noise_normalised_r2(r: ArrayLike, noise_ceiling: ArrayLike) -> NDArray[np.float64]:
    """Explained share of the explainable variance, one per voxel: the Algonauts 2023 challenge score.

    Negative r counts as 0; ``r² / NC`` is capped at 1; a noise ceiling of 0 stands for 1e-14, so such a voxel
    scores 0 or 1. The challenge's summary is the median over voxels.

    Args:
        r: Pearson r, ``[n_voxels]``.
        noise_ceiling: share of variance, ``[n_voxels]`` in [0, 1].

    Returns:
        float64 ``[n_voxels]`` in [0, 1].

    Raises:
        ValueError: shapes that differ, or a noise ceiling outside [0, 1].
    """
    correlation, ceiling = np.asarray(r, dtype=np.float64), np.asarray(noise_ceiling, dtype=np.float64)
    if correlation.shape != ceiling.shape:
        raise ValueError(f"r has shape {correlation.shape} and noise_ceiling {ceiling.shape}; expected the same")
    if not np.all((ceiling >= 0) & (ceiling <= 1)):
        raise ValueError("noise_ceiling holds a value outside 0 to 1; expected a share of variance, not per cent")
    explainable = np.where(ceiling == 0, _SMALLEST_CEILING, ceiling)
    return np.minimum(np.maximum(correlation, 0.0) ** 2 / explainable, 1.0)
