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
from trainables.encoding.scores import pearson_r

N_FOLDS = 5


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
        responses: ``[n_stimuli, n_voxels]``.
        n_components: principal components kept at most.
        alphas: penalties.
        n_folds: 2 or more, at most a third of the stimuli.

    Raises:
        ValueError: too few stimuli for the folds.
    """
    if n_folds < 2 or len(features) < 3 * n_folds:
        raise ValueError(f"{len(features)} stimuli for {n_folds} folds; expected 2 folds or more, of 3 stimuli or more")
    penalties = np.array(tuple(alphas), dtype=np.float64)
    # Less the mean over all stimuli: what is left to centre in a fold is small, and no digits are lost.
    features -= features.mean(dim=0)
    gram = _solvers.cross_gram(features, features)
    tolerance = _solvers.RELATIVE_TOLERANCE[features.dtype]
    y = torch.as_tensor(responses, dtype=torch.float64, device=features.device)
    total = np.zeros((len(penalties), responses.shape[1]))
    for fitted, held_out in folds(len(features), n_folds):
        predictions = _fold_predictions(gram, y, fitted, held_out, tolerance, n_components, penalties)
        total += [pearson_r(predicted.cpu().numpy(), responses[held_out]) for predicted in predictions]
    return CrossValidation(penalties, total / n_folds)


def _fold_predictions(
    gram: Tensor,
    responses: Tensor,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    tolerance: float,
    n_components: int,
    penalties: NDArray[np.float64],
) -> Iterator[Tensor]:
    """Responses to the held-out stimuli, one ``[n_held_out, n_voxels]`` for each penalty."""
    train, test = (torch.from_numpy(rows).to(gram.device) for rows in (fitted, held_out))
    inner, cross = gram[train[:, None], train], gram[test[:, None], train]
    row_mean = inner.mean(dim=0)
    inner = inner - row_mean - row_mean[:, None] + row_mean.mean()
    cross = cross - cross.mean(dim=1, keepdim=True) - row_mean + row_mean.mean()
    variances, vectors = _solvers.principal_components(inner, n_components, tolerance)
    mean = responses[train].mean(dim=0)
    projected = cross @ vectors  # [n_held_out, n_components]
    loadings = vectors.T @ (responses[train] - mean)
    for alpha in penalties:
        yield (projected / (variances + alpha)) @ loadings + mean
