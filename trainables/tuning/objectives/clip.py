"""InfoNCE in both directions, as CLIP uses it."""

# ruff: noqa: ARG001 - one signature for every objective

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trainables.tuning.objectives._pairs import scaled_similarity


def symmetric_info_nce(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    temperature: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of InfoNCE over responses for each image and of InfoNCE over images for each response.

    ``L = -1/2 mean_j [ log( exp(S_jj / T) / sum_i exp(S_ij / T) ) + log( exp(S_jj / T) / sum_i exp(S_ji / T) ) ]``
    in nats; ``log(n_stimuli)`` when every embedding is the same. The temperature is given, not learned.

    Args, result and errors: see `trainables.tuning.objectives.Objective`.

    Source: Radford et al. 2021 (arXiv 2103.00020).
    """
    similarity = scaled_similarity(response_embeddings, image_embeddings, temperature)
    positives = torch.arange(len(similarity), device=similarity.device)
    return (functional.cross_entropy(similarity.T, positives) + functional.cross_entropy(similarity, positives)) / 2
