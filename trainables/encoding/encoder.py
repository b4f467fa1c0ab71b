"""The encoding model: principal components of the features, then ridge with its own alpha for each voxel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.encoding import _solvers
from trainables.encoding.linear import LinearEncoder

_VOXELS_AT_A_TIME = 16_384
"""Times penalties. A whole subject has tens of thousands of voxels: their residuals at once would take gigabytes."""
DEFAULT_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 7, 9))


class RidgeEncoder(LinearEncoder):
    """Predicts voxel responses from features: PCA, then ridge regression with an unpenalised intercept.

    The PCA centres the features and does not standardise them. It and the choice of alpha (closed-form
    leave-one-out, per voxel) see the training stimuli alone. The result is that of scikit-learn's ``PCA``
    followed by ``RidgeCV(alpha_per_target=True)``, for one eigendecomposition of a matrix ``[n_stimuli,
    n_stimuli]``.

    Args:
        n_components: principal components kept; fewer where the features have a lower rank.
        alphas: penalties to choose from, each > 0, in squared units of the features, summed over stimuli.

    Attributes:
        best_alphas_: chosen penalty, float64 ``[n_voxels]``.
        and those of `LinearEncoder`.

    Raises:
        ValueError: no component asked for, no alpha, or an alpha that is not finite and > 0.
    """

    best_alphas_: NDArray[np.float64]

    solver = "ridge"
    fitted = (*LinearEncoder.fitted, "best_alphas_")

    def __init__(self, n_components: int = 1000, alphas: Iterable[float] = DEFAULT_ALPHAS) -> None:
        self.n_components = n_components
        self.alphas = tuple(float(alpha) for alpha in alphas)
        if n_components < 1:
            raise ValueError(f"n_components is {n_components}; expected at least 1")
        if not self.alphas or not all(np.isfinite(alpha) and alpha > 0 for alpha in self.alphas):
            raise ValueError(f"alphas is {self.alphas}; expected one or more penalties, each finite and above 0")

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"n_components": self.n_components, "alphas": list(self.alphas)}

    def fit_products(self, gram: Tensor, responses: Tensor, relative_tolerance: float) -> GramFit:
        """Fit to the Gram matrix of the centred training features."""
        found = fit_gram(gram, responses, relative_tolerance, self.n_components, self.alphas)
        if found.best_alphas is not None:
            self.best_alphas_ = found.best_alphas.cpu().numpy()
        return found


def voxels_at_a_time(n_alphas: int) -> int:
    """Voxels that are fitted together, so that memory does not grow with their number."""
    return max(1, _VOXELS_AT_A_TIME // n_alphas)


@dataclass(frozen=True)
class GramFit:
    """PCA and ridge in terms of training stimuli, for whoever holds Gram matrices instead of features."""

    best_alphas: Tensor | None
    """Chosen penalty of each voxel, float64 ``[n_voxels]``; None for an encoding model without penalties."""
    dual_coefficients: Tensor
    """Weights of the training stimuli, float64 ``[n_stimuli, n_voxels]``."""
    response_mean: Tensor
    """Over the training stimuli, float64 ``[n_voxels]``."""
    n_components: int
    """Principal components that were kept."""

    def predict(self, cross_gram: Tensor) -> Tensor:
        """Responses to other stimuli.

        Args:
            cross_gram: products of other and training features, both centred on the training mean, float64
                ``[n_other, n_stimuli]``.

        Returns:
            float64 ``[n_other, n_voxels]``.
        """
        return cross_gram @ self.dual_coefficients + self.response_mean


def fit_gram(
    gram: Tensor,
    responses: Tensor,
    relative_tolerance: float,
    n_components: int = 1000,
    alphas: Iterable[float] = DEFAULT_ALPHAS,
) -> GramFit:
    """Fit the encoding model to a Gram matrix: what `RidgeEncoder.fit` does once it has one.

    Args:
        gram: of the centred training features, float64 ``[n_stimuli, n_stimuli]``, finite.
        responses: ``[n_stimuli, n_voxels]``, finite; penalties are chosen in their precision, the rest is float64.
        relative_tolerance: see `_solvers.RELATIVE_TOLERANCE`.
        n_components: principal components kept at most.
        alphas: penalties to choose from.
    """
    penalties = torch.tensor(tuple(alphas), dtype=torch.float64, device=gram.device)
    components = _solvers.principal_components(gram, n_components, relative_tolerance)
    precision = torch.float32 if responses.dtype == torch.float32 else torch.float64
    means, alphas_found, duals = [], [], []
    for block in responses.split(voxels_at_a_time(len(penalties)), dim=1):
        mean = block.mean(dim=0, dtype=torch.float64)
        centred = block - mean
        errors = _solvers.leave_one_out_errors(components, centred, penalties, precision)
        best = penalties[errors.argmin(dim=0)]
        duals.append(_solvers.dual_coefficients(components, centred, best))
        means.append(mean)
        alphas_found.append(best)
    return GramFit(torch.cat(alphas_found), torch.cat(duals, dim=1), torch.cat(means), len(components.variances))
