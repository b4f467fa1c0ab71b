"""What every objective promises; one that is added to `OBJECTIVES` is tested here without another line."""

import math

import pytest
import torch
from torch import Tensor

from trainables.tuning.objectives import MIXED_OBJECTIVES, OBJECTIVES


def _embeddings(n_stimuli: int = 6, n_dimensions: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n_stimuli, n_dimensions)
    responses, images = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return responses, images


def _loss(name: str, responses: Tensor, images: Tensor, temperature: float = 0.3, seed: int = 0) -> Tensor:
    return OBJECTIVES[name](responses, images, temperature, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
class TestEveryObjective:
    def test_gradient(self, name: str) -> None:
        responses, images = (embeddings.requires_grad_() for embeddings in _embeddings())
        assert torch.autograd.gradcheck(lambda r, i: _loss(name, r, i), (responses, images))

    def test_both_branches_learn(self, name: str) -> None:
        responses, images = (embeddings.requires_grad_() for embeddings in _embeddings())
        gradients = torch.autograd.grad(_loss(name, responses, images), (responses, images))
        assert all((gradient.norm(dim=1) > 1e-6).all() for gradient in gradients)

    def test_is_a_scalar_that_small_and_large_batches_have(self, name: str) -> None:
        for n_stimuli in (2, 3, 200):
            loss = _loss(name, *_embeddings(n_stimuli))
            assert loss.shape == ()
            assert math.isfinite(float(loss))

    def test_order_of_stimuli_does_not_matter(self, name: str) -> None:
        responses, images = _embeddings(20)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
        expected = float(_loss(name, responses, images))
        assert float(_loss(name, responses[order], images[order])) == pytest.approx(expected, rel=1e-12)

    def test_norms_do_not_matter(self, name: str) -> None:
        responses, images = _embeddings()
        scales = torch.linspace(0.5, 3, len(images), dtype=torch.float64)[:, None]
        expected = float(_loss(name, responses, images))
        assert float(_loss(name, scales * responses, images * 7)) == pytest.approx(expected, rel=1e-12)

    def test_true_pairs_cost_less_than_wrong_ones(self, name: str) -> None:
        embeddings, _ = _embeddings(12, 8)
        wrong = embeddings.roll(1, 0)
        assert float(_loss(name, embeddings, embeddings)) < float(_loss(name, embeddings, wrong))

    def test_embeddings_that_follow_the_gradient_find_their_pairs(self, name: str) -> None:
        responses, images = (embeddings.requires_grad_() for embeddings in _embeddings(12, 8))
        optimiser = torch.optim.Adam([responses, images], lr=0.05)
        for step in range(150):
            optimiser.zero_grad()
            _loss(name, responses, images, seed=step).backward()
            optimiser.step()
        similarity = torch.nn.functional.cosine_similarity(responses[:, None], images[None], dim=2)
        assert similarity.argmax(dim=0).tolist() == similarity.argmax(dim=1).tolist() == list(range(12))

    def test_only_the_generator_given_is_random(self, name: str) -> None:
        responses, images = _embeddings()
        losses = []
        for noise in (1, 2):
            torch.manual_seed(noise)
            before = torch.get_rng_state()
            losses.append(float(_loss(name, responses, images, seed=4)))
            assert torch.equal(torch.get_rng_state(), before)
        assert losses[0] == losses[1]

    @pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
    def test_reduced_precision_is_widened(self, name: str, precision: torch.dtype) -> None:
        responses, images = (embeddings.to(precision) for embeddings in _embeddings())
        loss = _loss(name, responses, images, 0.02)
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(_loss(name, responses.double(), images.double(), 0.02)), rel=1e-5)

    def test_double_precision_is_kept(self, name: str) -> None:
        assert _loss(name, *_embeddings()).dtype == torch.float64

    @pytest.mark.parametrize("temperature", [0.0, -0.3, math.nan, math.inf])
    def test_temperature_out_of_range(self, name: str, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature"):
            _loss(name, *_embeddings(), temperature)

    @pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((1, 3), (1, 3))])
    def test_shapes_that_do_not_fit(self, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        with pytest.raises(ValueError, match=r"shape|at least 2"):
            _loss(name, torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_objectives_of_mixed_responses_are_objectives() -> None:
    assert set(MIXED_OBJECTIVES) <= set(OBJECTIVES)
