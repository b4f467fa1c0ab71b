"""The encoding model: principal components of the features, then ridge with its own alpha for each voxel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from trainables.encoding import _solvers
from trainables.errors import WeightsError
from trainables.models.artifact import read_artifact, write_artifact

Array = NDArray[Any]

DEFAULT_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 7, 9))
_FORMAT_VERSION = 1
_FITTED = ("best_alphas_", "coef_", "feature_mean_", "response_mean_")


class RidgeEncoder:
    """Predicts voxel responses from features: PCA, then ridge regression with an unpenalised intercept.

    The PCA centres the features and does not standardise them. It and the choice of alpha (closed-form
    leave-one-out, per voxel) see the training stimuli alone. The result is that of scikit-learn's ``PCA``
    followed by ``RidgeCV(alpha_per_target=True)``, for one eigendecomposition of a matrix ``[n_stimuli,
    n_stimuli]``.

    Products over features keep the features' precision; everything else is float64. Fitted attributes are
    NumPy arrays.

    Args:
        n_components: principal components kept; fewer where the features have a lower rank.
        alphas: penalties to choose from, each > 0, in squared units of the features, summed over stimuli.

    Attributes:
        best_alphas_: chosen penalty, float64 ``[n_voxels]``.
        coef_: weights of the features, in their precision, ``[n_features, n_voxels]``.
        feature_mean_: mean over the training stimuli, ``[n_features]``.
        response_mean_: prediction at the mean features, float64 ``[n_voxels]``.
        n_components_: principal components that were kept.

    Raises:
        ValueError: no component asked for, no alpha, or an alpha that is not finite and > 0.
    """

    best_alphas_: NDArray[np.float64]
    coef_: Array
    feature_mean_: Array
    response_mean_: NDArray[np.float64]
    n_components_: int

    def __init__(self, n_components: int = 1000, alphas: Iterable[float] = DEFAULT_ALPHAS) -> None:
        self.n_components = n_components
        self.alphas = tuple(float(alpha) for alpha in alphas)
        if n_components < 1:
            raise ValueError(f"n_components is {n_components}; expected at least 1")
        if not self.alphas or not all(np.isfinite(alpha) and alpha > 0 for alpha in self.alphas):
            raise ValueError(f"alphas is {self.alphas}; expected one or more penalties, each finite and above 0")

    def fit(self, features: Array | Tensor, responses: Array | Tensor) -> RidgeEncoder:
        """Fit to the training stimuli.

        Args:
            features: ``[n_stimuli, n_features]``, finite; anything but float64 is read as float32.
            responses: ``[n_stimuli, n_voxels]``, finite.

        Returns:
            self.

        Raises:
            ValueError: shapes that do not match, fewer than two stimuli, or values that are not finite.
        """
        x = _floating(features)
        y = torch.as_tensor(responses, dtype=torch.float64, device=x.device)
        _require_fit(x, y)
        feature_mean, response_mean = x.mean(dim=0), y.mean(dim=0)
        centred = x - feature_mean
        gram = _solvers.cross_gram(centred, centred)
        fit = fit_gram(gram, y, _solvers.RELATIVE_TOLERANCE[x.dtype], self.n_components, self.alphas)
        self.coef_ = (centred.T @ fit.dual_coefficients.to(x.dtype)).cpu().numpy()
        self.best_alphas_ = fit.best_alphas.cpu().numpy()
        self.feature_mean_ = feature_mean.cpu().numpy()
        self.response_mean_ = response_mean.cpu().numpy()
        self.n_components_ = fit.n_components
        return self

    @overload
    def predict(self, features: Array) -> NDArray[np.float32]: ...
    @overload
    def predict(self, features: Tensor) -> Tensor: ...
    def predict(self, features: Array | Tensor) -> Array | Tensor:
        """Predicted responses.

        Args:
            features: ``[n_stimuli, n_features]``.

        Returns:
            float32 ``[n_stimuli, n_voxels]``, an array for an array and a tensor (on its device) for a
            tensor.

        Raises:
            ValueError: not fitted yet, or another number of features than in `fit`.
        """
        if not hasattr(self, "coef_"):
            raise ValueError("the encoder is not fitted; call fit first")
        x = _floating(features)
        if x.ndim != 2 or x.shape[1] != len(self.coef_):
            raise ValueError(f"features have shape {tuple(x.shape)}; expected [n_stimuli, {len(self.coef_)}]")
        coef, mean, offset = (
            torch.as_tensor(fitted).to(x.device) for fitted in (self.coef_, self.feature_mean_, self.response_mean_)
        )
        centred = x - mean.to(x.dtype)
        predicted = (_solvers.cross_gram(centred, coef.T.to(x.dtype)) + offset).float()
        return predicted if isinstance(features, Tensor) else predicted.cpu().numpy()

    def save(self, directory: Path | UPath) -> None:
        """Write the fitted encoder as ``encoder.safetensors`` and ``encoder.json``, all or nothing.

        Raises:
            ValueError: not fitted yet.
            StorageError: the directory cannot be written.
        """
        if not hasattr(self, "coef_"):
            raise ValueError("the encoder is not fitted; there is nothing to save")
        description = {
            "n_components": self.n_components,
            "alphas": list(self.alphas),
            "n_components_kept": self.n_components_,
        }
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in _FITTED}
        write_artifact(directory, "encoder", _FORMAT_VERSION, description, tensors)

    @classmethod
    def load(cls, directory: Path | UPath) -> RidgeEncoder:
        """Inverse of `save`.

        Raises:
            WeightsError: files that are missing, damaged or of another format version.
        """
        description, tensors = read_artifact(directory, "encoder", _FORMAT_VERSION)
        try:
            encoder = cls(description["n_components"], description["alphas"])
            encoder.n_components_ = description["n_components_kept"]
            for name in _FITTED:
                setattr(encoder, name, tensors[name].numpy())
        except KeyError as error:
            raise WeightsError(f"{directory} lacks {error} of a saved encoder; fit and save it again") from error
        return encoder


@dataclass(frozen=True)
class GramFit:
    """PCA and ridge in terms of training stimuli, for whoever holds Gram matrices instead of features."""

    best_alphas: Tensor
    """Chosen penalty of each voxel, float64 ``[n_voxels]``."""
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
        responses: float64 ``[n_stimuli, n_voxels]``, finite.
        relative_tolerance: see `_solvers.RELATIVE_TOLERANCE`.
        n_components: principal components kept at most.
        alphas: penalties to choose from.
    """
    penalties = torch.tensor(tuple(alphas), dtype=torch.float64, device=gram.device)
    response_mean = responses.mean(dim=0)
    centred = responses - response_mean
    components = _solvers.principal_components(gram, n_components, relative_tolerance)
    errors = _solvers.leave_one_out_errors(components, centred, penalties)
    best_alphas = penalties[errors.argmin(dim=0)]
    dual = _solvers.dual_coefficients(components, centred, best_alphas)
    return GramFit(best_alphas, dual, response_mean, len(components.variances))


def _floating(features: Array | Tensor) -> Tensor:
    tensor = torch.as_tensor(features)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _require_fit(features: Tensor, responses: Tensor) -> None:
    if features.ndim != 2 or responses.ndim != 2 or len(features) != len(responses):
        raise ValueError(
            f"features have shape {tuple(features.shape)} and responses {tuple(responses.shape)}; expected "
            "[n_stimuli, n_features] and [n_stimuli, n_voxels]"
        )
    if len(features) < 2:
        raise ValueError(f"features hold {len(features)} stimuli; a fit needs at least 2")
    for name, values in (("features", features), ("responses", responses)):
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinite values; expected finite ones")
