from __future__ import annotations

import numpy as np
import pytest

from trainables.data import demo_model as model


def grating(frequency: float, angle: float, phase: float) -> np.ndarray:
    """A sinusoid (128, 128, 3) whose bars are perpendicular to the direction ``angle``."""
    y, x = np.mgrid[:128, :128] / 128
    wave = np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return np.repeat((127 + 100 * wave)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("f", range(3))
@pytest.mark.parametrize("a", range(4))
def test_energy_prefers_its_frequency_and_orientation(f: int, a: int) -> None:
    angle = a * np.pi / 4
    maps = model.channel_maps(np.stack([grating(model.FREQUENCIES[f], angle, phase) for phase in (0, 1, 2)]))
    centre = maps[:, :-2, 8:24, 8:24].mean(axis=(2, 3))
    assert (centre.argmax(axis=1) == f * model.N_ORIENTATIONS + a).all()


def test_energy_ignores_the_phase() -> None:
    maps = model.channel_maps(np.stack([grating(6, 0.0, phase) for phase in np.linspace(0, 2 * np.pi, 8)]))
    preferred = maps[:, model.N_ORIENTATIONS, 16, 16]
    assert preferred.std() < 0.02 * preferred.mean()


def test_colour_channels_ignore_grey() -> None:
    grey, red, blue = np.full((3, 128, 128, 3), 100, np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    opponent = model.channel_maps(np.stack([grey, red, blue]))[:, -2:, 0, 0]
    assert opponent[0] == pytest.approx(0, abs=1e-6)
    assert opponent[1, 0] == pytest.approx(100 / 255, abs=1e-5)
    assert opponent[2] == pytest.approx([0, 100 / 255], abs=1e-5)


def test_early_signal_is_the_pooled_energy() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((5, model.N_CHANNELS, 32, 32), dtype=np.float32)
    voxels = model.early_voxels("V2d", "rh", 3, rng)
    expected = np.zeros((5, 3))
    for v in range(3):
        for c in range(model.N_CHANNELS):
            pooled = np.zeros(5)
            for row in range(32):
                for column in range(32):
                    x, y = (column + 0.5) / 32 - voxels.rf_x[v], (row + 0.5) / 32 - voxels.rf_y[v]
                    pooled += np.exp(-(x**2 + y**2) / (2 * voxels.rf_size[v] ** 2)) * maps[:, c, row, column]
            expected[:, v] += voxels.weights[v, c] * np.sqrt(pooled)
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    assert model.early_signal(maps, voxels) == pytest.approx(expected, abs=1e-4)


def test_later_signal_sees_its_half_alone_and_is_rectified() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((200, model.N_CHANNELS, 32, 32), dtype=np.float32)
    features = model.pooled_features(maps, "lh")
    maps[..., :16] = 0  # the left half of the picture belongs to the right hemisphere
    assert np.array_equal(model.pooled_features(maps, "lh"), features)
    signal = model.later_signal(features, 6, rng.standard_normal(model.N_FEATURES), rng)
    floor = np.isclose(signal, signal.min(axis=0)).mean(axis=0)
    assert ((floor > 0.2) & (floor < 0.75)).all()


def test_noise_has_the_level_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    n = 40_000
    repeats = rng.choice((1, 2, 3), size=n)
    signal = model.standardise(rng.standard_normal((n, 3)))
    ceiling = np.array([0.2, 0.6, 0.0])
    responses, ncsnr = model.add_noise(signal, ceiling, repeats, rng)
    r = np.array([np.corrcoef(signal[:, v], responses[:, v])[0, 1] for v in range(3)])
    assert r == pytest.approx(np.sqrt(ceiling), abs=0.02)
    assert ncsnr**2 / (ncsnr**2 + np.mean(1 / repeats)) == pytest.approx(ceiling, abs=1e-6)
    # A stimulus that was shown once is noisier by the factor 3 than one that was shown three times.
    shares = responses[:, 1] * np.sqrt(1 / ceiling[1]) - signal[:, 1]
    assert shares[repeats == 1].var() / shares[repeats == 3].var() == pytest.approx(3, rel=0.1)
