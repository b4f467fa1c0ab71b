"""Sigmoid loss over all pairs of a batch, as SigLIP uses it."""

# ruff: noqa: ARG001 - one signature for every objective

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from trainables.tuning.objectives._pairs import scaled_similarity


def sigmoid(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    temperature: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Each pair of a response and an image is judged alone: does it belong together?

    ``L = -1/n sum_ij log sigmoid( y_ij (S_ij / T + b) )`` in nats, ``y_ij`` 1 for a pair of one stimulus and -1
    for all others.

    Departure from the source, which learns scale and bias: the scale is ``1 / T``, which the search
    explores, and the bias is fixed at the log prior odds of a match in the batch, ``b = -log(n - 1)``. There
    the loss of similarities near 0 starts small in spite of n - 1 negatives for each positive; the source
    starts its bias at -10 for the same reason.

    Args, result and errors: see `trainables.tuning.objectives.Objective`.

    Source: Zhai et al. 2023 (arXiv 2303.15343).
    """
    similarity = scaled_similarity(response_embeddings, image_embeddings, temperature)
    n_stimuli = len(similarity)
    logits = similarity - math.log(n_stimuli - 1)
    signs = 2 * torch.eye(n_stimuli, dtype=logits.dtype, device=logits.device) - 1
    return -functional.logsigmoid(signs * logits).sum() / n_stimuli
