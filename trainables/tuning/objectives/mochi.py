"""Hard negatives mixed at feature level, as MoCHi does."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.tuning.objectives._pairs import require_pairs, require_temperature, unit


def hard_negatives(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    temperature: float,
    *,
    generator: torch.Generator | None = None,
    n_hardest: int = 64,
    n_pairs: int = 64,
    n_with_image: int = 8,
) -> Tensor:
    """InfoNCE in one direction with negatives that are made up from the hardest ones of the batch.

    The ``n_hardest`` responses to other stimuli that are most similar to an image are its hard negatives. To
    the sum of `info_nce` come, for each image,

    * ``n_pairs`` mixtures ``a r_1 + (1 - a) r_2`` of two hard negatives, ``a`` from (0, 1),
    * ``n_with_image`` mixtures ``b v + (1 - b) r`` of the image ``v`` and a hard negative, ``b`` from (0, 0.5),

    all of unit vectors, and brought back to norm 1. The loss is ``log(n_stimuli + n_pairs + n_with_image)`` nats
    when every embedding is the same.

    Departures from the source. Its negatives lie in a queue of 16384 without gradient, of which the 1024
    hardest give 1024 and 128 mixtures; here the batch is the queue, the numbers are a sixteenth, as a batch
    of 1024 is, and the gradient flows through mixtures as through all negatives. What is drawn (ranks among the
    hard negatives, and shares) is drawn once for all images of the batch, so that the loss does not depend on the
    order of stimuli.

    Args:
        response_embeddings: see `trainables.tuning.objectives.Objective`, as are result and other errors.
        image_embeddings: likewise.
        temperature: likewise.
        generator: of the CPU; needed.
        n_hardest: hard negatives of an image, >= 1; all negatives where the batch has fewer.
        n_pairs: mixtures of two hard negatives, >= 0.
        n_with_image: mixtures with the image, >= 0.

    Source: Kalantidis et al. 2020 (arXiv 2010.01028).
    """
    require_pairs(response_embeddings, image_embeddings)
    require_temperature(temperature)
    if generator is None:
        raise ValueError("generator is None; hard_negatives draws mixtures, so pass a torch.Generator of the CPU")
    if n_hardest < 1 or min(n_pairs, n_with_image) < 0:
        raise ValueError(
            f"n_hardest, n_pairs and n_with_image are {n_hardest}, {n_pairs} and {n_with_image}; expected at least "
            "1, 0 and 0"
        )
    responses = unit(response_embeddings)
    similarity = unit(image_embeddings) @ responses.T  # [n_images, n_responses]
    positive = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    n_hard = min(n_hardest, len(similarity) - 1)
    hardest = similarity.detach().masked_fill(positive, -torch.inf).topk(n_hard, dim=1).indices
    of_pairs = _with_each_other(similarity, responses @ responses.T, hardest, n_pairs, generator)
    with_image = _with_the_image(similarity, hardest, n_with_image, generator)
    logits = torch.cat([similarity, of_pairs, with_image], dim=1) / temperature
    return (logits.logsumexp(dim=1) - similarity.diagonal() / temperature).mean()


def _with_each_other(
    similarity: Tensor, responses_gram: Tensor, hardest: Tensor, n_mixtures: int, generator: torch.Generator
) -> Tensor:
    """Similarity of each image to mixtures of two of its hard negatives, ``[n_images, n_mixtures]``.

    Inner products are all it takes: the mixtures themselves, ``[n_images, n_mixtures, n_dimensions]``, would be
    far larger than the batch.
    """
    ranks = torch.randint(hardest.shape[1], (2, n_mixtures), generator=generator).to(hardest.device, non_blocking=True)
    share = torch.rand(n_mixtures, generator=generator, dtype=torch.float64).to(similarity, non_blocking=True)
    one, other = hardest[:, ranks[0]], hardest[:, ranks[1]]
    dot = share * similarity.gather(1, one) + (1 - share) * similarity.gather(1, other)
    return dot / _norm(share, responses_gram[one, other])


def _with_the_image(similarity: Tensor, hardest: Tensor, n_mixtures: int, generator: torch.Generator) -> Tensor:
    """Similarity of each image to mixtures of itself and a hard negative, ``[n_images, n_mixtures]``."""
    ranks = torch.randint(hardest.shape[1], (n_mixtures,), generator=generator).to(hardest.device, non_blocking=True)
    share = torch.rand(n_mixtures, generator=generator, dtype=torch.float64).to(similarity, non_blocking=True) / 2
    cosine = similarity.gather(1, hardest[:, ranks])
    return (share + (1 - share) * cosine) / _norm(share, cosine)


def _norm(share: Tensor, cosine: Tensor) -> Tensor:
    """Norm of ``share u + (1 - share) v``, for unit vectors of that cosine."""
    squared = share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * cosine
    # Opposite vectors in equal shares leave nothing, whose direction is nowhere: similarity 0, not NaN.
    return squared.clamp_min(1e-12).sqrt()
