"""Features of stimuli at readout layers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.models.backbone import Backbone
from trainables.models.hardware import autocast, choose_precision
from trainables.models.images import Stimuli, normalised_batch


def extract_features(
    model: Backbone,
    stimuli: Stimuli,
    rows: NDArray[np.int64],
    layers: Iterable[str],
    *,
    precision: str = "float32",
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """Flattened activations of several layers from one pass over the stimuli.

    Dropout is off, gradients are off, and the model is left in the mode in which it came. All features of all
    layers are held on the model's device at once: 0.8 MB a stimulus for the whole of AlexNet.

    Args:
        model: the backbone, on the device that is to compute.
        stimuli: RGB, uint8 ``[n, size, size, 3]``; an array (memory-mapped or not) or a tensor.
        rows: which stimuli, in which order, ``[n_rows]``.
        layers: readout layers of the model.
        precision: see `trainables.models.hardware.choose_precision`.
        batch_size: stimuli in one pass; changes memory, not results.

    Returns:
        ``{layer: float32 [n_rows, n_features]}`` on the model's device.

    Raises:
        ConfigError: a layer that the model lacks, or stimuli of another type or size.
    """
    device = next(model.parameters()).device
    wanted = model.require_readouts(layers)
    features = {layer: torch.empty(len(rows), model.spec.readout_layers[layer], device=device) for layer in wanted}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, choose_precision(precision, device)):
            for start in range(0, len(rows), batch_size):
                batch = slice(start, start + batch_size)
                images = normalised_batch(stimuli, rows[batch], model.spec, device)
                for layer, activation in model.readouts(images, wanted).items():
                    features[layer][batch] = activation
    finally:
        model.train(was_training)
    return features
