"""Pictures of the demo set: composites of the two photographs that scikit-learn ships.

Each picture is made of crops, tilted, mirrored, blended along smooth borders and regraded, so that it has the
spectrum, edges and colours of photographs while hundreds of them differ.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = 128
"""Pixels of a side."""

MAX_TILT_DEG = 15.0


def picture(stimulus_id: int, seed: int) -> NDArray[np.uint8]:
    """The picture (128, 128, 3), RGB, of a stimulus: the same for every subject that sees it."""
    rng = np.random.default_rng([seed, stimulus_id])
    image = _scene(rng)
    if rng.random() < 0.5:
        border = _smooth_noise(rng, exponent=2.0)
        image = _blend(image, _scene(rng), _sigmoid(8 * border))
    for _ in range(rng.integers(0, 3)):
        image = _blend(image, _scene(rng), _ellipse(rng))
    return np.round(255 * np.clip(_regrade(image, rng), 0, 1)).astype(np.uint8)


@cache
def _photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(photograph) for photograph in load_sample_images().images)


def _scene(rng: np.random.Generator) -> NDArray[np.float64]:
    """A crop of a photograph, or now and then a cloud of coloured 1/f noise; values in [0, 1]."""
    if rng.random() < 0.12:
        return _cloud(rng)
    photographs = _photographs()
    photograph = photographs[rng.integers(len(photographs))]
    tilt = rng.uniform(-MAX_TILT_DEG, MAX_TILT_DEG)
    side = rng.uniform(0.25, 0.72) * photograph.height
    # The tilted square must lie inside the photograph, or black corners would show.
    reach = side * (np.cos(np.deg2rad(tilt)) + abs(np.sin(np.deg2rad(tilt)))) / 2
    centre = rng.uniform([reach, reach], [photograph.width - reach, photograph.height - reach])
    matrix = _crop_matrix(centre, side, np.deg2rad(tilt), mirrored=rng.random() < 0.5)
    crop = photograph.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(crop, np.float64) / 255


def _crop_matrix(
    centre: NDArray[np.float64], side: float, tilt: float, *, mirrored: bool
) -> tuple[float, float, float, float, float, float]:
    """Pillow's affine map from a pixel of the crop to a point of the photograph."""
    step = side / SIZE
    across = -step if mirrored else step
    a, b = across * np.cos(tilt), -step * np.sin(tilt)
    d, e = across * np.sin(tilt), step * np.cos(tilt)
    half = SIZE / 2
    return (a, b, centre[0] - (a + b) * half, d, e, centre[1] - (d + e) * half)


def _cloud(rng: np.random.Generator) -> NDArray[np.float64]:
    light = _smooth_noise(rng, exponent=1.2)
    tint = rng.uniform(-0.15, 0.15, size=3)
    layers = [0.5 + 0.16 * light + share * (1 + 0.5 * _smooth_noise(rng, exponent=1.6)) for share in tint]
    return np.asarray(np.clip(np.stack(layers, axis=-1), 0, 1))


def _smooth_noise(rng: np.random.Generator, exponent: float) -> NDArray[np.float64]:
    """Noise (SIZE, SIZE), mean 0, variance 1, of amplitude ``1 / frequency ** exponent``."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) / frequency**exponent
    noise = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    return np.asarray((noise - noise.mean()) / noise.std())


def _ellipse(rng: np.random.Generator) -> NDArray[np.float64]:
    """A soft-edged ellipse (SIZE, SIZE) in [0, 1], anywhere in the picture."""
    down, right = np.mgrid[:SIZE, :SIZE] / SIZE
    (y, x), (height, width) = rng.uniform(0.15, 0.85, size=2), rng.uniform(0.1, 0.25, size=2)
    return _sigmoid(12 * (1 - np.hypot((down - y) / height, (right - x) / width)))


def _blend(below: NDArray[np.float64], above: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """``above`` where ``share`` is 1, ``below`` where it is 0."""
    weights = share[..., None]
    return np.asarray(weights * above + (1 - weights) * below)


def _regrade(image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Other exposure, contrast, saturation and colour temperature."""
    grey = image.mean(axis=-1, keepdims=True)
    saturated = grey + rng.uniform(0.4, 1.4) * (image - grey)
    tinted = saturated * rng.uniform(0.85, 1.15, size=3)
    graded = 0.5 + rng.uniform(0.7, 1.3) * (tinted - 0.5) + rng.uniform(-0.12, 0.12)
    return np.asarray(graded)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-values)))
