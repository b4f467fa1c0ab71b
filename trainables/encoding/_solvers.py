"""PCA and ridge from a Gram matrix: mathematics on tensors, nothing else.

Notation, with n stimuli, p features, v voxels: ``X`` are the centred training features ``[n, p]`` and
``K = X Xᵀ``. With ``K = U diag(e) Uᵀ``, the scores of the principal components are ``Z = U diag(sqrt(e))``.
Their columns are orthogonal, so ridge on them is one division per component: predictions for the training
stimuli are ``U diag(e / (e + alpha)) Uᵀ Y``. One eigendecomposition therefore serves PCA, every alpha and
every voxel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Eigenvalues below this share of the largest are rounding, not components. Repeated stimuli make K singular,
# and the small negative eigenvalues that result would turn every score into NaN.
RELATIVE_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

# Features multiplied at a time. Partial products are summed in float64: float32 sums over 60 000 features
# lose digits.
FEATURE_BLOCK = 8192


class PrincipalComponents(NamedTuple):
    """Eigenvalues and left singular vectors of the centred training features, largest first."""

    variances: Tensor
    """Squared singular values (n - 1 times the variances), float64 ``[n_components]``, > 0."""
    stimulus_vectors: Tensor
    """Orthonormal columns, float64 ``[n_stimuli, n_components]``."""


def cross_gram(features: Tensor, other: Tensor) -> Tensor:
    """``features @ other.T`` summed in float64: ``[n, p], [m, p] -> [n, m]``."""
    product = torch.zeros(len(features), len(other), dtype=torch.float64, device=features.device)
    for block, other_block in zip(features.split(FEATURE_BLOCK, 1), other.split(FEATURE_BLOCK, 1), strict=True):
        product += (block @ other_block.T).double()
    return product


def centred_cross_gram(features: Tensor, n_train: int) -> Tensor:
    """Products of all stimuli with the first ``n_train``, less these stimuli's mean: ``[n, p] -> [n, n_train]``.

    Features are widened to float32 and centred block by block: no second copy of them exists, and the first stays.
    """
    product = torch.zeros(len(features), n_train, dtype=torch.float64, device=features.device)
    for block in features.split(FEATURE_BLOCK, 1):
        centred = block.to(torch.promote_types(block.dtype, torch.float32), copy=True)
        centred -= centred[:n_train].mean(dim=0)
        product += (centred @ centred[:n_train].T).double()
    return product


def principal_components(gram: Tensor, n_components: int, relative_tolerance: float) -> PrincipalComponents:
    """The largest components of a Gram matrix of centred features.

    Args:
        gram: float64 ``[n, n]``, symmetric, finite.
        n_components: upper bound; fewer are kept where the features have a lower rank.
        relative_tolerance: components below this share of the largest are dropped.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    largest = eigenvalues[0].clamp_min(torch.finfo(torch.float64).tiny)
    rank = int((eigenvalues > relative_tolerance * largest).sum())
    kept = min(rank, n_components)
    return PrincipalComponents(eigenvalues[:kept], eigenvectors[:, :kept])


class SharedProducts(NamedTuple):
    """Weightings of components, one for each alpha, as sums of a few: what the few are multiplied with serves all."""

    weights: Tensor
    """float64 ``[n_alphas, n_shared]``."""
    shared: Tensor
    """float64 ``[n_shared, n_components]``."""


def shared_products(weightings: Tensor, tolerance: float) -> SharedProducts:
    """The fewest weightings whose sums are the given ones, to ``tolerance`` of each one's largest value.

    Ridge weights component k by ``e_k / (e_k + alpha)``. Penalties far below or far above all eigenvalues weight
    nearly alike: of nine products with the voxels one or two are spared where the spectrum is narrow, none where it
    spans six decades.

    Args:
        weightings: float64 ``[n_alphas, n_components]``, > 0.
        tolerance: share of the largest value of a row by which it may be off.
    """
    if not weightings.shape[1]:  # features that do not vary
        return SharedProducts(weightings.new_zeros(len(weightings), 1), weightings.new_zeros(1, 0))
    scale = weightings.amax(dim=1, keepdim=True)
    scaled = weightings / scale
    left, strength, right = torch.linalg.svd(scaled, full_matrices=False)
    mix = left * strength
    for count in range(1, len(strength)):
        if (mix[:, :count] @ right[:count] - scaled).abs().max() <= tolerance:
            return SharedProducts(mix[:, :count] * scale, right[:count])
    return SharedProducts(mix * scale, right)


def leave_one_out_errors(
    components: PrincipalComponents, responses: Tensor, alphas: Tensor, precision: torch.dtype = torch.float64
) -> Tensor:
    """Mean squared leave-one-out error of ridge with an unpenalised intercept, for all alpha and voxels.

    The error of stimulus i in a fit without it is ``(y_i - ŷ_i) / (1 - h_i)`` with ŷ from the fit on all
    stimuli and the leverage ``h_i = 1/n + Σ_k U_ik² e_k / (e_k + alpha)`` (Hastie, Tibshirani & Friedman
    2009, section 7.10), so no refit is needed. The PCA itself is not refitted without stimulus i; it never
    sees responses.

    Args:
        components: of the training stimuli.
        responses: centred over stimuli, float64 ``[n, v]``.
        alphas: float64 ``[n_alphas]``, > 0.
        precision: of the products that each alpha needs. In float32 errors are right to 1e-5 of themselves.

    Returns:
        float64 ``[n_alphas, v]``.
    """
    variances, vectors = components
    lost = alphas[:, None] / (variances + alphas[:, None])  # 1 - shrinkage, [n_alphas, n_components]
    leverage = 1.0 / len(responses) + (vectors**2) @ (1 - lost).T  # [n, n_alphas]
    loadings = vectors.T @ responses  # [n_components, v]
    # y - ŷ as what no component explains and what the penalty takes: where both are small, their digits are kept.
    unexplained = (responses - vectors @ loadings).to(precision)
    weights, shared = (tensor.to(precision) for tensor in shared_products(lost, RELATIVE_TOLERANCE[precision]))
    loadings, vectors = loadings.to(precision), vectors.to(precision)
    taken = torch.stack([vectors @ (weighting[:, None] * loadings) for weighting in shared])  # [n_shared, n, v]
    errors = torch.empty(len(alphas), responses.shape[1], dtype=torch.float64, device=responses.device)
    for index, mix in enumerate(weights):
        residual = unexplained + torch.tensordot(mix, taken, dims=1)
        errors[index] = (residual / (1.0 - leverage[:, index, None]).to(precision)).square().mean(dim=0)
    return errors


def dual_coefficients(components: PrincipalComponents, responses: Tensor, alphas: Tensor) -> Tensor:
    """Ridge on the components as weights of the training stimuli.

    For new stimuli with ``K* = X* Xᵀ`` (centred on the training mean) predictions are ``K* @ result``; as
    weights of features, the same is ``Xᵀ @ result``. No division by small singular values is involved.

    Args:
        components: of the training stimuli.
        responses: centred over stimuli, float64 ``[n, v]``.
        alphas: one per voxel, float64 ``[v]``.

    Returns:
        float64 ``[n, v]``.
    """
    variances, vectors = components
    return vectors @ ((vectors.T @ responses) / (variances[:, None] + alphas))
