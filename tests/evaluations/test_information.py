"""The bound against naive loops, its limits and planted truth; embeddings against the head in training."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from tests.synthetic import equal_states, planted_data, tiny_config, tiny_weights
from trainables.encoding.features import extract_features
from trainables.errors import ConfigError
from trainables.evaluations.information import (
    BETAS,
    choose_beta,
    embed,
    embed_pairs,
    information_bits,
    measure_information,
)
from trainables.models.heads import ContrastiveHead, PooledHead, Widths, saved_contrastive_head
from trainables.models.tuned_model import TunedModel
from trainables.tuning.loop import TrialRun
from trainables.tuning.objectives import info_nce


def _pair(n: int = 30, noise: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 12, generator=generator)
    return 3 * images + 3 * noise * torch.randn(n, 12, generator=generator), images


def _naive_bits(responses: torch.Tensor, images: torch.Tensor, temperature: float) -> float:
    r, z = responses.double().numpy(), images.double().numpy()
    total = 0.0
    for i in range(len(r)):
        weights = []
        for j in range(len(z)):
            s = float(r[i] @ z[j] / np.linalg.norm(r[i]) / np.linalg.norm(z[j]))
            weights.append(math.exp(s / temperature))
        total += math.log(weights[i] / (sum(weights) / len(z)))
    return total / len(r) * math.log2(math.e)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 4.0])
def test_is_a_naive_loop(temperature: float) -> None:
    responses, images = _pair(9)
    assert information_bits(responses, images, temperature) == pytest.approx(
        _naive_bits(responses, images, temperature)
    )
    swapped = information_bits(images, responses, temperature)
    assert swapped == pytest.approx(_naive_bits(images, responses, temperature))
    assert swapped != pytest.approx(information_bits(responses, images, temperature), abs=1e-6)


def test_tuning_loss_and_bound_are_one_quantity() -> None:
    """Normalised over responses for each image, the bound is log2 K less the tuning loss in bits."""
    responses, images = _pair(20)
    loss = float(info_nce(responses.double(), images.double(), 0.3))
    assert information_bits(images, responses, 0.3) == pytest.approx(math.log2(20) - loss / math.log(2))


def test_embeddings_that_are_all_the_same_tell_nothing() -> None:
    same = torch.ones(16, 4)
    assert information_bits(same, 5 * same, 0.3) == pytest.approx(0, abs=1e-12)
    assert measure_information(same, same, same, same).bits == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 0.3, 1e6])
def test_never_exceeds_its_limit_and_stays_finite(temperature: float) -> None:
    images = torch.eye(16)
    assert information_bits(images, images, temperature) <= 4.0
    reversed_pairs = information_bits(images, images.flip(0), temperature)
    assert -math.inf < reversed_pairs <= 0


def test_aligned_embeddings_reach_the_limit_and_shuffled_ones_nothing() -> None:
    test, validation = _pair(64, noise=0.05), _pair(48, noise=0.05, seed=1)
    score = measure_information(*test, *validation)
    assert (score.n_stimuli, score.n_validation, score.upper_limit) == (64, 48, 6.0)
    assert 5.9 < score.bits <= 6.0
    shuffled = measure_information(test[0].roll(7, 0), test[1], validation[0].roll(7, 0), validation[1])
    assert shuffled.bits < 0.1
    # Pairs that go together on validation stimuli alone: the temperature does not save the bound.
    assert measure_information(test[0].roll(7, 0), test[1], *validation).bits < 0


def test_noise_costs_information() -> None:
    bits = [measure_information(*_pair(64, noise), *_pair(48, noise, 1)).bits for noise in (0.2, 0.6, 1.5, 5.0)]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 4 > 1 > bits[-1]


def test_noise_of_known_information_is_measured_in_full() -> None:
    """Unit vectors in the plane with von Mises noise: cosine similarity is their log-likelihood."""
    from scipy import special

    generator = np.random.default_rng(0)
    kappa = 8.0
    angles = generator.uniform(-np.pi, np.pi, 800)
    noisy = angles + generator.vonmises(0, kappa, 800)
    circle = [torch.from_numpy(np.stack([np.cos(a), np.sin(a)], axis=1)) for a in (noisy, angles)]
    # Entropy of the uniform angle less that of the von Mises distribution, in bits.
    ratio = special.i1(kappa) / special.i0(kappa)
    known = (math.log(2 * math.pi) - (math.log(2 * math.pi * special.i0(kappa)) - kappa * ratio)) / math.log(2)
    score = measure_information(*(each[:400] for each in circle), *(each[400:] for each in circle))
    # cos(angle) / T is the log-likelihood itself at T = 1 / kappa, where the bound is tight.
    assert 0.3 * score.beta == pytest.approx(1 / kappa, rel=0.25)
    assert score.bits == pytest.approx(known, abs=0.15)


@pytest.mark.parametrize("noise", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_bisection_finds_the_best_of_all_betas(noise: float) -> None:
    responses, images = _pair(25, noise)
    betas = BETAS[::9]
    bounds = np.array([information_bits(responses, images, 0.3 * beta) for beta in betas])
    assert bounds[betas.index(choose_beta(responses, images, betas))] == pytest.approx(bounds.max(), abs=1e-12)
    assert (len(BETAS), BETAS[0], BETAS[-1]) == (1000, 0.01, 100.0)


def test_beta_comes_from_validation_stimuli_alone() -> None:
    validation = _pair(40, 0.3, 1)
    one, other = measure_information(*_pair(30, 3.0), *validation), measure_information(*_pair(30, 0.1), *validation)
    assert one.beta == other.beta == choose_beta(*validation)
    assert one.bits == information_bits(*_pair(30, 3.0), 0.3 * one.beta)


def test_refusals() -> None:
    responses, images = _pair(4)
    for temperature in (0.0, -0.3, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            information_bits(responses, images, temperature)
    with pytest.raises(ValueError, match="one shape"):
        information_bits(responses, images[:3], 0.3)
    with pytest.raises(ValueError, match="at least 2"):
        information_bits(responses[:1], images[:1], 0.3)
    with pytest.raises(ValueError, match="NaN"):
        information_bits(responses * math.nan, images, 0.3)
    for betas in ([], [0.0, 1.0], [2.0, 1.0]):
        with pytest.raises(ValueError, match="ascending order"):
            choose_beta(responses, images, betas)


def _used_head() -> ContrastiveHead:
    """A head whose running statistics are those of two branches that are far from each other."""
    torch.manual_seed(0)
    head = ContrastiveHead(9, 10)
    for _ in range(30):
        head(torch.randn(32, 10), head.project_images(50 * torch.randn(32, 9)))
    return head.eval()


def test_embeddings_are_those_of_the_head_in_training_and_leave_it_alone() -> None:
    head = _used_head()
    responses, features = torch.randn(20, 10), 50 * torch.randn(20, 9)
    before = copy.deepcopy(head.state_dict())
    found = embed(head, responses.numpy(), features)
    assert equal_states(head.state_dict(), before)
    assert not any(module.training for module in head.modules())
    as_in_training = copy.deepcopy(head).train()
    expected = as_in_training(responses, as_in_training.project_images(features))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach())
    # In evaluation mode the images' scale drowns the responses: hardly anything of a response is left.
    with torch.inference_mode():
        mixed, _ = head(responses, head.project_images(features))
    assert mixed.std(0).mean() < 0.3 * found[0].std(0).mean()
    assert equal_states(head.state_dict(), before)


def test_a_pooled_head_embeds_each_subject_by_its_own_projection() -> None:
    torch.manual_seed(1)
    head = PooledHead(9, [10, 14], Widths(12, 5)).eval()
    responses, features = torch.randn(20, 14), torch.randn(20, 9)
    found = embed(head, responses, features, subject=1)
    as_in_training = copy.deepcopy(head).train()
    expected = as_in_training(responses, as_in_training.project_images(features), 1)
    torch.testing.assert_close(found, tuple(each.detach() for each in expected))
    saved = TunedModel("tiny", "features.3", "pooled-avg", "features.3", {}, head.state_dict())
    torch.testing.assert_close(embed_pairs(saved, responses, features, subject=1), found)
    with pytest.raises(ValueError, match=r"\[n_stimuli, 10\]"):
        embed(head, responses, features, subject=0)


def test_a_single_stimulus_has_no_batch_statistics() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        embed(_used_head(), torch.randn(1, 10), torch.randn(1, 9))


def test_a_model_without_a_contrastive_head() -> None:
    untuned = TunedModel("tiny", "output", "untuned", "features.3", {})
    with pytest.raises(ConfigError, match="untuned model was saved without a head"):
        embed_pairs(untuned, torch.randn(4, 10), torch.randn(4, 9))


def test_tuning_makes_responses_and_images_share_information() -> None:
    """On stimuli that it was tuned on, where there is most to see; running statistics would hide much of it."""
    data = planted_data(n_train=300, n_val=24, n_voxels=20, noise=0.05)
    run = TrialRun(tiny_config(epochs=12, batch_size=64, learning_rate=2e-3), data, tiny_weights(), device="cpu")
    for _ in run:
        pass
    model = run.best_model()
    features = extract_features(model.build(), data.train.stimuli, data.train.rows, [model.layer_cutoff])
    seen, values = torch.from_numpy(data.train.responses), features[model.layer_cutoff]
    responses, images = embed_pairs(model, seen, values)
    first, second = slice(0, 150), slice(150, 300)
    score = measure_information(responses[second], images[second], responses[first], images[first])
    assert 1 < score.bits < score.upper_limit
    wrong = measure_information(responses[second], images[second].roll(3, 0), responses[first], images[first])
    assert wrong.bits < 0
    head = saved_contrastive_head(model.head)
    with torch.inference_mode():
        r, z = head(seen, head.project_images(values))
    assert measure_information(r[second], z[second], r[first], z[first]).bits < score.bits - 0.3
