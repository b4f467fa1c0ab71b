"""Heads: shapes, shared weights and the batch statistics of the published recipe."""

import pytest
import torch
from torch import nn

from trainables.errors import ConfigError
from trainables.models.heads import ContrastiveHead, RegressionHead


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
