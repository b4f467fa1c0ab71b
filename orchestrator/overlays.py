"""Pictures as networks see them: bright where a salience map is high."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from orchestrator.storage import write_whole

GALLERY = 4
"""Pictures with their maps in the report, for each network."""


def overlay(base: UPath, index: int) -> UPath:
    """File of one picture; ``base`` has no ending."""
    return base.with_name(f"{base.name}-{index}.png")


def write_overlays(base: UPath, pictures: NDArray[np.uint8], maps: NDArray[np.float32]) -> list[UPath]:
    """Write each picture, dark where its map is low.

    Args:
        base: place and beginning of the files' names.
        pictures: RGB, ``[n, size, size, 3]``.
        maps: of these pictures, ``[n, size, size]``, >= 0.

    Returns:
        The files, in order.

    Raises:
        StorageError: they cannot be written.
    """
    files = [overlay(base, index) for index in range(len(pictures))]
    for file, picture, salience in zip(files, pictures, maps, strict=True):
        _write(file, picture, salience)
    return files


def _write(path: UPath, picture: NDArray[np.uint8], salience: NDArray[Any]) -> None:
    from PIL import Image

    share = salience / max(float(salience.max()), 1e-12)
    pixels = picture * (0.25 + 0.75 * share[..., None])
    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())
