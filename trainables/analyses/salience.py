"""Where in a picture the evidence for a score lies: class activation maps at a convolutional layer.

With activations A ``[channels, rows, columns]`` of a layer and the gradient G of the score with respect to them:

``grad-cam``   ``relu( Σ_c mean(G_c) A_c )``: a channel weighs as its mean gradient over the picture. It says where the
               channels are active that the score depends on (Selvaraju et al. 2017, arXiv 1610.02391).
``hires-cam``  ``relu( Σ_c G_c ⊙ A_c )``: each place has its own gradient. It says which places the score depends on
               (Draelos & Carin 2020, arXiv 2011.08891).

For a class the two agree well, since what makes a dog makes it everywhere. For a voxel they do not: its receptive
field lies in the gradient's places, which Grad-CAM averages away. Questions about the visual field need ``hires-cam``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.encoding.linear import LinearEncoder
from trainables.errors import ConfigError
from trainables.evaluations.classification import Classifier
from trainables.models.backbone import Backbone
from trainables.models.images import Stimuli, normalised_batch

GRAD_CAM, HIRES_CAM = "grad-cam", "hires-cam"
KINDS = (GRAD_CAM, HIRES_CAM)


@dataclass(frozen=True, eq=False)
class Score:
    """A number for each stimulus, differentiable in the network's features."""

    layer: str
    """The readout layer that it is computed from."""
    values: Callable[[Tensor, NDArray[np.int64]], Tensor]
    """From features at that layer, float32 ``[n, n_features]``, and the rows of these stimuli, ``[n]``, to ``[n]``;
    each value depends on its own stimulus alone."""


@dataclass(frozen=True, eq=False)
class SalienceMaps:
    """Maps of some stimuli, and how they were made."""

    maps: NDArray[np.float32]
    """``[n_stimuli, height, width]``, >= 0, in the size of the images; in units of the score, not normalised: a map
    of zeros means that nothing spoke for the score."""
    layer: str
    """Where activations and gradients were taken."""
    kind: str
    """``grad-cam`` or ``hires-cam``."""


def class_score(model: Backbone, labels: NDArray[np.int64], classifier: Classifier | None = None) -> Score:
    """The logit of each stimulus's true class, of a classifier on the network's features or of its own output.

    The own output means what it says for networks whose output is still that of the classifier; tuning at the cutoff
    ``output`` changes the output along with everything else.

    Args:
        model: the network; without a classifier the whole one, with its output layer.
        labels: true class of every stimulus, ``[n_stimuli]``, in the order of the stimuli's rows.
        classifier: fitted to features of this network (`trainables.evaluations.classification`).

    Raises:
        ConfigError: without a classifier, a network that is cut before its output layer; a label outside the classes.
    """
    output, n_classes = list(model.spec.readout_layers.items())[-1]
    owner = model.spec.name
    if classifier is not None:
        output, n_classes, owner = classifier.layer, classifier.fit.weights.shape[1], "the classifier"
    if output not in model.readout_layers:
        raise ConfigError(
            f"the network is cut at {model.cutoff} and has no class outputs; give a classifier fitted to its features, "
            "or use response_score"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ConfigError(f"labels are {labels.min()} to {labels.max()}; {owner} has classes 0 to {n_classes - 1}")

    def values(features: Tensor, rows: NDArray[np.int64]) -> Tensor:
        logits = features if classifier is None else classifier.logits(features)
        truth = torch.as_tensor(labels[rows], dtype=torch.int64, device=logits.device)
        return logits.gather(1, truth[:, None])[:, 0]

    return Score(output, values)


def response_score(encoder: LinearEncoder, readout_layer: str) -> Score:
    """The mean predicted response over the voxels of the encoder.

    Args:
        encoder: fitted to features of the network at ``readout_layer``.
        readout_layer: that of the encoder; the network may be cut there.
    """
    weights = torch.from_numpy(encoder.coef_.mean(axis=1, dtype=np.float64).astype(np.float32))
    mean = torch.from_numpy(np.asarray(encoder.feature_mean_, np.float32))
    offset = float(encoder.response_mean_.mean())

    def values(features: Tensor, _rows: NDArray[np.int64]) -> Tensor:
        return (features - mean.to(features.device)) @ weights.to(features.device) + offset

    return Score(readout_layer, values)


def salience_maps(
    model: Backbone,
    score: Score,
    stimuli: Stimuli,
    rows: NDArray[np.int64],
    *,
    layer: str | None = None,
    kind: str = GRAD_CAM,
    batch_size: int = 64,
) -> SalienceMaps:
    """A map for each stimulus, enlarged bilinearly to the size of the images.

    Dropout is off, and the model is left in the mode in which it came.

    Args:
        model: on the device that is to compute.
        score: what the maps explain.
        stimuli: RGB, uint8 ``[n, size, size, 3]``.
        rows: which stimuli, in which order, ``[n_rows]``.
        layer: see `salience_layer`.
        kind: one of `KINDS`.
        batch_size: stimuli in one pass; changes memory, not results.

    Raises:
        ConfigError: see `salience_layer`; a kind that does not exist, or stimuli of another type or size.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind of salience is {kind!r}; expected one of {', '.join(KINDS)}")
    chosen = salience_layer(model, score.layer, layer)
    device, size = next(model.parameters()).device, model.spec.image_size
    maps = np.empty((len(rows), size, size), np.float32)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            images = normalised_batch(stimuli, part, model.spec, device)
            with torch.no_grad():
                activations = apply_stages(model, images, None, chosen)
            coarse = combine(activations, _gradients(model, activations, chosen, score, part), kind)
            fine = functional.interpolate(coarse[:, None], (size, size), mode="bilinear", align_corners=False)
            maps[start : start + batch_size] = fine[:, 0].cpu().numpy()
    finally:
        model.train(was_training)
    return SalienceMaps(maps, chosen, kind)


def salience_layer(model: Backbone, score_layer: str, layer: str | None = None) -> str:
    """The layer of the maps: the given one if it will do, else the deepest convolutional one that the score reads.

    That is AlexNet's features.12, unless the network is cut before it or the score is read before it.

    Args:
        model: the network.
        score_layer: where the score is computed from.
        layer: a readout layer with rows and columns, no deeper than the score's; None to choose.

    Raises:
        ConfigError: a layer that the network lacks, that has no rows and columns, or that lies behind the score's.
    """
    model.require_readouts([score_layer])
    convolutional = model.spec.readouts_up_to(model.spec.convolutional_layer)
    usable = [name for name in model.spec.readouts_up_to(score_layer) if name in convolutional]
    if layer is not None and layer not in usable:
        raise ConfigError(
            f"salience layer is {layer!r}; a score at {score_layer} can be traced back to {', '.join(usable)}"
        )
    return layer or usable[-1]


def combine(activations: Tensor, gradients: Tensor, kind: str) -> Tensor:
    """The map at the size of the layer, before it is enlarged.

    Args:
        activations: ``[n, channels, rows, columns]``.
        gradients: of the same shape, or one for all stimuli, ``[1, channels, rows, columns]``.
        kind: one of `KINDS`.

    Returns:
        ``[n, rows, columns]``, >= 0.
    """
    weights = gradients.mean(dim=(2, 3), keepdim=True) if kind == GRAD_CAM else gradients
    return (weights * activations).sum(dim=1).clamp_min(0)


def apply_stages(model: Backbone, values: Tensor, after: str | None, last: str) -> Tensor:
    """The part of the network behind stage ``after`` (None: from the image) up to stage ``last``; not flattened."""
    names = [name for name, _ in model.stages]
    first = 0 if after is None else names.index(after) + 1
    for _, module in model.stages[first : names.index(last) + 1]:
        values = module(values)
    return values


def _gradients(model: Backbone, activations: Tensor, layer: str, score: Score, rows: NDArray[np.int64]) -> Tensor:
    """Of each stimulus's score with respect to its activations, in their shape."""
    with torch.enable_grad():
        leaf = activations.detach().requires_grad_()
        # A copy, since the next stage may work in place.
        features = apply_stages(model, leaf.clone(), layer, score.layer).flatten(1)
        # The scores' sum has the gradients of all: each score depends on its own stimulus alone.
        return torch.autograd.grad(score.values(features, rows).sum(), leaf)[0]
