"""The exact formula of each objective, against plain Python numbers; what all promise is in ``tests/contracts``."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from trainables.tuning.objectives import (
    Mixing,
    bimixco,
    decoupled,
    draw_mixing,
    hard_negatives,
    info_nce,
    sigmoid,
    symmetric_info_nce,
)

Rows = list[list[float]]


def _embeddings(n_stimuli: int = 6, n_dimensions: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n_stimuli, n_dimensions)
    responses, images = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return responses, images


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def _unit(vector: list[float]) -> list[float]:
    return [value / math.hypot(*vector) for value in vector]


def _mixed(share: float, one: list[float], other: list[float]) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(_unit(one), _unit(other), strict=True)]


def _naive_info_nce(responses: Rows, images: Rows, temperature: float) -> float:
    total = 0.0
    for j in range(len(images)):
        terms = [math.exp(_cosine(responses[i], images[j]) / temperature) for i in range(len(responses))]
        total -= math.log(terms[j] / sum(terms))
    return total / len(images)


def _naive_symmetric(responses: Rows, images: Rows, temperature: float) -> float:
    return (_naive_info_nce(responses, images, temperature) + _naive_info_nce(images, responses, temperature)) / 2


def _naive_decoupled(responses: Rows, images: Rows, temperature: float) -> float:
    total = 0.0
    for j in range(len(images)):
        negatives = 0.0
        for i in range(len(responses)):
            if i != j:
                negatives += math.exp(_cosine(responses[i], images[j]) / temperature)
        total -= _cosine(responses[j], images[j]) / temperature - math.log(negatives)
    return total / len(images)


def _naive_sigmoid(responses: Rows, images: Rows, temperature: float) -> float:
    n_stimuli, total = len(images), 0.0
    bias = math.log(1 / (n_stimuli - 1))
    for i in range(n_stimuli):
        for j in range(n_stimuli):
            sign = 1 if i == j else -1
            logit = sign * (_cosine(responses[i], images[j]) / temperature + bias)
            total += math.log(1 / (1 + math.exp(-logit)))
    return -total / n_stimuli


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
@pytest.mark.parametrize(
    "objective, naive",
    [
        (info_nce, _naive_info_nce),
        (symmetric_info_nce, _naive_symmetric),
        (decoupled, _naive_decoupled),
        (sigmoid, _naive_sigmoid),
    ],
)
def test_is_the_double_loop(
    objective: Callable[[Tensor, Tensor, float], Tensor],
    naive: Callable[[Rows, Rows, float], float],
    temperature: float,
) -> None:
    responses, images = _embeddings()
    expected = naive(responses.tolist(), images.tolist(), temperature)
    assert float(objective(responses, images, temperature)) == pytest.approx(expected, rel=1e-12)


def test_info_nce_normalises_over_responses_not_over_images() -> None:
    responses, images = _embeddings()
    swapped = float(info_nce(images, responses, 0.3))
    assert abs(float(info_nce(responses, images, 0.3)) - swapped) > 1e-3


def test_identical_embeddings_give_the_level_of_chance() -> None:
    """Closed forms, on which the loss of an embedding that knows nothing can be read off."""
    same, temperature = torch.ones(7, 3, dtype=torch.float64), 0.5
    match = 1 / (1 + math.exp(-(1 / temperature - math.log(6))))
    mixed = hard_negatives(same, same, temperature, generator=_generator(), n_pairs=5, n_with_image=3)
    losses = {
        math.log(7): [
            info_nce(same, same, temperature),
            symmetric_info_nce(same, same, temperature),
            bimixco(same, same, temperature, mixing=draw_mixing(7, _generator())),
        ],
        math.log(6): [decoupled(same, same, temperature)],
        -math.log(match) - 6 * math.log(1 - match): [sigmoid(same, same, temperature)],
        math.log(7 + 5 + 3): [mixed],
    }
    for expected, found in losses.items():
        for loss in found:
            assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_perfect_orthogonal_embeddings() -> None:
    n_stimuli, temperature = 5, 0.3
    eye = torch.eye(n_stimuli, dtype=torch.float64)
    pairs = (3 * eye, 0.2 * eye)
    expected = math.log(1 + (n_stimuli - 1) * math.exp(-1 / temperature))
    for objective in (info_nce, symmetric_info_nce, bimixco):
        assert float(objective(*pairs, temperature)) == pytest.approx(expected, rel=1e-12)
    assert float(decoupled(*pairs, temperature)) == pytest.approx(math.log(4) - 1 / temperature, rel=1e-12)


def test_the_bias_of_sigmoid_is_the_prior_of_a_match() -> None:
    """Orthogonal embeddings know nothing: each pair is judged by how seldom a pair matches in a batch."""
    n_stimuli = 6
    both = torch.eye(2 * n_stimuli, dtype=torch.float64)
    prior = 1 / n_stimuli
    expected = -math.log(prior) - (n_stimuli - 1) * math.log(1 - prior)
    assert float(sigmoid(both[:n_stimuli], both[n_stimuli:], 0.1)) == pytest.approx(expected, rel=1e-12)


def _naive_hard_negatives(
    responses: Rows, images: Rows, temperature: float, n_hardest: int, ranks: list[Tensor], shares: list[Tensor]
) -> float:
    """The mixtures written out as vectors, image by image."""
    total = 0.0
    for j, image in enumerate(images):
        by_hardness = sorted((i for i in range(len(images)) if i != j), key=lambda i: -_cosine(responses[i], images[j]))
        hard = [responses[i] for i in by_hardness[:n_hardest]]
        mixtures = [
            _mixed(float(share), hard[int(one)], hard[int(other)])
            for one, other, share in zip(*ranks[0], shares[0], strict=True)
        ]
        mixtures += [
            _mixed(float(share) / 2, image, hard[int(rank)]) for rank, share in zip(ranks[1], shares[1], strict=True)
        ]
        terms = [math.exp(_cosine(each, image) / temperature) for each in [*responses, *mixtures]]
        total -= math.log(terms[j] / sum(terms))
    return total / len(images)


@pytest.mark.parametrize("n_stimuli, n_hardest, n_pairs, n_with_image", [(9, 4, 5, 3), (6, 64, 8, 2), (2, 3, 1, 1)])
def test_hard_negatives_are_the_double_loop(n_stimuli: int, n_hardest: int, n_pairs: int, n_with_image: int) -> None:
    responses, images = _embeddings(n_stimuli)
    counts = {"n_hardest": n_hardest, "n_pairs": n_pairs, "n_with_image": n_with_image}
    loss = hard_negatives(responses, images, 0.3, generator=_generator(7), **counts)
    again, n_hard = _generator(7), min(n_hardest, n_stimuli - 1)
    pairs = torch.randint(n_hard, (2, n_pairs), generator=again)
    shares = torch.rand(n_pairs, generator=again, dtype=torch.float64)
    singles = torch.randint(n_hard, (n_with_image,), generator=again)
    half_shares = torch.rand(n_with_image, generator=again, dtype=torch.float64)
    expected = _naive_hard_negatives(
        responses.tolist(), images.tolist(), 0.3, n_hardest, [pairs, singles], [shares, half_shares]
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_hard_negatives_make_the_task_harder() -> None:
    responses, images = _embeddings(20)
    none = hard_negatives(responses, images, 0.3, generator=_generator(), n_pairs=0, n_with_image=0)
    assert float(none) == pytest.approx(float(info_nce(responses, images, 0.3)), rel=1e-12)
    hard = hard_negatives(responses, images, 0.3, generator=_generator(), n_hardest=3)
    anything = hard_negatives(responses, images, 0.3, generator=_generator(), n_hardest=19)
    assert float(hard) > float(anything) > float(none)


def test_opposite_hard_negatives_in_equal_shares_are_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).requires_grad_()
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), 0.5, dtype=torch.float64))
    loss = hard_negatives(responses, responses, 0.3, generator=_generator())
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert responses.grad is not None
    assert torch.isfinite(responses.grad).all()


def test_hard_negatives_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match=r"generator is None.*pass a torch\.Generator"):
        hard_negatives(*_embeddings(), 0.3)
    responses, images = _embeddings()
    for counts in ({"n_hardest": 0}, {"n_pairs": -1}, {"n_with_image": -1}):
        with pytest.raises(ValueError, match="expected at least 1, 0 and 0"):
            hard_negatives(responses, images, 0.3, generator=_generator(), **counts)


def _naive_bimixco(responses: Rows, images: Rows, temperature: float, mixing: Mixing) -> float:
    """Term by term as the source writes it: own share and partner's share, then the other direction."""
    n_stimuli, total = len(images), 0.0
    partners, shares = mixing.partners.tolist(), mixing.shares.tolist()

    def log_share(i: int, j: int, others: list[tuple[int, int]]) -> float:
        terms = [math.exp(_cosine(responses[a], images[b]) / temperature) for a, b in others]
        return math.log(math.exp(_cosine(responses[i], images[j]) / temperature) / sum(terms))

    for i in range(n_stimuli):
        images_of_i = [(i, m) for m in range(n_stimuli)]
        total += shares[i] * log_share(i, i, images_of_i)
        total += (1 - shares[i]) * log_share(i, partners[i], images_of_i)
    for j in range(n_stimuli):
        responses_of_j = [(m, j) for m in range(n_stimuli)]
        total += shares[j] * log_share(j, j, responses_of_j)
        for mixture, partner in enumerate(partners):
            if partner == j:
                total += (1 - shares[mixture]) * log_share(mixture, j, responses_of_j)
    return -total / (2 * n_stimuli)


# The second mixing has a row that is its own partner, and one partner of two rows.
@pytest.mark.parametrize("partners", [[3, 0, 4, 5, 1, 2], [0, 2, 1, 1, 4, 3]])
def test_bimixco_is_the_double_loop(partners: list[int]) -> None:
    responses, images = _embeddings()
    mixing = Mixing(torch.tensor(partners), torch.rand(6, generator=_generator(3), dtype=torch.float64))
    expected = _naive_bimixco(responses.tolist(), images.tolist(), 0.3, mixing)
    assert float(bimixco(responses, images, 0.3, mixing=mixing)) == pytest.approx(expected, rel=1e-12)


def test_bimixco_of_mixed_responses() -> None:
    """Gradient, and order of stimuli: partners move with their rows."""
    responses, images = _embeddings()
    mixing = draw_mixing(6, _generator(2))
    leaves = (responses.clone().requires_grad_(), images.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda r, i: bimixco(r, i, 0.3, mixing=mixing), leaves)
    order = torch.randperm(6, generator=_generator(1))
    moved = Mixing(order.argsort()[mixing.partners[order]], mixing.shares[order])
    expected = float(bimixco(responses, images, 0.3, mixing=mixing))
    assert float(bimixco(responses[order], images[order], 0.3, mixing=moved)) == pytest.approx(expected, rel=1e-12)


def test_bimixco_without_mixing_is_symmetric() -> None:
    responses, images = _embeddings()
    expected = float(symmetric_info_nce(responses, images, 0.3))
    assert float(bimixco(responses, images, 0.3)) == pytest.approx(expected, rel=1e-12)


def test_mixing_mixes_rows_and_labels_alike() -> None:
    mixing = Mixing(torch.tensor([1, 2, 2]), torch.tensor([0.9, 0.25, 0.5], dtype=torch.float64))
    responses = torch.tensor([[10.0, 0.0], [20.0, 4.0], [40.0, 8.0]])
    torch.testing.assert_close(mixing.apply(responses), torch.tensor([[11.0, 0.4], [35.0, 7.0], [40.0, 8.0]]))
    expected = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.25, 0.75], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(mixing.labels(), expected)
    torch.testing.assert_close(mixing.labels().float() @ responses, mixing.apply(responses))


def test_mixing_is_drawn_from_the_beta_distribution_of_the_source() -> None:
    mixing = draw_mixing(4000, _generator(1))
    assert sorted(mixing.partners.tolist()) == list(range(4000))
    assert stats.kstest(mixing.shares.numpy(), stats.beta(0.15, 0.15).cdf).pvalue > 0.01
    again, other = draw_mixing(4000, _generator(1)), draw_mixing(4000, _generator(2))
    assert torch.equal(again.partners, mixing.partners)
    assert torch.equal(again.shares, mixing.shares)
    assert not torch.equal(other.partners, mixing.partners)
    assert np.abs(np.corrcoef(other.shares.numpy(), mixing.shares.numpy())[0, 1]) < 0.1


def test_mixings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"mixing is of 4 stimuli; expected the batch's 6"):
        bimixco(*_embeddings(), 0.3, mixing=draw_mixing(4, _generator()))
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\)"):
        Mixing(torch.arange(3), torch.ones(4))
