"""Responses mixed in pairs, and both directions with soft labels: BiMixCo, as MindEye uses it."""

# ruff: noqa: ARG001 - one signature for every objective

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.tuning.objectives._pairs import scaled_similarity

_BETA = 0.15
"""Both parameters of the shares' Beta distribution: most shares lie near 0 or 1."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """Which responses of a batch are mixed, and how much of each remains.

    Raises:
        ValueError: partners or shares that do not fit each other.
    """

    partners: Tensor
    """Row that is mixed into each row, int64 ``[n_stimuli]``, on the CPU."""
    shares: Tensor
    """Of each row's own response, float64 ``[n_stimuli]`` in [0, 1], on the CPU; the partner has the rest."""

    def __post_init__(self) -> None:
        if self.partners.ndim != 1 or self.partners.shape != self.shares.shape:
            raise ValueError(
                f"partners and shares have shapes {tuple(self.partners.shape)} and {tuple(self.shares.shape)}; "
                "expected one shape [n_stimuli] for both"
            )

    def apply(self, responses: Tensor) -> Tensor:
        """Mixed responses, before they enter the head: ``[n_stimuli, n_voxels] -> [n_stimuli, n_voxels]``."""
        shares = self.shares.to(responses, non_blocking=True)[:, None]
        return shares * responses + (1 - shares) * responses[self.partners.to(responses.device, non_blocking=True)]

    def labels(self) -> Tensor:
        """How much of each stimulus (columns) a mixed response (rows) holds, float64 ``[n_stimuli, n_stimuli]``."""
        # Added, not set: a row that is its own partner holds itself entirely.
        return torch.diag(self.shares).index_put(
            (torch.arange(len(self.partners)), self.partners), 1 - self.shares, accumulate=True
        )


class MixedObjective(Protocol):
    """An objective of mixed responses; `Mixing` says what was mixed."""

    def __call__(
        self, response_embeddings: Tensor, image_embeddings: Tensor, temperature: float, *, mixing: Mixing | None = None
    ) -> Tensor:
        """The loss of a batch; see `trainables.tuning.objectives.Objective`."""


def draw_mixing(n_stimuli: int, generator: torch.Generator) -> Mixing:
    """Partners by a random permutation, shares from Beta(0.15, 0.15).

    Args:
        n_stimuli: of the batch.
        generator: of the CPU, in the same state on every data-parallel worker.
    """
    partners = torch.randperm(n_stimuli, generator=generator)
    # PyTorch draws no Beta from a generator of one's own, NumPy does.
    seed = int(torch.randint(2**62, (), generator=generator))
    return Mixing(partners, torch.from_numpy(np.random.default_rng(seed).beta(_BETA, _BETA, n_stimuli)))


def bimixco(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    temperature: float,
    *,
    generator: torch.Generator | None = None,
    mixing: Mixing | None = None,
) -> Tensor:
    """InfoNCE in both directions between mixed responses and images, each mixture with two soft labels.

    With ``P_ij`` the share of stimulus ``j`` in mixed response ``i`` (`Mixing.labels`) and ``E = exp(S / T)``,
    ``L = -1/2n sum_ij P_ij [ log( E_ij / sum_m E_im ) + log( E_ij / sum_m E_mj ) ]`` in nats; ``log(n_stimuli)`` when
    every embedding is the same. As in the source, an image that is the partner of a mixture has labels that do not
    add up to 1 in the second direction.

    Departure from the source, which goes on to soft labels from the images after a third of the epochs: the
    responses are mixed in all of them.

    Args:
        response_embeddings: of responses that went through ``mixing.apply``, ``[n_stimuli, n_dimensions]``; see
            `trainables.tuning.objectives.Objective`, as are result and other errors.
        image_embeddings: of the images, which are not mixed.
        temperature: likewise.
        generator: not read: what is drawn is in ``mixing``.
        mixing: of this batch; None says that nothing was mixed, and the loss is symmetric InfoNCE.

    Raises:
        ValueError: also for a mixing of another number of stimuli.

    Source: Scotti et al. 2023 (arXiv 2305.18274), equation for BiMixCo.
    """
    similarity = scaled_similarity(response_embeddings, image_embeddings, temperature)
    n_stimuli = len(similarity)
    if mixing is None:
        labels = torch.eye(n_stimuli, dtype=similarity.dtype, device=similarity.device)
    elif len(mixing.partners) != n_stimuli:
        raise ValueError(f"mixing is of {len(mixing.partners)} stimuli; expected the batch's {n_stimuli}")
    else:
        labels = mixing.labels().to(similarity, non_blocking=True)
    over_images = functional.log_softmax(similarity, dim=1)
    over_responses = functional.log_softmax(similarity, dim=0)
    return -(labels * (over_images + over_responses)).sum() / (2 * n_stimuli)
