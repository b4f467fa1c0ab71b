"""The sweep's objective: encoding accuracy on validation stimuli, at the best readout layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.encoding import _solvers
from trainables.encoding.encoder import fit_gram
from trainables.encoding.features import extract_features
from trainables.encoding.scores import pearson_r
from trainables.errors import NonFiniteLossError
from trainables.models.backbone import Backbone
from trainables.models.images import Stimuli

if TYPE_CHECKING:
    from trainables.data.responses import TargetData


@dataclass(frozen=True)
class ValidationScore:
    """Encoding accuracy of one network on the validation stimuli of its target."""

    r: float
    """Mean Pearson r over voxels at `best_layer`."""
    best_layer: str
    """The readout layer with the highest mean r, chosen on these same stimuli; the earlier one on a tie."""
    r_by_layer: dict[str, float]
    """Mean Pearson r over voxels at every readout layer up to the cutoff."""
    r_per_voxel: NDArray[np.float64]
    """Pearson r at `best_layer`, ``[n_voxels]``."""


def score_readout_layers(
    model: Backbone,
    data: TargetData,
    layers: Iterable[str] | None = None,
    *,
    precision: str = "float32",
    n_components: int = 1000,
    stimuli: Stimuli | None = None,
) -> ValidationScore:
    """Fit an encoding model at each readout layer to the training part and score it on the validation part.

    One pass through the network and one eigendecomposition a layer; the same fit as `RidgeEncoder`'s, in
    terms of Gram matrices, since nobody asks for the weights of the features here.

    Args:
        model: on the device that is to compute.
        data: training and validation part of the target.
        layers: readout layers; by default all that the model has.
        precision: of the network's pass.
        n_components: principal components of the encoding models.
        stimuli: the partitions' stimuli where they already lie on the device, uint8 ``[n, size, size, 3]``.

    Raises:
        NonFiniteLossError: the features are not finite, as happens when training diverged at its last step.
    """
    chosen = tuple(layers) if layers is not None else model.readout_layers
    pixels = data.train.stimuli if stimuli is None else stimuli
    rows = np.concatenate([data.train.rows, data.val.rows])
    features = extract_features(model, pixels, rows, chosen, precision=precision)
    scores: dict[str, NDArray[np.float64]] = {}
    for layer in chosen:
        predicted = _predict_validation(features.pop(layer), data.train.responses, layer, n_components)
        scores[layer] = pearson_r(predicted, data.val.responses)
    r_by_layer = {layer: float(r.mean()) for layer, r in scores.items()}
    best_layer = max(r_by_layer, key=r_by_layer.__getitem__)
    return ValidationScore(r_by_layer[best_layer], best_layer, r_by_layer, scores[best_layer])


def _predict_validation(
    features: Tensor, train_responses: NDArray[np.float32], layer: str, n_components: int
) -> NDArray[np.float64]:
    """Responses to the stimuli that follow the training stimuli, by an encoding model of the latter."""
    n_train = len(train_responses)
    features -= features[:n_train].mean(dim=0)
    products = _solvers.cross_gram(features, features[:n_train])  # [n_train + n_val, n_train]
    if not torch.isfinite(products).all():
        raise NonFiniteLossError(
            f"features at {layer} are NaN or infinite after tuning; lower the learning rate or raise the temperature"
        )
    responses = torch.as_tensor(train_responses, dtype=torch.float64, device=features.device)
    tolerance = _solvers.RELATIVE_TOLERANCE[features.dtype]
    fit = fit_gram(products[:n_train], responses, tolerance, n_components)
    predicted: NDArray[np.float64] = fit.predict(products[n_train:]).cpu().numpy()
    return predicted
