"""Contract of every objective, and the exact formula of InfoNCE."""

import math

import pytest
import torch
from torch import Tensor

from trainables.tuning.objectives import OBJECTIVES, info_nce


def _embeddings(n_stimuli: int = 6, n_dimensions: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n_stimuli, n_dimensions)
    responses, images = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return responses, images


def _naive_info_nce(responses: Tensor, images: Tensor, temperature: float) -> float:
    total = 0.0
    for j in range(len(images)):
        terms = []
        for i in range(len(responses)):
            dot = sum(float(a) * float(b) for a, b in zip(responses[i], images[j], strict=True))
            cosine = dot / (math.hypot(*responses[i].tolist()) * math.hypot(*images[j].tolist()))
            terms.append(math.exp(cosine / temperature))
        total -= math.log(terms[j] / sum(terms))
    return total / len(images)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_info_nce_is_the_double_loop(temperature: float) -> None:
    responses, images = _embeddings()
    loss = info_nce(responses, images, temperature)
    assert float(loss) == pytest.approx(_naive_info_nce(responses, images, temperature), rel=1e-12)


def test_info_nce_normalises_over_responses_not_over_images() -> None:
    responses, images = _embeddings()
    swapped = float(info_nce(images, responses, 0.3))
    assert abs(float(info_nce(responses, images, 0.3)) - swapped) > 1e-3


def test_info_nce_of_identical_embeddings_is_log_n() -> None:
    same = torch.ones(7, 3)
    assert float(info_nce(same, same, 0.1)) == pytest.approx(math.log(7), rel=1e-6)


def test_info_nce_of_perfect_orthogonal_embeddings() -> None:
    n_stimuli, temperature = 5, 0.3
    eye = torch.eye(n_stimuli, dtype=torch.float64)
    expected = math.log(1 + (n_stimuli - 1) * math.exp(-1 / temperature))
    assert float(info_nce(3 * eye, 0.2 * eye, temperature)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
class TestEveryObjective:
    def test_gradient(self, name: str) -> None:
        responses, images = (embeddings.requires_grad_() for embeddings in _embeddings())
        assert torch.autograd.gradcheck(lambda r, i: OBJECTIVES[name](r, i, 0.3), (responses, images))

    def test_order_of_stimuli_does_not_matter(self, name: str) -> None:
        responses, images = _embeddings()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
        loss = OBJECTIVES[name](responses, images, 0.3)
        assert float(OBJECTIVES[name](responses[order], images[order], 0.3)) == pytest.approx(float(loss), rel=1e-12)

    def test_true_pairs_cost_less_than_wrong_ones(self, name: str) -> None:
        embeddings, _ = _embeddings(12, 8)
        wrong = embeddings.roll(1, 0)
        assert float(OBJECTIVES[name](embeddings, embeddings, 0.3)) < float(OBJECTIVES[name](embeddings, wrong, 0.3))

    def test_reduced_precision_is_widened(self, name: str) -> None:
        responses, images = (embeddings.bfloat16() for embeddings in _embeddings())
        loss = OBJECTIVES[name](responses, images, 0.02)
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(
            float(OBJECTIVES[name](responses.double(), images.double(), 0.02)), rel=1e-5
        )

    @pytest.mark.parametrize("temperature", [0.0, -0.3, math.nan, math.inf])
    def test_temperature_out_of_range(self, name: str, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature"):
            OBJECTIVES[name](*_embeddings(), temperature)

    @pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((1, 3), (1, 3))])
    def test_shapes_that_do_not_fit(self, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        with pytest.raises(ValueError, match=r"shape|at least 2"):
            OBJECTIVES[name](torch.ones(shapes[0]), torch.ones(shapes[1]), 0.3)
