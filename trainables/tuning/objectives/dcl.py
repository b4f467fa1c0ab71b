"""Decoupled contrastive learning: InfoNCE whose positive leaves the denominator."""

# ruff: noqa: ARG001 - one signature for every objective

from __future__ import annotations

import torch
from torch import Tensor

from trainables.tuning.objectives._pairs import scaled_similarity


def decoupled(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    temperature: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Each image against the responses to other stimuli alone: the positive is not in the sum.

    ``L = -mean_j [ S_jj / T - log sum_{i != j} exp(S_ij / T) ]`` in nats; ``log(n_stimuli - 1)`` when every
    embedding is the same, and without lower bound at 0. The gradient does not fade where the positive is
    found already, which makes small batches learn more. The source contrasts two views of one image, each
    against both views of all others; here it is one direction, as in `info_nce`, and one kind of negative.

    Args, result and errors: see `trainables.tuning.objectives.Objective`.

    Source: Yeh et al. 2022 (arXiv 2110.06848), without its weighting.
    """
    similarity = scaled_similarity(response_embeddings, image_embeddings, temperature)
    positive = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    negatives = similarity.masked_fill(positive, -torch.inf).logsumexp(dim=0)
    return (negatives - similarity.diagonal()).mean()
