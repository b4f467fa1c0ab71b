"""What every encoding model has in common: linear in the features, fitted by a Gram matrix, kept without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from trainables.encoding import _solvers
from trainables.errors import WeightsError
from trainables.models.artifact import read_artifact, write_artifact

Array = NDArray[Any]

FORMAT_VERSION = 1


class OtherEncoderError(WeightsError):
    """A saved encoder of another kind."""


class DualFit(Protocol):
    """An encoding model as weights of the training stimuli."""

    @property
    def dual_coefficients(self) -> Tensor:
        """float64 ``[n_stimuli, n_voxels]``."""

    @property
    def n_components(self) -> int:
        """Components that were kept."""


class LinearEncoder:
    """Predicts voxel responses from features, linearly with an intercept; subclasses say how the weights are found.

    Products over features keep the features' precision; everything else is float64. Fitted attributes are NumPy
    arrays.

    Attributes:
        coef_: weights of the features, in their precision, ``[n_features, n_voxels]``.
        feature_mean_: mean over the training stimuli, ``[n_features]``.
        response_mean_: prediction at the mean features, float64 ``[n_voxels]``.
        n_components_: components that were kept.
    """

    coef_: Array
    feature_mean_: Array
    response_mean_: NDArray[np.float64]
    n_components_: int

    solver: ClassVar[str] = ""
    """Name in a saved encoder's description."""
    fitted: ClassVar[tuple[str, ...]] = ("coef_", "feature_mean_", "response_mean_")
    """Arrays that are saved."""

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor, as plain values."""
        raise NotImplementedError

    def fit_products(self, gram: Tensor, responses: Tensor, relative_tolerance: float) -> DualFit:
        """Fit to the Gram matrix of the centred training features, float64 ``[n_stimuli, n_stimuli]``."""
        raise NotImplementedError

    def fit(self, features: Array | Tensor, responses: Array | Tensor, *, overwrite: bool = False) -> Self:
        """Fit to the training stimuli.

        Args:
            features: ``[n_stimuli, n_features]``, finite; anything but float64 is read as float32.
            responses: ``[n_stimuli, n_voxels]``, finite.
            overwrite: ``features`` may be centred in place: those of a deep layer are gigabytes.

        Returns:
            self.

        Raises:
            ValueError: shapes that do not match, fewer than two stimuli, or values that are not finite.
        """
        x = _floating(features)
        y = _floating(responses).to(x.device)
        y = y.to(torch.promote_types(x.dtype, y.dtype))
        _require_fit(x, y)
        feature_mean, response_mean = x.mean(dim=0), y.mean(dim=0, dtype=torch.float64)
        centred = x.sub_(feature_mean) if overwrite else x - feature_mean
        gram = _solvers.cross_gram(centred, centred)
        found = self.fit_products(gram, y, _solvers.RELATIVE_TOLERANCE[x.dtype])
        self.coef_ = (centred.T @ found.dual_coefficients.to(x.dtype)).cpu().numpy()
        self.feature_mean_ = feature_mean.cpu().numpy()
        self.response_mean_ = response_mean.cpu().numpy()
        self.n_components_ = found.n_components
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
        description = {"solver": self.solver, **self.settings(), "n_components_kept": self.n_components_}
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in self.fitted}
        write_artifact(directory, "encoder", FORMAT_VERSION, description, tensors)

    @classmethod
    def load(cls, directory: Path | UPath) -> Self:
        """Inverse of `save`.

        Raises:
            WeightsError: files that are missing, damaged, of another format version or of another kind of encoder.
        """
        description, tensors = read_artifact(directory, "encoder", FORMAT_VERSION)
        found = description.get("solver", "ridge")
        if found != cls.solver:
            raise OtherEncoderError(f"{directory} holds a {found} encoder; expected {cls.solver}, so load that kind")
        return cls._restored(directory, description, tensors)

    @classmethod
    def _restored(cls, directory: Path | UPath, description: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        try:
            encoder = cls(**{name: description[name] for name in cls().settings()})
            encoder.n_components_ = description["n_components_kept"]
            for name in cls.fitted:
                setattr(encoder, name, tensors[name].numpy())
        except KeyError as error:
            raise WeightsError(f"{directory} lacks {error} of a saved encoder; fit and save it again") from error
        return encoder


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
