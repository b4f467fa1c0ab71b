"""Stimuli as one uint8 array file per subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

from trainables.data.dataset import SubjectData
from trainables.data.decoding import DECODER_VERSION, Progress, decode_once
from trainables.data.files import FaultyFileError
from trainables.errors import DataError


def decode_stimuli(
    paths: Sequence[UPath], cache_dir: Path, *, size: int = 224, progress: Progress | None = None
) -> NDArray[np.uint8]:
    """Images as a read-only memory map, uint8 (n, size, size, 3), RGB; built once by `decode_once`.

    Each image is resized to a square, without crop, bilinearly with antialiasing, as torchvision's ``Resize``
    does with a PIL image.

    Raises:
        FaultyFileError: an image is missing, truncated or of a kind that does not decode to 8-bit RGB.
        StorageError: ``cache_dir`` cannot be written, as when the disk is full; nothing is left behind.
        DataError: no path given.
    """
    if not paths:
        raise DataError("no stimulus to decode; expected at least one image")

    def shrink(image: Image.Image) -> Image.Image:
        return image.resize((size, size), Image.Resampling.BILINEAR)

    return decode_once(paths, cache_dir, "stimuli", f"{DECODER_VERSION}:{size}", shrink, size, progress)


def require_one_picture_per_id(subject: SubjectData, stimuli: NDArray[np.uint8]) -> None:
    """Refuse an id that two different pictures have: results by stimulus would mix them.

    Args:
        subject: whose stimuli these are.
        stimuli: decoded, uint8 (n_stimuli, height, width, 3).

    Raises:
        FaultyFileError: there is such an id.
    """
    ids = subject.stimulus_ids
    repeated = np.flatnonzero(
        np.isin(ids, ids[np.setdiff1d(np.arange(len(ids)), np.unique(ids, return_index=True)[1])])
    )
    first: dict[int, int] = {}
    for row in repeated.tolist():
        other = first.setdefault(int(ids[row]), row)
        if not np.array_equal(stimuli[row], stimuli[other]):
            raise FaultyFileError(
                subject.image_paths[row],
                f"shows another picture than {subject.image_paths[other]}, which has the same id {ids[row]}",
                "give every picture its own id",
            )
