"""Heads: shapes, shared weights and the batch statistics of the published recipe."""

import pytest
import torch
from torch import nn

from trainables.errors import ConfigError
from trainables.models.heads import (
    ContrastiveHead,
    PooledHead,
    RegressionHead,
    Widths,
    pooled_widths,
    saved_contrastive_head,
)


@pytest.mark.parametrize("n_voxels, hidden, embedding", [(35, 28, 7), (5, 4, 1), (101, 80, 20)])
def test_contrastive_widths_and_number_of_parameters(n_voxels: int, hidden: int, embedding: int) -> None:
    n_features = 50
    head = ContrastiveHead(n_features, n_voxels)
    responses, images = head(torch.randn(9, n_voxels), head.project_images(torch.randn(9, n_features)))
    assert responses.shape == images.shape == (9, embedding)
    layers = 2 * (hidden * hidden + hidden) + 2 * 2 * hidden + hidden * embedding
    expected = n_features * hidden + n_voxels * hidden + layers
    assert sum(parameter.numel() for parameter in head.parameters()) == expected


def test_contrastive_head_written_out() -> None:
    """The perceptron is one and the same for both branches, each with its own batch statistics."""
    torch.manual_seed(0)
    head = ContrastiveHead(12, 10)
    responses, features = torch.randn(7, 10) * 3 + 1, torch.randn(7, 12)
    first, second, last = head.shared[0], head.shared[3], head.shared[6]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert isinstance(last, nn.Linear)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    def perceptron(x: torch.Tensor) -> torch.Tensor:
        x = normalised(x @ first.weight.T + first.bias).clamp_min(0)
        x = normalised(x @ second.weight.T + second.bias).clamp_min(0)
        return x @ last.weight.T

    response_embeddings, image_embeddings = head(responses, head.project_images(features))
    expected_responses = perceptron(responses @ head.response_projection.weight.T)
    expected_images = perceptron(features @ head.image_projection.weight.T)
    torch.testing.assert_close(response_embeddings, expected_responses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image_embeddings, expected_images, rtol=1e-4, atol=1e-5)


def test_too_few_voxels_for_an_embedding() -> None:
    with pytest.raises(ConfigError, match=r"4 voxels.*at least 5"):
        ContrastiveHead(12, 4)


def test_regression_head_is_linear_with_bias() -> None:
    head = RegressionHead(12, 3)
    features = torch.randn(5, 12)
    torch.testing.assert_close(head(features), features @ head.readout.weight.T + head.readout.bias)
    assert sum(parameter.numel() for parameter in head.parameters()) == 12 * 3 + 3


def test_heads_widen_reduced_precision() -> None:
    features = torch.randn(4, 12).bfloat16()
    assert ContrastiveHead(12, 10).project_images(features).dtype == torch.float32
    assert RegressionHead(12, 10)(features).dtype == torch.float32


@pytest.mark.parametrize(
    "method, n_voxels, hidden, embedding",
    [
        ("pooled-avg", [10, 17], 13, 3),
        ("pooled-avg", [4, 4, 4], 4, 1),
        ("pooled-avg", [700, 701, 701], 700, 175),
        ("pooled-const", [10, 17], 5741, 1435),
    ],
)
def test_pooled_widths(method: str, n_voxels: list[int], hidden: int, embedding: int) -> None:
    assert pooled_widths(method, n_voxels) == Widths(hidden, embedding)


def test_too_few_voxels_for_a_pooled_embedding() -> None:
    with pytest.raises(ConfigError, match=r"7 voxels together.*a mean of 4"):
        pooled_widths("pooled-avg", [4, 3])


def test_pooled_head_shares_all_but_the_response_projections() -> None:
    with torch.device("meta"):
        head = PooledHead(1000, [300, 200, 100], pooled_widths("pooled-const", [300, 200, 100]))
    hidden, embedding = 5741, 1435
    perceptron = 2 * (hidden * hidden + hidden) + 2 * 2 * hidden + hidden * embedding
    expected = hidden * (1000 + 300 + 200 + 100) + perceptron
    assert sum(parameter.numel() for parameter in head.parameters()) == expected


@pytest.mark.parametrize("with_regression", [False, True])
def test_a_subjects_head_comes_back_from_a_saved_one(with_regression: bool) -> None:
    features, responses = torch.randn(7, 12), [torch.randn(7, 10), torch.randn(7, 17)]
    pooled = PooledHead(12, [10, 17], Widths(13, 3), with_regression=with_regression)
    for subject in (0, 1):  # gives the running statistics something to hold
        pooled(responses[subject], pooled.project_images(features), subject)
    single = ContrastiveHead(12, 10, with_regression=with_regression)
    single(responses[0], single.project_images(features))
    pooled.eval()
    single.eval()
    for subject in (0, 1):
        found = saved_contrastive_head(pooled.state_dict(), subject)
        expected = pooled(responses[subject], pooled.project_images(features), subject)
        torch.testing.assert_close(found(responses[subject], found.project_images(features)), expected)
    found = saved_contrastive_head(single.state_dict())
    torch.testing.assert_close(
        found(responses[0], found.project_images(features)), single(responses[0], single.project_images(features))
    )


def test_no_contrastive_head_of_that_subject() -> None:
    pooled = PooledHead(12, [10, 17], Widths(13, 3))
    for state, subject in (
        (pooled.state_dict(), 2),
        (ContrastiveHead(12, 10).state_dict(), 1),
        (RegressionHead(12, 3).state_dict(), 0),
    ):
        with pytest.raises(ConfigError, match=f"no response projection of subject number {subject}"):
            saved_contrastive_head(state, subject)
