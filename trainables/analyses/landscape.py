"""The landscape of many networks: how far apart their class probabilities lie, and a picture of it.

Mao et al. 2024, "The training process of many deep networks explores the same low-dimensional manifold",
arXiv 2305.01604; intensive principal component analysis: Quinn et al. 2019, arXiv 1810.02877.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

SMALLEST_COEFFICIENT = float(np.sqrt(np.finfo(np.float32).tiny))
"""What a Bhattacharyya coefficient of 0 counts as, 1.1e-19. Probabilities are kept as float32, which cannot tell one
below 1.2e-38 from 0, so a 0 says no more than that the coefficient lies below about the root of that."""

# Of the intermediate arrays of one block of images. Larger blocks are slower: half of the time went to new pages.
_BLOCK_BYTES = 32 << 20
# Float32 probabilities sum to 1 within rounding; what is further off is no distribution.
_SUM_TOLERANCE = 1e-3

_log = logging.getLogger(__name__)


class Rows(Protocol):
    """Class probabilities ``[n_images, n_classes]`` of one network that are read some images at a time.

    An array or a memory map is one; so is anything else with a shape and slices of rows.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_images, n_classes)``."""
        ...

    def __getitem__(self, rows: slice, /) -> ArrayLike:
        """Probabilities of some images."""
        ...


@dataclass(frozen=True, eq=False)
class InPCA:
    """An embedding of m networks whose signed squared distances are the given ones."""

    coordinates: NDArray[np.float64]
    """``[m, n_axes]``, axes by falling size of their eigenvalue; the sign of an axis is arbitrary but fixed."""
    eigenvalues: NDArray[np.float64]
    """``[n_axes]``; one that is nothing but rounding is 0."""
    imaginary: NDArray[np.bool_]
    """Axes with a negative eigenvalue: squared differences along them count negatively, ``[n_axes]``."""
    explained_stress: NDArray[np.float64]
    """Share of the distances that the first k axes explain, ``[n_axes]``, for k = 1, 2..., in [0, 1]."""


def bhattacharyya_distances(
    probabilities: Sequence[Rows] | NDArray[np.floating],
    *,
    images_at_a_time: int | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.float64]:
    """Mean over images of the Bhattacharyya distance between the class probabilities of each pair of networks.

    ``D_uv = -(1/N) sum_n log sum_c sqrt(p_u(c|n) p_v(c|n))``. For a block of images, all pairs are one batch of
    matrix products in float64; what is in memory at once does not grow with the number of images. Each
    distribution is first divided by its sum, which float32 leaves a little off 1: so no network lies at a distance
    from itself.

    A coefficient below `SMALLEST_COEFFICIENT` counts as that, which bounds an image's share by 43.7 instead of
    letting one certain and wrong answer make a distance infinite; how many there were is logged.

    Args:
        probabilities: of each of m networks for the same images in the same order, ``[m, n_images, n_classes]`` or
            m of `Rows`.
        images_at_a_time: changes memory and time, not the result; by default some 32 MB of intermediate arrays.
        device: where the products are computed.

    Returns:
        Symmetric, zero diagonal, float64 ``[m, m]``.

    Raises:
        ValueError: no network, shapes that differ, no image, or rows that are no distributions (a value that is
            negative or not finite, a sum that is not 1).
    """
    n_models, n_images, n_classes = _require_shape(probabilities)
    step = images_at_a_time or max(1, _BLOCK_BYTES // (8 * n_models * (n_classes + 2 * n_models)))
    total = torch.zeros(n_models, n_models, dtype=torch.float64, device=device)
    n_clipped = 0
    for start in range(0, n_images, step):
        roots = _roots(probabilities, slice(start, min(start + step, n_images)), n_classes, device)
        coefficients = roots @ roots.mT  # [images, m, m]
        n_clipped += int((coefficients < SMALLEST_COEFFICIENT).sum()) // 2
        total -= coefficients.clamp_(min=SMALLEST_COEFFICIENT).log_().sum(dim=0)
    if n_clipped:
        n_all = n_images * n_models * (n_models - 1) // 2
        _log.warning("%d of %d coefficients were below %.1e and count as that", n_clipped, n_all, SMALLEST_COEFFICIENT)
    distances: NDArray[np.float64] = ((total + total.T) / (2 * n_images)).cpu().numpy()
    np.fill_diagonal(distances, 0.0)
    return distances


def oracle_probabilities(labels: ArrayLike, n_classes: int) -> NDArray[np.float32]:
    """The true labels as a network that is always certain and right, ``[n_images, n_classes]``.

    Args:
        labels: true classes, int ``[n_images]``, each in 0..n_classes - 1.
        n_classes: of the set.

    Raises:
        ValueError: labels of another shape or type, or outside their range.
    """
    truth = np.asarray(labels)
    if truth.ndim != 1 or truth.dtype.kind not in "iu" or (truth < 0).any() or (truth >= n_classes).any():
        raise ValueError(f"labels are {truth.dtype} of shape {truth.shape}; expected integers in 0 to {n_classes - 1}")
    certain = np.zeros((len(truth), n_classes), dtype=np.float32)
    certain[np.arange(len(truth)), truth] = 1.0
    return certain


def inpca(distances: ArrayLike, n_axes: int | None = None) -> InPCA:
    """Coordinates of networks from their distances, exact if all axes are taken.

    ``W = -L D L / 2`` with ``L = I - 11ᵀ/m`` is factored by its eigenvectors, largest absolute eigenvalue first;
    coordinates are ``v_i sqrt|λ_i|``. D need not be Euclidean: axes with a negative eigenvalue are imaginary, and
    ``D_uv = sum_i sign(λ_i) (x_ui - x_vi)²``. The first k axes explain
    ``1 - sqrt(1 - sum_{i<=k} λ_i² / ||W||²)``.

    Args:
        distances: symmetric, zero diagonal, ``[m, m]``, m >= 2.
        n_axes: axes kept; by default all m.

    Raises:
        ValueError: a matrix that is not as described, no axis or more than m asked for, or networks that are all
            the same, between which there is nothing to explain.
    """
    matrix = _require_distances(distances)
    m = len(matrix)
    n_axes = m if n_axes is None else n_axes
    if not 1 <= n_axes <= m:
        raise ValueError(f"n_axes is {n_axes}; expected 1 to {m}, the number of networks")
    centred = matrix - matrix.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    eigenvalues, vectors = np.linalg.eigh(-0.25 * (centred + centred.T))
    order = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, vectors = eigenvalues[order], vectors[:, order]
    eigenvalues[np.abs(eigenvalues) <= m * np.finfo(np.float64).eps * np.abs(eigenvalues[0])] = 0.0
    # Either sign of an eigenvector is right; one is fixed, so that a picture does not flip from run to run.
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(m)]
    coordinates = vectors * np.where(largest < 0, -1.0, 1.0) * np.sqrt(np.abs(eigenvalues))
    explained = np.cumsum(eigenvalues**2)
    stress = 1.0 - np.sqrt(1.0 - explained / explained[-1])
    return InPCA(coordinates[:, :n_axes], eigenvalues[:n_axes], eigenvalues[:n_axes] < 0, stress[:n_axes])


def _require_shape(probabilities: Sequence[Rows] | NDArray[np.floating]) -> tuple[int, int, int]:
    shapes = {tuple(model.shape) for model in probabilities}
    if len(shapes) != 1:
        raise ValueError(f"probabilities have shapes {sorted(shapes)}; expected one, [n_images, n_classes], for all")
    (shape,) = shapes
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"probabilities have shape {shape}; expected [n_images, n_classes] with at least one image")
    return len(probabilities), shape[0], shape[1]


def _roots(
    probabilities: Sequence[Rows] | NDArray[np.floating], rows: slice, n_classes: int, device: str | torch.device
) -> Tensor:
    """Square roots of normalised probabilities, float64 ``[images, m, n_classes]``."""
    n_rows = rows.stop - rows.start
    roots = torch.empty(n_rows, len(probabilities), n_classes, dtype=torch.float64, device=device)
    for index, model in enumerate(probabilities):
        roots[:, index] = torch.from_numpy(np.array(model[rows])).to(device)
    sums = roots.sum(dim=2, keepdim=True)
    if not (torch.isfinite(sums).all() and (roots >= 0).all() and ((sums - 1).abs() <= _SUM_TOLERANCE).all()):
        raise ValueError(
            f"probabilities of images {rows.start} to {rows.stop - 1} hold values from {roots.min():.3g} with sums "
            f"from {sums.min():.6g} to {sums.max():.6g}; expected values of at least 0 that sum to 1 for each image"
        )
    return roots.div_(sums).sqrt_()


def _require_distances(distances: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(distances, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"distances have shape {matrix.shape}; expected [m, m] of two or more networks")
    if not np.isfinite(matrix).all():
        raise ValueError("distances hold NaN or infinite values; expected finite ones")
    scale = np.abs(matrix).max()
    if scale == 0.0:
        raise ValueError("distances are all 0; expected networks that differ, or there is nothing to explain")
    if np.abs(matrix - matrix.T).max() > 1e-9 * scale or np.abs(np.diag(matrix)).max() > 1e-9 * scale:
        raise ValueError("distances are not symmetric with a diagonal of 0; expected bhattacharyya_distances' result")
    return matrix
