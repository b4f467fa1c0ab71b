"""A selected model in the dress of scikit-learn: a fitted encoding model, and its features as a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin

from trainables.encoding.scores import pearson_r
from trainables.errors import DataError
from trainables.predictor import ResponsePredictor
from trainables.target import Target


class _Fitted(BaseEstimator):
    """What both have in common: nothing is left to fit, and clones share the network.

    A copy of a network for each fold of a cross-validation would cost its memory and change nothing.
    """

    predictor: ResponsePredictor

    def fit(self, images: Any = None, responses: Any = None) -> Self:
        """Does nothing and looks at nothing: the model was fitted to the sweep's training stimuli."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self.get_params(deep=False))


class NetworkFeatures(TransformerMixin, _Fitted):
    """Pictures to features: the network up to a readout layer.

    Args:
        predictor: the selected model.
        layer: a readout layer up to the model's own, which is the default; a parameter that a search may set.
    """

    def __init__(self, predictor: ResponsePredictor, layer: str | None = None) -> None:
        self.predictor = predictor
        self.layer = layer

    def transform(self, images: Any) -> NDArray[np.float32]:
        """Features of pictures.

        Args:
            images: RGB, uint8 ``[n, height, width, 3]`` of any size, or a list of file names or Pillow images.

        Returns:
            float32 ``[n, n_features]``: channel by channel, row by row.

        Raises:
            DataError: images of another shape or type, or a file that is no picture.
            ConfigError: a layer that the network lacks.
        """
        return self.predictor.features(images, self.layer)


class EncodingModel(RegressorMixin, _Fitted):
    """A selected model: predicts the responses of a target's voxels from pictures.

    It is fitted already. `fit` changes nothing, so a cross-validation of it scores the same model on every fold; to fit
    responses of your own, put an estimator behind `features` in a pipeline.

    Args:
        predictor: the network and its encoding model.
    """

    def __init__(self, predictor: ResponsePredictor) -> None:
        self.predictor = predictor

    def predict(self, images: Any) -> NDArray[np.float32]:
        """Predicted responses, in the unit of the responses that it was fitted to.

        Args:
            images: RGB, uint8 ``[n_images, height, width, 3]`` of any size, or a list of file names or Pillow images.

        Returns:
            float32 ``[n_images, n_voxels]``.

        Raises:
            DataError: images of another shape or type, or a file that is no picture.
        """
        return self.predictor.predict(images)

    def score(self, images: Any, responses: ArrayLike) -> float:
        """Mean Pearson r over voxels; a voxel whose responses or predictions do not vary counts as 0.

        Args:
            images: as for `predict`.
            responses: measured, ``[n_images, n_voxels]``, voxels in the order of `predict`.

        Raises:
            DataError: responses of another shape, or fewer than two images.
        """
        predicted, measured = self.predict(images), np.asarray(responses)
        if measured.shape != predicted.shape or len(predicted) < 2:
            raise DataError(
                f"responses have shape {measured.shape}; {self.target} and these images need {predicted.shape}, "
                "[n_images, n_voxels] with at least two images"
            )
        return float(pearson_r(predicted, measured).mean())

    @cached_property
    def features(self) -> NetworkFeatures:
        """The network up to its readout layer, for pipelines."""
        return NetworkFeatures(self.predictor)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where it comes from: sweep, data set, protocol, trial, configuration, digests; plain values."""
        return self.predictor.model.provenance

    @property
    def target(self) -> str:
        """``subj01/lh/V1v``."""
        return Target.from_dict(self.provenance["target"]).name

    @property
    def n_voxels(self) -> int:
        """Columns of the predictions."""
        return len(self.predictor.encoder.response_mean_)

    @property
    def method(self) -> str:
        """``contrastive``, ``regression``, ``untuned``, ``pooled-avg`` or ``pooled-const``."""
        return str(self.provenance["method"])

    @property
    def readout_layer(self) -> str:
        """Whose features the encoding model reads; chosen on validation stimuli."""
        return self.predictor.model.readout_layer

    @property
    def layer_cutoff(self) -> str | None:
        """Where the network ended when it was tuned; None for the untuned network."""
        found: str | None = self._configured("layer_cutoff")
        return found

    @property
    def temperature(self) -> float | None:
        """Of the contrastive objective; None for methods without one."""
        found: float | None = None if self.method == "regression" else self._configured("temperature")
        return found

    @property
    def learning_rate(self) -> float | None:
        """Adam's step size; None for the untuned network."""
        found: float | None = self._configured("learning_rate")
        return found

    @property
    def validation_r(self) -> float:
        """Mean Pearson r over the target's voxels on validation stimuli, by which it was chosen."""
        return float(self.provenance["val_r"])

    def _configured(self, field: str) -> Any:
        return self.provenance.get("config", {}).get(field) if self.method != "untuned" else None
