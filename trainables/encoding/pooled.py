"""The validation score of a network that is to serve several subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainables.encoding.validation import ValidationScore, score_readout_layers
from trainables.models.backbone import Backbone
from trainables.models.images import Stimuli

if TYPE_CHECKING:
    from trainables.data.responses import TargetData


def score_pooled(
    model: Backbone,
    data: Sequence[TargetData],
    *,
    precision: str = "float32",
    n_components: int = 1000,
    stimuli: Sequence[Stimuli | None] | None = None,
    encoder: str = "ridge",
) -> ValidationScore:
    """Encoding models of every subject's own responses, and one readout layer for all of them.

    Every subject counts the same, whatever its number of voxels: ``r`` is the mean over subjects of their mean r
    over voxels, at the layer where that is highest (the earlier one on a tie). For a single subject it is
    `score_readout_layers`.

    Args:
        model: on the device that is to compute.
        data: training and validation part of each subject.
        precision: see `score_readout_layers`, as for what follows.
        n_components: likewise.
        stimuli: of each subject, where they already lie on the device.
        encoder: see `score_readout_layers`.

    Returns:
        ``r_by_layer`` averaged over subjects; ``r_per_voxel`` of one subject after the other, so its mean is not
        ``r`` where subjects differ in their number of voxels.

    Raises:
        ValueError: no subject.
        NonFiniteLossError: the features are not finite.
    """
    if not data:
        raise ValueError("there is no subject to score; expected at least one")
    on_device = stimuli or [None] * len(data)

    def score(subject: int, layers: Sequence[str] | None = None) -> ValidationScore:
        return score_readout_layers(
            model,
            data[subject],
            layers,
            precision=precision,
            n_components=n_components,
            stimuli=on_device[subject],
            encoder=encoder,
        )

    scores = [score(subject) for subject in range(len(data))]
    r_by_layer = {layer: float(np.mean([s.r_by_layer[layer] for s in scores])) for layer in scores[0].r_by_layer}
    best = max(r_by_layer, key=r_by_layer.__getitem__)
    # Each score holds voxels at its own best layer; a subject that would have chosen another one is read again.
    at_best = [s if s.best_layer == best else score(subject, [best]) for subject, s in enumerate(scores)]
    return ValidationScore(r_by_layer[best], best, r_by_layer, np.concatenate([s.r_per_voxel for s in at_best]))
