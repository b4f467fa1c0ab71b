"""Whether a response finds its image among all test images, and an image its response."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainables.evaluations.information import cosine_similarities

# Cosine similarities that are this near differ by rounding alone: a tie.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class RetrievalAccuracy:
    """How often the right one of K candidates is among the most similar ones."""

    top1: float
    """Share of queries whose own candidate is more similar than all others."""
    top5: float
    """Share of queries whose own candidate is among the five most similar."""
    chance_top1: float
    """What guessing gives: 1/K."""
    chance_top5: float
    """5/K, at most 1."""
    n_stimuli: int
    """K; every stimulus is a query once, and a candidate for all."""


@dataclass(frozen=True)
class RetrievalScores:
    """Both directions, on the same test stimuli."""

    images: RetrievalAccuracy
    """Of the image, given the response."""
    responses: RetrievalAccuracy
    """Of the response, given the image."""


def measure_retrieval(response_embeddings: Tensor, image_embeddings: Tensor) -> RetrievalScores:
    """Top-1 and top-5 accuracy by cosine similarity, both ways.

    A candidate that is just as similar as the right one counts as more similar: embeddings that are all the same
    find nothing.

    Args:
        response_embeddings: ``[K, n_dimensions]``, finite, of any norm; K >= 2.
        image_embeddings: ``[K, n_dimensions]``, row i of the same stimulus.

    Raises:
        ValueError: shapes that differ, fewer than two stimuli, or values that are not finite.
    """
    similarity = cosine_similarities(response_embeddings, image_embeddings)
    return RetrievalScores(images=_accuracy(similarity), responses=_accuracy(similarity.T))


def _accuracy(similarity: Tensor) -> RetrievalAccuracy:
    """Of queries in rows among candidates in columns, ``[K, K]``."""
    n = len(similarity)
    own = similarity.diagonal()[:, None]
    ahead = (similarity >= own - _ROUNDING).sum(dim=1) - 1  # itself is among them
    top1, top5 = (float((ahead < k).double().mean()) for k in (1, 5))
    return RetrievalAccuracy(top1, top5, chance_top1=1 / n, chance_top5=min(1.0, 5 / n), n_stimuli=n)
