"""The sweep's objective: encoding accuracy on validation stimuli, at the best readout layer.

The published protocols have no validation part. There a network's score is cross-validated inside the training part,
which the network itself was tuned on: it describes a trial and must not choose among tuned ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.encoding import _solvers
from trainables.encoding.cross_validation import cross_validate_products
from trainables.encoding.encoder import fit_gram
from trainables.encoding.features import features_by_layer
from trainables.encoding.pls import fit_gram_pls
from trainables.encoding.scores import pearson_r
from trainables.errors import ConfigError, NonFiniteLossError
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
    encoder: str = "ridge",
) -> ValidationScore:
    """Fit an encoding model at each readout layer to the training part and score it on the validation part.

    Without a validation part: five-fold cross-validation inside the training part, with one alpha for all voxels.

    As many passes through the network as its features need to fit into memory, and one eigendecomposition a layer; the
    same fit as `RidgeEncoder`'s, in terms of Gram matrices, since nobody asks for the weights of the features here.

    Args:
        model: on the device that is to compute.
        data: training and validation part of the target.
        layers: readout layers; by default all that the model has.
        precision: of the network's pass.
        n_components: principal components of the encoding models.
        stimuli: the partitions' stimuli where they already lie on the device, uint8 ``[n, size, size, 3]``.
        encoder: ``ridge`` or ``pls``; cross-validation knows ridge alone.

    Raises:
        ConfigError: another encoder than ridge without a validation part.
        NonFiniteLossError: the features are not finite, as happens when training diverged at its last step.
    """
    if encoder != "ridge" and not len(data.val.rows):
        raise ConfigError(f"encoder is {encoder!r} without a validation part; cross-validation is defined for ridge")
    chosen = tuple(layers) if layers is not None else model.readout_layers
    pixels = data.train.stimuli if stimuli is None else stimuli
    rows = np.concatenate([data.train.rows, data.val.rows])
    scores: dict[str, NDArray[np.float64]] = {}
    for layer, features in features_by_layer(model, pixels, rows, chosen, precision=precision):
        products = _solvers.centred_cross_gram(features, len(data.train.rows))
        del features  # before the decomposition takes memory
        _require_finite(products, layer)
        if len(data.val.rows):
            predicted = _predict_validation(products, data.train.responses, n_components, encoder)
            scores[layer] = pearson_r(predicted, data.val.responses)
        else:
            folds = cross_validate_products(products, data.train.responses, n_components=n_components)
            scores[layer] = folds.r_at_one_alpha
    r_by_layer = {layer: float(r.mean()) for layer, r in scores.items()}
    best_layer = max(r_by_layer, key=r_by_layer.__getitem__)
    return ValidationScore(r_by_layer[best_layer], best_layer, r_by_layer, scores[best_layer])


def _predict_validation(
    products: Tensor, train_responses: NDArray[np.float32], n_components: int, encoder: str
) -> NDArray[np.float64]:
    """Responses to the stimuli that follow the training stimuli, by an encoding model of the latter.

    Args:
        products: see `_solvers.centred_cross_gram`, of the training stimuli and those that follow.
        train_responses: float32 ``[n_train, n_voxels]``.
        n_components: principal components kept at most.
        encoder: ``ridge`` or ``pls``.
    """
    n_train = len(train_responses)
    responses = torch.as_tensor(train_responses, dtype=torch.float64, device=products.device)
    tolerance = _solvers.RELATIVE_TOLERANCE[torch.float32]
    fit_products = fit_gram_pls if encoder == "pls" else fit_gram
    fit = fit_products(products[:n_train], responses, tolerance, n_components)
    predicted: NDArray[np.float64] = fit.predict(products[n_train:]).cpu().numpy()
    return predicted


def _require_finite(values: Tensor, layer: str) -> None:
    if not torch.isfinite(values).all():
        raise NonFiniteLossError(
            f"features at {layer} are NaN or infinite after tuning; lower the learning rate or raise the temperature"
        )
