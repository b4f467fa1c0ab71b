"""Encoding accuracy on test stimuli, for networks and readout layers that are already chosen.

The encoding model is fitted to training stimuli alone, in float32, and scored once. Transfer to another
subject or data set is the same evaluation with that subject's partitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from trainables.encoding.features import extract_features
from trainables.encoding.linear import LinearEncoder
from trainables.encoding.pls import ENCODERS
from trainables.encoding.scores import noise_normalised_r2, pearson_r
from trainables.models.backbone import Backbone
from trainables.models.images import Stimuli

if TYPE_CHECKING:
    from trainables.data.responses import Partition

_STIMULI_AT_A_TIME = 512


@dataclass(frozen=True, eq=False)
class EncodingScores:
    """How well one network's features predict the responses of one target to unseen stimuli."""

    r: NDArray[np.float64]
    """Pearson r, ``[n_voxels]``."""
    mean_r: float
    """Mean of ``r`` over voxels."""
    noise_normalised_r2: NDArray[np.float64] | None
    """Share of the explainable variance, ``[n_voxels]`` in [0, 1]; None without noise ceilings."""
    median_noise_normalised_r2: float | None
    """Median over voxels, the Algonauts 2023 challenge's summary; None without noise ceilings."""
    n_stimuli: int
    """Stimuli that the scores rest on."""


def fit_encoder(
    model: Backbone,
    readout_layer: str,
    train: Partition,
    *,
    n_components: int = 1000,
    precision: str = "float32",
    encoder: str = "ridge",
) -> LinearEncoder:
    """The encoding model of one target at one readout layer.

    Args:
        model: network on the device that is to compute.
        readout_layer: chosen on validation stimuli.
        train: training part of the target.
        n_components: principal components kept at most.
        precision: of the network's pass.
        encoder: ``ridge`` or ``pls``.

    Raises:
        ConfigError: the model has no such layer.
        ValueError: features that are not finite.
    """
    features = extract_features(model, train.stimuli, train.rows, [readout_layer], precision=precision)
    return ENCODERS[encoder](n_components).fit(features[readout_layer], train.responses, overwrite=True)


def predict_responses(
    model: Backbone,
    readout_layer: str,
    encoder: LinearEncoder,
    stimuli: Stimuli,
    *,
    precision: str = "float32",
) -> NDArray[np.float32]:
    """Predicted responses of every voxel to every stimulus.

    Args:
        model: network on the device that is to compute.
        readout_layer: that of the encoder.
        encoder: result of `fit_encoder`.
        stimuli: RGB, uint8 ``[n, size, size, 3]``, of the backbone's size.
        precision: of the network's pass.

    Returns:
        float32 ``[n, n_voxels]``, in the unit of the responses that the encoder was fitted to.

    Raises:
        ConfigError: the model has no such layer, or stimuli of another type or size.
    """
    return _predict(model, readout_layer, encoder, stimuli, np.arange(len(stimuli)), precision)


def evaluate_encoding(
    model: Backbone,
    readout_layer: str,
    encoder: LinearEncoder,
    test: Partition,
    noise_ceiling: ArrayLike | None = None,
    *,
    precision: str = "float32",
) -> EncodingScores:
    """Score an encoding model on test stimuli.

    Args:
        model: network on the device that is to compute.
        readout_layer: that of the encoder.
        encoder: result of `fit_encoder`.
        test: stimuli and responses that no fit and no choice has seen.
        noise_ceiling: of the test responses, share of variance ``[n_voxels]``; None gives raw r alone.
        precision: of the network's pass.

    Raises:
        ConfigError: the model has no such layer.
        ValueError: encoder, responses and noise ceiling of different numbers of voxels.
    """
    predicted = _predict(model, readout_layer, encoder, test.stimuli, test.rows, precision)
    r = pearson_r(predicted, test.responses)
    normalised = None if noise_ceiling is None else noise_normalised_r2(r, noise_ceiling)
    return EncodingScores(
        r=r,
        mean_r=float(r.mean()),
        noise_normalised_r2=normalised,
        median_noise_normalised_r2=None if normalised is None else float(np.median(normalised)),
        n_stimuli=len(test.rows),
    )


def voxels_improved(r: ArrayLike, reference_r: ArrayLike) -> float:
    """Per cent of voxels whose encoding accuracy is above the reference's; equal is not above.

    Args:
        r: of the network in question, ``[n_voxels]``.
        reference_r: of the untuned or the regression network, same voxels and stimuli, ``[n_voxels]``.

    Returns:
        0 to 100.

    Raises:
        ValueError: no voxel, or different numbers of voxels.
    """
    ours, reference = np.asarray(r), np.asarray(reference_r)
    if ours.shape != reference.shape or ours.size == 0:
        raise ValueError(f"r has shape {ours.shape} and reference_r {reference.shape}; expected the same voxels")
    return float(100.0 * np.mean(ours > reference))


def _predict(
    model: Backbone,
    readout_layer: str,
    encoder: LinearEncoder,
    stimuli: Stimuli,
    rows: NDArray[np.int64],
    precision: str,
) -> NDArray[np.float32]:
    # In parts: features of thousands of stimuli would take gigabytes that predictions do not need.
    parts = [
        encoder.predict(extract_features(model, stimuli, part, [readout_layer], precision=precision)[readout_layer])
        for part in np.array_split(rows, max(1, len(rows) // _STIMULI_AT_A_TIME))
    ]
    return torch.cat(parts).cpu().numpy()
