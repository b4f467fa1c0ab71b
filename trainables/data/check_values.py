"""Checks of the values of responses, whatever the layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 << 20
"""Responses are looked at in blocks of rows of about this size: a file can be larger than the memory."""


def value_problems(responses: NDArray[Any], vertices: NDArray[np.int64] | None = None) -> Iterator[str]:
    """What is wrong with columns of responses: a sentence for each kind of fault.

    Args:
        responses: (n_stimuli, n_voxels).
        vertices: the number (n_voxels,) by which people know each column; its place by default.
    """
    if not len(responses):
        return
    finite, varies = _column_values(responses)
    for bad, what in ((~finite, "hold NaN or infinity in float32"), (finite & ~varies, "are constant")):
        if bad.any():
            first = bad.argmax() if vertices is None else vertices[bad][0]
            yield f"{bad.sum()} of {len(bad)} voxels {what}, the first is vertex {first}"


def _column_values(array: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each column holds finite numbers alone, and whether it varies."""
    n_columns = array.shape[1]
    lowest, highest = np.full(n_columns, np.inf), np.full(n_columns, -np.inf)
    rows = max(1, BLOCK_BYTES // max(1, n_columns * array.itemsize))
    for start in range(0, len(array), rows):
        with np.errstate(over="ignore"):  # a sweep computes in float32: what that cannot hold becomes infinite there
            block = array[start : start + rows].astype(np.float32, copy=False)
        # NaN spreads through minimum and maximum, and infinity is an extreme: the extremes tell about all values.
        lowest, highest = np.minimum(lowest, block.min(axis=0)), np.maximum(highest, block.max(axis=0))
    return np.isfinite(lowest) & np.isfinite(highest), lowest != highest
