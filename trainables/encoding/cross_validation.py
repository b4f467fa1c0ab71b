"""Cross-validation of the encoding model inside one set of stimuli, for the published protocols.

The features are multiplied once: each fold's centred Gram matrix follows from that of all stimuli.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.encoding import _solvers
from trainables.encoding.encoder import DEFAULT_ALPHAS

N_FOLDS = 5
_VOXELS_AT_A_TIME = 2048
"""Predictions of all penalties and voxels at once would take gigabytes."""


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Encoding accuracy on held-out folds."""

    alphas: NDArray[np.float64]
    """Penalties, ``[n_alphas]``."""
    r: NDArray[np.float64]
    """Pearson r, mean over folds, ``[n_alphas, n_voxels]``."""

    @property
    def one_alpha(self) -> float:
        """The penalty with the highest mean r over voxels, chosen on the folds that `r` reports."""
        return float(self.alphas[self.r.mean(axis=1).argmax()])

    @property
    def r_at_one_alpha(self) -> NDArray[np.float64]:
        """Pearson r with `one_alpha` for all voxels, ``[n_voxels]``."""
        best: NDArray[np.float64] = self.r[self.r.mean(axis=1).argmax()]
        return best

    @property
    def r_at_best_alphas(self) -> NDArray[np.float64]:
        """Pearson r with each voxel's own best penalty, ``[n_voxels]``: the folds that choose it report it."""
        best: NDArray[np.float64] = self.r.max(axis=0)
        return best


def folds(
    n_stimuli: int, n_folds: int = N_FOLDS, seed: int = 0
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions to fit on and to score, fold by fold; every stimulus is scored once."""
    order = np.random.default_rng(seed).permutation(n_stimuli)
    for held_out in np.array_split(order, n_folds):
        yield np.setdiff1d(order, held_out), np.sort(held_out)


def cross_validate(
    features: Tensor,
    responses: NDArray[np.float32],
    *,
    n_components: int = 1000,
    alphas: Iterable[float] = DEFAULT_ALPHAS,
    n_folds: int = N_FOLDS,
) -> CrossValidation:
    """PCA and ridge on each fold's other stimuli, scored on the fold, for every penalty.

    Args:
        features: ``[n_stimuli, n_features]``, finite; centred in place.
        responses: see `cross_validate_products`, as for what follows.
        n_components: likewise.
        alphas: likewise.
        n_folds: likewise.

    Raises:
        ValueError: too few stimuli for the folds.
    """
    # Less the mean over all stimuli: what is left to centre in a fold is small, and no digits are lost.
    features -= features.mean(dim=0)
    gram, precision = _solvers.cross_gram(features, features), features.dtype
    return cross_validate_products(
        gram, responses, precision=precision, n_components=n_components, alphas=alphas, n_folds=n_folds
    )


def cross_validate_products(
    gram: Tensor,
    responses: NDArray[np.float32],
    *,
    precision: torch.dtype = torch.float32,
    n_components: int = 1000,
    alphas: Iterable[float] = DEFAULT_ALPHAS,
    n_folds: int = N_FOLDS,
) -> CrossValidation:
    """`cross_validate` for whoever has let go of the features.

    Args:
        gram: products of the features, centred over all stimuli, finite, float64 ``[n_stimuli, n_stimuli]``.
        responses: ``[n_stimuli, n_voxels]``.
        precision: of the features, at least float32.
        n_components: principal components kept at most.
        alphas: penalties.
        n_folds: 2 or more, at most a third of the stimuli.

    Raises:
        ValueError: too few stimuli for the folds.
    """
    if n_folds < 2 or len(gram) < 3 * n_folds:
        raise ValueError(f"{len(gram)} stimuli for {n_folds} folds; expected 2 folds or more, of 3 stimuli or more")
    penalties = np.array(tuple(alphas), dtype=np.float64)
    total = torch.zeros(len(penalties), responses.shape[1], dtype=torch.float64, device=gram.device)
    tolerance, y = _solvers.RELATIVE_TOLERANCE[precision], torch.as_tensor(responses, device=gram.device).to(precision)
    for fitted, held_out in folds(len(gram), n_folds):
        total += _fold_r(gram, y, fitted, held_out, tolerance, n_components, penalties)
    return CrossValidation(penalties, total.cpu().numpy() / n_folds)


def _fold_r(
    gram: Tensor,
    responses: Tensor,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    tolerance: float,
    n_components: int,
    penalties: NDArray[np.float64],
) -> Tensor:
    """Pearson r over the held-out stimuli, float64 ``[n_alphas, n_voxels]``; 0 where one side does not vary.

    Decomposition in float64, products with voxels in the precision of the responses. They are nearly all of the work,
    and a correlation of hundreds of stimuli does not tell the two apart (1e-6).
    """
    train, test = (torch.from_numpy(rows).to(gram.device) for rows in (fitted, held_out))
    inner, cross = gram[train[:, None], train], gram[test[:, None], train]
    row_mean = inner.mean(dim=0)
    inner = inner - row_mean - row_mean[:, None] + row_mean.mean()
    variances, vectors = _solvers.principal_components(inner, n_components, tolerance)
    # Centred over the held-out stimuli as well: so are the predictions then, which spares a pass over all of them.
    projected = cross @ vectors / variances  # [n_held_out, n_components]
    projected -= projected.mean(dim=0)
    shrinkage = variances / (variances + torch.from_numpy(penalties).to(gram.device)[:, None])
    weights, shared = _solvers.shared_products(shrinkage, _solvers.RELATIVE_TOLERANCE[responses.dtype])
    weights = weights.to(responses.dtype)
    basis = vectors.T.to(responses.dtype)
    weighted = (shared[:, None] * projected).to(responses.dtype).flatten(0, 1)  # [n_shared * n_held_out, n_components]
    by_components = not from_stimuli_is_less(len(weighted), len(variances), len(train), responses.shape[1])
    if not by_components:
        weighted = weighted @ basis  # [n_shared * n_held_out, n_fitted]
    r = []
    for block in responses.split(_VOXELS_AT_A_TIME, dim=1):
        centred = block[train] - block[train].mean(dim=0)
        r.append(_block_r(basis @ centred if by_components else centred, weighted, weights, block[test]))
    return torch.cat(r, dim=1).clamp_(-1, 1)


def from_stimuli_is_less(n_rows: int, n_components: int, n_fitted: int, n_voxels: int) -> bool:
    """Whether predicting straight from the fitted responses takes fewer multiplications than by way of the components.

    The way by the components first multiplies them with every voxel, which spares little afterwards where they are
    nearly as many as stimuli. The other way first brings what they are multiplied with into terms of stimuli.

    Args:
        n_rows: predictions of each voxel, shared weightings times held-out stimuli.
        n_components: principal components.
        n_fitted: stimuli that were fitted.
        n_voxels: voxels to predict.
    """
    by_components = n_voxels * n_components * (n_fitted + n_rows)
    from_stimuli = n_rows * n_fitted * (n_components + n_voxels)
    return from_stimuli < by_components


def _block_r(fitted: Tensor, weighted: Tensor, weights: Tensor, measured: Tensor) -> Tensor:
    """Pearson r of some voxels' responses with what each penalty predicts, float64 ``[n_alphas, n_voxels]``.

    Args:
        fitted: centred responses, ``[n_fitted, n_voxels]``, or their loadings on the components.
        weighted: what they are multiplied with, ``[n_shared * n_held_out, n_fitted or n_components]``.
        weights: see `_solvers.SharedProducts`.
        measured: ``[n_held_out, n_voxels]``.
    """
    products = (weighted @ fitted).view(weights.shape[1], -1)
    predicted = (weights @ products).view(len(weights), *measured.shape)
    columns, measured_varies = _unit_columns(measured)
    norm = torch.linalg.vector_norm(predicted, dim=1)
    varies = measured_varies & ~(norm <= 0)  # NaN stays NaN
    return torch.where(varies, torch.linalg.vecdot(predicted, columns, dim=1) / norm, 0).double()


def _unit_columns(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Columns centred and scaled to norm 1, and which of them vary by more than rounding."""
    mean = columns.mean(dim=0)
    centred = columns - mean
    norm = torch.linalg.vector_norm(centred, dim=0)
    varies = ~(norm <= 4 * torch.finfo(columns.dtype).eps * mean.abs() * len(columns) ** 0.5)  # NaN counts as varying
    return centred / torch.where(varies, norm, 1), varies
