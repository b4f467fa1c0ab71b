"""Retrieval against a naive count, chance and ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.evaluations.retrieval import measure_retrieval


def _pair(n: int = 40, noise: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 6, generator=generator)
    return 2 * images + 2 * noise * torch.randn(n, 6, generator=generator), images


def _naive(queries: np.ndarray, candidates: np.ndarray, k: int) -> float:
    hits = 0
    for i, query in enumerate(queries):
        cosines = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in candidates]
        hits += i in np.argsort(cosines)[::-1][:k]
    return hits / len(queries)


def test_both_directions_are_a_naive_count() -> None:
    responses, images = _pair()
    scores = measure_retrieval(responses, images)
    r, z = responses.double().numpy(), images.double().numpy()
    assert (scores.images.top1, scores.images.top5) == (_naive(r, z, 1), _naive(r, z, 5))
    assert (scores.responses.top1, scores.responses.top5) == (_naive(z, r, 1), _naive(z, r, 5))
    assert scores.images != scores.responses, "the directions are told apart"
    assert 0 < scores.images.top1 < scores.images.top5 < 1
    for accuracy in (scores.images, scores.responses):
        assert (accuracy.chance_top1, accuracy.chance_top5, accuracy.n_stimuli) == (1 / 40, 5 / 40, 40)


def test_chance_is_what_unrelated_embeddings_reach() -> None:
    generator = torch.Generator().manual_seed(2)
    responses, images = torch.randn(2, 2000, 8, generator=generator)
    scores = measure_retrieval(responses, images).images
    assert scores.top5 == pytest.approx(scores.chance_top5, abs=4 * (scores.chance_top5 / 2000) ** 0.5)
    assert scores.top1 == pytest.approx(scores.chance_top1, abs=4 * (scores.chance_top1 / 2000) ** 0.5)


def test_perfect_embeddings_find_everything() -> None:
    images = torch.eye(7)
    scores = measure_retrieval(3 * images, images)
    assert scores.images.top1 == scores.responses.top1 == 1.0


def test_ties_count_against() -> None:
    same = torch.full((9, 3), 0.1)
    scores = measure_retrieval(same, 7 * same)
    assert scores.images.top1 == scores.images.top5 == scores.responses.top5 == 0.0
    # Image 0 twice among six: its two responses each have a rival for the first place, but not for the fifth.
    images = torch.eye(6)[[0, 0, 1, 2, 3, 4]]
    twice = measure_retrieval(images, images).images
    assert (twice.top1, twice.top5) == (4 / 6, 1.0)


def test_few_stimuli_and_refusals() -> None:
    assert measure_retrieval(torch.eye(3), torch.eye(3)).images.chance_top5 == 1.0
    with pytest.raises(ValueError, match="NaN"):
        measure_retrieval(torch.full((3, 2), torch.nan), torch.eye(3)[:, :2])
    with pytest.raises(ValueError, match="one shape"):
        measure_retrieval(torch.eye(3), torch.eye(4))
