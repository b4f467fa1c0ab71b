"""Contrastive objectives: how well each image embedding finds the embedding of its own response.

Every objective takes ``(response_embeddings, image_embeddings, temperature)``, where row ``i`` of both
belongs to stimulus ``i``, and returns a scalar. A new one is a function here and its name in `OBJECTIVES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Objective = Callable[[Tensor, Tensor, float], Tensor]


def info_nce(response_embeddings: Tensor, image_embeddings: Tensor, temperature: float) -> Tensor:
    """InfoNCE in one direction: each image picks its own response among all responses of the batch.

    With S the cosine similarity of responses (rows) and images (columns),
    ``L = -mean_j log( exp(S_jj / T) / sum_i exp(S_ij / T) )``; the positive stays in the sum. It equals
    ``log(n_stimuli)`` when every embedding is the same.

    Args:
        response_embeddings: float ``[n_stimuli, n_dimensions]``, of any norm.
        image_embeddings: float ``[n_stimuli, n_dimensions]``, row ``i`` of the same stimulus.
        temperature: divides the cosine similarities; dimensionless, finite, > 0.

    Returns:
        The loss in nats, float32 (float64 for float64 embeddings), scalar.

    Raises:
        ValueError: embeddings of different or wrong shapes, fewer than two stimuli, or a temperature out of
            range.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), as used in arXiv 2410.06067.
    """
    _require_pairs(response_embeddings, image_embeddings)
    _require_temperature(temperature)
    similarity = _cosine_similarity(response_embeddings, image_embeddings)
    positives = torch.arange(len(similarity), device=similarity.device)
    # cross_entropy normalises over the last axis; transposed, that axis holds the responses for each image
    return functional.cross_entropy(similarity.T / temperature, positives)


OBJECTIVES: dict[str, Objective] = {"info_nce": info_nce}


def _cosine_similarity(response_embeddings: Tensor, image_embeddings: Tensor) -> Tensor:
    """Responses in rows, images in columns. Half-precision embeddings are widened: 1/T magnifies rounding."""
    responses, images = (
        functional.normalize(embeddings if embeddings.dtype == torch.float64 else embeddings.float(), dim=1)
        for embeddings in (response_embeddings, image_embeddings)
    )
    return responses @ images.T


def _require_pairs(response_embeddings: Tensor, image_embeddings: Tensor) -> None:
    if response_embeddings.ndim != 2 or response_embeddings.shape != image_embeddings.shape:
        raise ValueError(
            f"embeddings have shapes {tuple(response_embeddings.shape)} and {tuple(image_embeddings.shape)}; "
            "expected one shape [n_stimuli, n_dimensions] for both"
        )
    if len(response_embeddings) < 2:
        raise ValueError(f"the batch holds {len(response_embeddings)} stimuli; a contrast needs at least 2")


def _require_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; expected a finite number above 0")
