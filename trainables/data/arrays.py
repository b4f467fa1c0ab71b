"""What each array of a data set must look like: shape, type and range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.files import FaultyFileError


def check_responses(array: NDArray[Any], path: UPath, n_stimuli: int) -> NDArray[np.float32]:
    """The array itself if it is float32 (n_stimuli, n_vertices); its values are not looked at.

    Raises:
        FaultyFileError: another type, another number of dimensions, or not a row for each image.
    """
    if array.ndim != 2:
        remedy = "save it as (n_stimuli, n_vertices)"
        raise FaultyFileError(path, f"the shape is {array.shape}; expected two dimensions", remedy)
    if array.dtype != np.float32:
        problem = f"the type is {array.dtype}; expected float32"
        raise FaultyFileError(path, problem, "convert it with array.astype(numpy.float32)")
    if len(array) != n_stimuli:
        problem = f"{len(array)} rows of responses for {n_stimuli} training images"
        remedy = "restore what is missing: the first row belongs to train-0001, and so on"
        raise FaultyFileError(path, problem, remedy)
    return array


def check_mask(array: NDArray[Any], path: UPath, n_vertices: int) -> NDArray[np.int64]:
    """Labels as integers (n_vertices,).

    Raises:
        FaultyFileError: another shape, or values that are not whole numbers of at least 0.
    """
    if array.shape != (n_vertices,):
        problem = f"the shape is {array.shape}; expected ({n_vertices},), a label per column of the responses"
        raise FaultyFileError(path, problem, "use the challenge-space mask of this subject and hemisphere")
    whole = array.dtype.kind in "biuf" and bool(np.isfinite(array).all()) and np.array_equal(array, np.floor(array))
    if not whole or (array < 0).any():
        problem = f"values of type {array.dtype} that are not whole numbers of at least 0"
        raise FaultyFileError(path, problem, "write the labels of the mapping file as numbers")
    return array.astype(np.int64)


def check_ncsnr(array: NDArray[Any], path: UPath, n_vertices: int) -> NDArray[np.float32]:
    """Signal-to-noise ratios as float32 (n_vertices,).

    Raises:
        FaultyFileError: another shape, or values that are not finite numbers of at least 0.
    """
    if array.shape != (n_vertices,) or array.dtype.kind != "f":
        problem = f"{array.dtype} of shape {array.shape}; expected float32 of shape ({n_vertices},)"
        raise FaultyFileError(path, problem, "save one ncsnr for each vertex of the responses, or remove the file")
    if not np.isfinite(array).all() or (array < 0).any():
        problem = "holds values that are negative or not finite"
        raise FaultyFileError(path, problem, "write 0 for a vertex without reliable signal")
    return array.astype(np.float32)


def check_repeats(array: NDArray[Any], path: UPath, n_stimuli: int) -> NDArray[np.int64]:
    """Repeats as integers (n_stimuli,).

    Raises:
        FaultyFileError: another shape, or a number below 1.
    """
    if array.shape != (n_stimuli,) or array.dtype.kind not in "iu":
        problem = f"{array.dtype} of shape {array.shape}; expected integers of shape ({n_stimuli},)"
        raise FaultyFileError(path, problem, "save the number of presentations of each training image")
    if (array < 1).any():
        problem = f"the smallest number of repeats is {array.min()}; expected at least 1"
        raise FaultyFileError(path, problem, "write how often each image was shown")
    return array.astype(np.int64)
