"""Pictures of one colour that tell who they are, and responses that follow from the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEP = 8
"""Between neighbouring codes' colours: more than JPEG loses."""
LEVELS = 256 // STEP

Respond = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""From codes (n_stimuli, 1) and voxels (1, n_voxels) to responses (n_stimuli, n_voxels)."""


def colour_of(code: int) -> tuple[int, int, int]:
    """The colour of a picture; codes run from 0 to 32767."""
    return code % LEVELS * STEP, code // LEVELS % LEVELS * STEP, code // LEVELS**2 * STEP


def code_of(path: Path) -> int:
    """Inverse of `colour_of`, from the picture's middle."""
    with Image.open(path) as image:
        pixel = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    red, green, blue = (round(channel / STEP) for channel in pixel)
    return red + LEVELS * (green + LEVELS * blue)


def write_picture(path: Path, code: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), colour_of(code)).save(path, quality=95)


def signal(codes: NDArray[Any], voxels: NDArray[Any]) -> NDArray[Any]:
    """Responses that no other picture or voxel shares: a mistaken row or column shows."""
    values: NDArray[Any] = np.sin(codes * 12.9898 + voxels * 78.233) * 43758.5453 % 1
    return values


def colourful(codes: NDArray[Any], voxels: NDArray[Any]) -> NDArray[Any]:
    """Responses linear in the picture's colour: what any network's features can predict."""
    channels = (codes % LEVELS, codes // LEVELS % LEVELS, codes // LEVELS**2)
    weighted = [channel * np.cos(voxels * (1.3 + number) + number) for number, channel in enumerate(channels)]
    values: NDArray[Any] = np.sum(weighted, axis=0) / LEVELS
    return values


def write_colours(root: Path, each: int) -> Path:
    """A labelled set of two classes, ``blue`` and ``red``, that colour tells apart."""
    generator = np.random.default_rng(0)
    for label, colour in enumerate(("blue", "red")):
        (root / colour).mkdir(parents=True)
        for number in range(each):
            pixels = generator.integers(0, 90, (256, 256, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * label] += 120
            Image.fromarray(pixels).save(root / colour / f"{number:02d}.png")
    return root
