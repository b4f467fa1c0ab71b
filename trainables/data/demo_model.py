"""Simulated responses of the demo set: a known image-computable model plus noise of known level.

Early areas pool Gabor energy (Adelson & Bergen 1985) over a receptive field in the contralateral visual
field, as in Kay et al. 2008. Later areas rectify a direction of energies and colours pooled over the field;
the voxels of an ROI share most of it, as those of a category area do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIELD = 64
"""Pixels of a side of what the filters see."""

MAP = 32
"""Points of a side of the maps that responses are computed from: energy varies more slowly than light."""

FREQUENCIES = (3.0, 6.0, 12.0)
"""Cycles per picture."""
N_ORIENTATIONS = 4
N_CHANNELS = len(FREQUENCIES) * N_ORIENTATIONS + 2
"""Energy at each frequency and orientation, red-green and blue-yellow contrast."""

N_FEATURES = 3 * N_CHANNELS
"""Channels pooled over a half of the picture, over its upper and over its lower part."""

RF_SIZE = {"V1": 0.05, "V2": 0.08, "V3": 0.11, "hV4": 0.15}
"""Standard deviation of receptive fields in each area, as a share of the picture's side."""


@dataclass(frozen=True, eq=False)
class EarlyVoxels:
    """Voxels of one early area."""

    weights: NDArray[np.float32]
    """Weight of each channel (n_voxels, N_CHANNELS)."""
    rf_x: NDArray[np.float64]
    """Centres of the receptive fields (n_voxels,), from the picture's left edge, 0, to its right edge, 1."""
    rf_y: NDArray[np.float64]
    """From the upper edge (0) to the lower edge (1)."""
    rf_size: NDArray[np.float64]
    """Standard deviations, as a share of the picture's side."""


def channel_maps(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Local features (n, N_CHANNELS, 32, 32) of pictures (n, 128, 128, 3)."""
    rgb = _halved(np.moveaxis(pictures.astype(np.float32) / 255, -1, 0))
    light = rgb.mean(axis=0)
    spectrum = np.fft.fft2(light - light.mean(axis=(1, 2), keepdims=True))
    energy = [np.abs(np.fft.ifft2(spectrum * gabor)) for gabor in _gabor_spectra()]
    opponent = [np.abs(rgb[0] - rgb[1]), np.abs(rgb[2] - rgb[:2].mean(axis=0))]
    return np.stack([_halved(channel) for channel in (*energy, *opponent)], axis=1).astype(np.float32)


def _halved(maps: NDArray[Any]) -> NDArray[Any]:
    """Means over 2 x 2 neighbours of maps (..., height, width)."""
    rows = maps[..., ::2, :] + maps[..., 1::2, :]
    return np.asarray((rows[..., ::2] + rows[..., 1::2]) / 4)


def _gabor_spectra() -> list[NDArray[np.float64]]:
    """Transfer functions (64, 64) of one-sided Gabor filters: the output's modulus is the energy's root."""
    fy, fx = np.meshgrid(np.fft.fftfreq(FIELD) * FIELD, np.fft.fftfreq(FIELD) * FIELD, indexing="ij")
    spectra = []
    for frequency in FREQUENCIES:
        for angle in np.arange(N_ORIENTATIONS) * np.pi / N_ORIENTATIONS:
            off_x, off_y = fx - frequency * np.cos(angle), fy - frequency * np.sin(angle)
            spectra.append(np.exp(-(off_x**2 + off_y**2) / (2 * (frequency / 2.5) ** 2)))
    return spectra


def early_voxels(area: str, hemisphere: str, n: int, rng: np.random.Generator) -> EarlyVoxels:
    """Voxels of ``V1v``..``V3d`` or ``hV4``: ventral areas see the upper field, dorsal ones the lower."""
    eccentricity = rng.uniform(0.04, 0.40, size=n)
    polar = np.deg2rad(rng.uniform(8, 82, size=n))
    side = 1 if hemisphere == "lh" else -1
    up = {"v": 1.0, "d": -1.0}.get(area[-1], 0.0) or rng.choice((-1.0, 1.0), size=n)
    size = next(size for name, size in RF_SIZE.items() if area.startswith(name))
    orientation = rng.uniform(0, np.pi, size=n)
    octave = rng.uniform(np.log2(FREQUENCIES[0]), np.log2(FREQUENCIES[-1]), size=n)
    return EarlyVoxels(
        weights=_tuning(orientation, octave, colour=rng.uniform(0, 0.5, size=n)),
        rf_x=0.5 + side * eccentricity * np.cos(polar),
        rf_y=0.5 - up * eccentricity * np.sin(polar),
        rf_size=size * rng.uniform(0.8, 1.2, size=n),
    )


def _tuning(
    orientation: NDArray[np.float64], octave: NDArray[np.float64], colour: NDArray[np.float64]
) -> NDArray[np.float32]:
    angles = np.arange(N_ORIENTATIONS) * np.pi / N_ORIENTATIONS
    by_angle = np.exp(2 * np.cos(2 * (orientation[:, None] - angles)) - 2)
    by_octave = np.exp(-((octave[:, None] - np.log2(FREQUENCIES)) ** 2))
    energy = (by_octave[:, :, None] * by_angle[:, None, :]).reshape(len(orientation), -1)
    energy /= energy.sum(axis=1, keepdims=True)
    opponent = np.repeat(colour[:, None] / 2, 2, axis=1)
    return np.hstack([energy, opponent]).astype(np.float32)


def early_signal(maps: NDArray[np.float32], voxels: EarlyVoxels) -> NDArray[np.float64]:
    """Noise-free (n_stimuli, n_voxels): channel maps, pooled over the receptive field and weighted."""
    axis = (np.arange(MAP) + 0.5) / MAP
    across = np.exp(-((axis - voxels.rf_x[:, None]) ** 2) / (2 * voxels.rf_size[:, None] ** 2))
    down = np.exp(-((axis - voxels.rf_y[:, None]) ** 2) / (2 * voxels.rf_size[:, None] ** 2))
    rows = np.einsum("ncyx,vx->ncyv", maps, across.astype(np.float32), optimize=True)
    pooled = np.einsum("ncyv,vy->ncv", rows, down.astype(np.float32), optimize=True)
    # Compression: energy saturates in visual cortex (Kay et al. 2013).
    return standardise(np.einsum("ncv,vc->nv", np.sqrt(pooled), voxels.weights))


def pooled_features(maps: NDArray[np.float32], hemisphere: str) -> NDArray[np.float64]:
    """Means (n_stimuli, N_FEATURES) over the contralateral half of the maps, its upper and its lower part."""
    half = maps[..., MAP // 2 :] if hemisphere == "lh" else maps[..., : MAP // 2]
    parts = [half, half[..., : MAP // 2, :], half[..., MAP // 2 :, :]]
    return standardise(np.hstack([np.sqrt(part.mean(axis=(2, 3), dtype=np.float64)) for part in parts]))


def later_signal(
    features: NDArray[np.float64], n: int, common: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Noise-free responses (n_stimuli, n) that rectify a direction of pooled features.

    Args:
        features: what `pooled_features` gives (n_stimuli, N_FEATURES).
        n: number of voxels.
        common: direction (N_FEATURES,) that the ROI's voxels share.
        rng: draws each voxel's own direction and threshold.
    """
    own = rng.standard_normal((features.shape[1], n))
    drive = features @ (common[:, None] + 0.6 * own) / np.sqrt(features.shape[1])
    threshold = rng.uniform(-0.5, 0.3, size=n)
    return standardise(np.maximum(standardise(drive) - threshold, 0))


def add_noise(
    signal: NDArray[np.float64],
    ceiling: NDArray[np.float64],
    repeats: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Responses as measured, and the signal-to-noise ratio behind them.

    One presentation adds noise of variance N to a signal of variance 1, so ncsnr = sqrt(1/N), and the mean of
    k presentations keeps N/k of it: the noise ceiling 1 / (1 + N mean(1/k)) is exact.

    Args:
        signal: standardised, (n_stimuli, n_voxels).
        ceiling: wanted noise ceilings (n_voxels,) in [0, 1); 0 leaves noise alone.
        repeats: presentations (n_stimuli,).
        rng: draws the noise.

    Returns:
        Z-scored responses (n_stimuli, n_voxels) and ncsnr (n_voxels,), float32.
    """
    blind = ceiling == 0
    share = np.where(blind, 0.5, ceiling)
    noise_variance = (1 / share - 1) / np.mean(1 / repeats)
    noise = rng.standard_normal(signal.shape) * np.sqrt(noise_variance / repeats[:, None])
    responses = standardise(np.where(blind, 0, signal) + noise)
    ncsnr = np.where(blind, 0, np.sqrt(1 / noise_variance))
    return responses.astype(np.float32), ncsnr.astype(np.float32)


def standardise(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with mean 0 and variance 1."""
    columns = np.asarray(columns, np.float64)
    return np.asarray((columns - columns.mean(axis=0)) / columns.std(axis=0))
