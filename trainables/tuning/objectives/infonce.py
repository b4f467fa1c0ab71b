"""InfoNCE in one direction: the published recipe's objective."""

# ruff: noqa: ARG001 - one signature for every objective

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trainables.tuning.objectives._pairs import scaled_similarity


def info_nce(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    temperature: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """InfoNCE in one direction: each image picks its own response among all responses of the batch.

    With S the cosine similarity of responses (rows) and images (columns),
    ``L = -mean_j log( exp(S_jj / T) / sum_i exp(S_ij / T) )`` in nats; the positive stays in the sum. It equals
    ``log(n_stimuli)`` when every embedding is the same.

    Args, result and errors: see `trainables.tuning.objectives.Objective`.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), as used in arXiv 2410.06067.
    """
    similarity = scaled_similarity(response_embeddings, image_embeddings, temperature)
    positives = torch.arange(len(similarity), device=similarity.device)
    # cross_entropy normalises over the last axis; transposed, that axis holds the responses for each image
    return functional.cross_entropy(similarity.T, positives)
