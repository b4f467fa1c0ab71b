"""How well a network tuned for one subject predicts another's responses: the encoding model is refitted, the network
is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from trainables.encoding.validation import score_readout_layers
from trainables.errors import ConfigError
from trainables.models.backbone import Backbone

if TYPE_CHECKING:
    from trainables.data.responses import TargetData


@dataclass(frozen=True)
class TransferScores:
    """A network against the untuned one on the same voxels and stimuli."""

    r: float
    """Mean Pearson r over voxels."""
    untuned_r: float
    """That of the untuned network."""
    fraction_above_untuned: float
    """Share of voxels with r above the untuned network's; equal is not above."""
    mean_delta_r: float
    """Mean over voxels of r less the untuned network's."""
    n_voxels: int


def compare_transfer(r: ArrayLike, untuned_r: ArrayLike) -> TransferScores:
    """Both metrics of a cell of the transfer matrix.

    Args:
        r: of the network that was tuned for somebody else, ``[n_voxels]``.
        untuned_r: of the untuned network, same voxels and stimuli.

    Raises:
        ValueError: no voxel, or different numbers of voxels.
    """
    ours, reference = np.asarray(r, dtype=np.float64), np.asarray(untuned_r, dtype=np.float64)
    if ours.shape != reference.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"r has shape {ours.shape} and untuned_r {reference.shape}; expected the same voxels")
    return TransferScores(
        float(ours.mean()),
        float(reference.mean()),
        float((ours > reference).mean()),
        float((ours - reference).mean()),
        len(ours),
    )


def transfer_score(network: Backbone, others: Sequence[TargetData], *, encoder: str = "ridge") -> float:
    """Mean validation r over other subjects, each at the readout layer that is best for it; what a trial records.

    Raises:
        ConfigError: no other subject has the ROI.
    """
    if not others:
        raise ConfigError("--scores holds 'transfer', but no other subject of the sweep has this ROI; leave it out")
    return float(np.mean([score_readout_layers(network, data, encoder=encoder).r for data in others]))
