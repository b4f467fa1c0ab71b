"""The other encoding model: PCA, then partial least squares with a few latent directions for all voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from upath import UPath

from trainables.encoding import _solvers
from trainables.encoding.encoder import GramFit, RidgeEncoder
from trainables.encoding.linear import LinearEncoder, OtherEncoderError
from trainables.errors import WeightsError

N_LATENT = 25
"""Latent directions; those of the neural benchmarks of Schrimpf et al. 2018 (doi 10.1101/407007)."""


def fit_gram_pls(
    gram: Tensor,
    responses: Tensor,
    relative_tolerance: float,
    n_components: int = 1000,
    n_latent: int = N_LATENT,
) -> GramFit:
    """PLS regression on the principal components, from the Gram matrix alone.

    The components' scores ``Z = U diag(sqrt(e))`` are regressed on by scikit-learn's ``PLSRegression`` (NIPALS, no
    scaling). The result is linear in the features, hence in the training stimuli: ``U diag(1 / sqrt(e)) B``.

    Args:
        gram: of the centred training features, float64 ``[n_stimuli, n_stimuli]``, finite.
        responses: float64 ``[n_stimuli, n_voxels]``, finite.
        relative_tolerance: see `_solvers.RELATIVE_TOLERANCE`.
        n_components: principal components kept at most.
        n_latent: latent directions; fewer where there are fewer components.
    """
    from sklearn.cross_decomposition import PLSRegression

    variances, vectors = _solvers.principal_components(gram, n_components, relative_tolerance)
    scores = vectors * variances.sqrt()
    latent = min(n_latent, scores.shape[1])
    y = responses.double()
    regression = PLSRegression(n_components=latent, scale=False).fit(scores.cpu().numpy(), y.cpu().numpy())
    weights = torch.as_tensor(regression.coef_.T, dtype=torch.float64, device=gram.device)  # [n_components, n_voxels]
    dual = vectors @ (weights / variances.sqrt()[:, None])
    return GramFit(None, dual, y.mean(dim=0), latent)


class PLSEncoder(LinearEncoder):
    """PCA, then partial least squares; the same interface as `RidgeEncoder`.

    Args:
        n_components: principal components kept; fewer where the features have a lower rank.
        n_latent: latent directions, shared by all voxels.

    Raises:
        ValueError: fewer than one of either.
    """

    solver = "pls"

    def __init__(self, n_components: int = 1000, n_latent: int = N_LATENT) -> None:
        if min(n_components, n_latent) < 1:
            raise ValueError(f"n_components is {n_components} and n_latent {n_latent}; expected at least 1 of both")
        self.n_components, self.n_latent = n_components, n_latent

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"n_components": self.n_components, "n_latent": self.n_latent}

    def fit_products(self, gram: Tensor, responses: Tensor, relative_tolerance: float) -> GramFit:
        """Fit to the Gram matrix of the centred training features."""
        return fit_gram_pls(gram, responses, relative_tolerance, self.n_components, self.n_latent)


ENCODERS: dict[str, type[RidgeEncoder] | type[PLSEncoder]] = {"ridge": RidgeEncoder, "pls": PLSEncoder}
"""Encoding models by name."""


def load_encoder(directory: Path | UPath) -> LinearEncoder:
    """A saved encoding model of either kind.

    Raises:
        WeightsError: files that are missing, damaged or of another format version.
    """
    for kind in ENCODERS.values():
        try:
            return kind.load(directory)
        except OtherEncoderError:
            continue
    raise WeightsError(f"{directory} holds no encoder that this version knows; load it with the version that wrote it")
