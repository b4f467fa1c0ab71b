"""Features of stimuli at readout layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.models.backbone import Backbone
from trainables.models.hardware import autocast, choose_precision
from trainables.models.images import Stimuli, normalised_batch

AT_ONCE_BYTES = 1 << 30
"""Features of several layers are held together up to this size, or up to that of the largest layer if it is more."""


def extract_features(
    model: Backbone,
    stimuli: Stimuli,
    rows: NDArray[np.int64],
    layers: Iterable[str],
    *,
    precision: str = "float32",
    batch_size: int = 128,
    as_computed: bool = False,
) -> dict[str, Tensor]:
    """Flattened activations of several layers from one pass over the stimuli.

    Dropout is off, gradients are off, and the model is left in the mode in which it came. All features of all
    layers are held on the model's device at once: 0.8 MB a stimulus for the whole of AlexNet in float32.

    Args:
        model: the backbone, on the device that is to compute.
        stimuli: RGB, uint8 ``[n, size, size, 3]``; an array (memory-mapped or not) or a tensor.
        rows: which stimuli, in which order, ``[n_rows]``.
        layers: readout layers of the model.
        precision: see `trainables.models.hardware.choose_precision`.
        batch_size: stimuli in one pass; changes memory, not results.
        as_computed: leave features in the type in which a layer computes them: half as much memory in bfloat16, and
            the same values.

    Returns:
        ``{layer: [n_rows, n_features]}`` on the model's device, float32 unless ``as_computed``.

    Raises:
        ConfigError: a layer that the model lacks, or stimuli of another type or size.
    """
    device = next(model.parameters()).device
    wanted = model.require_readouts(layers)
    widths = model.spec.readout_layers
    features = {layer: torch.empty(0, widths[layer], device=device) for layer in wanted}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(device, choose_precision(precision, device)):
            for start in range(0, len(rows), batch_size):
                batch = slice(start, start + batch_size)
                images = normalised_batch(stimuli, rows[batch], model.spec, device)
                for layer, activation in model.readouts(images, wanted).items():
                    if not start:
                        dtype = activation.dtype if as_computed else torch.float32
                        features[layer] = torch.empty(len(rows), widths[layer], dtype=dtype, device=device)
                    features[layer][batch] = activation
    finally:
        model.train(was_training)
    return features


def layers_together(
    layers: Iterable[str], layer_bytes: Mapping[str, int], at_once: int | None = None
) -> Iterator[tuple[str, ...]]:
    """Neighbouring layers whose features fit into ``at_once`` bytes together, in order; a larger layer comes alone.

    Without a number they are `AT_ONCE_BYTES`, or those of the largest layer, which have to fit anyhow.
    """
    at_once = max([AT_ONCE_BYTES, *layer_bytes.values()]) if at_once is None else at_once
    group: tuple[str, ...] = ()
    for layer in layers:
        if group and sum(layer_bytes[each] for each in (*group, layer)) > at_once:
            yield group
            group = ()
        group += (layer,)
    if group:
        yield group


def held_type(model: Backbone, dtype: torch.dtype) -> torch.dtype:
    """Of features as a pass in ``dtype`` computes them: autocast normalises layers in float32, which then stays."""
    normalises = any(isinstance(module, nn.LayerNorm) for module in model.modules())
    return torch.float32 if normalises else dtype


def features_by_layer(
    model: Backbone,
    stimuli: Stimuli,
    rows: NDArray[np.int64],
    layers: Iterable[str],
    *,
    precision: str = "float32",
    at_once: int | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Features of one layer after the other, of which no more are held than fit into ``at_once`` bytes.

    Where they do not all fit, the stimuli pass through the network several times, each time no further than the last
    layer that is held. Of the whole AlexNet and 8,364 stimuli that is twice the arithmetic of a single pass, for a
    third of its memory.

    Args:
        model: see `extract_features`, as for what follows.
        stimuli: likewise.
        rows: likewise.
        layers: likewise; from the first of the network to the last.
        precision: likewise.
        at_once: see `layers_together`.

    Yields:
        A layer and its features ``[n_rows, n_features]`` as they were computed, on the model's device. They belong to
        the caller, who lets go of them before the next.

    Raises:
        ConfigError: see `extract_features`.
    """
    wanted = model.require_readouts(layers)
    itemsize = held_type(model, choose_precision(precision, next(model.parameters()).device)).itemsize
    layer_bytes = {layer: itemsize * len(rows) * model.spec.readout_layers[layer] for layer in wanted}
    for group in layers_together(wanted, layer_bytes, at_once):
        features = extract_features(model, stimuli, rows, group, precision=precision, as_computed=True)
        for layer in group:
            yield layer, features.pop(layer)
