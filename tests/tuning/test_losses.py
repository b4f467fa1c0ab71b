"""The loss of a batch by every objective, written out from head and features."""

import pytest
import torch
from torch import Tensor

from tests.synthetic import POOLED_TARGET, tiny_config
from trainables.config import TrialConfig
from trainables.models.heads import ContrastiveHead, PooledHead, RegressionHead
from trainables.tuning.losses import batch_loss, build_head
from trainables.tuning.objectives import OBJECTIVES, bimixco, draw_mixing

N_FEATURES, N_VOXELS = 12, 10


def _batch(n_voxels: int = N_VOXELS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, N_FEATURES, generator=generator), torch.randn(9, n_voxels, generator=generator)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _head(config: TrialConfig) -> ContrastiveHead:
    torch.manual_seed(1)
    head = build_head(config, N_FEATURES, [N_VOXELS])
    assert isinstance(head, ContrastiveHead)
    return head


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"bimixco"}))
def test_is_the_objective_of_the_embeddings(objective: str) -> None:
    config = tiny_config(objective=objective, temperature=0.2)
    features, responses = _batch()
    head = _head(config)
    loss = batch_loss(head, features, responses, config, _generator())
    of_responses, of_images = head(responses, head.project_images(features))
    torch.testing.assert_close(loss, OBJECTIVES[objective](of_responses, of_images, 0.2, generator=_generator()))


def test_bimixco_mixes_responses_before_the_head() -> None:
    config = tiny_config(objective="bimixco")
    features, responses = _batch()
    untouched = responses.clone()
    head = _head(config)
    loss = batch_loss(head, features, responses, config, _generator())
    mixing = draw_mixing(9, _generator())
    mixed = torch.stack(
        [
            float(share) * responses[i] + (1 - float(share)) * responses[partner]
            for i, (partner, share) in enumerate(zip(mixing.partners.tolist(), mixing.shares, strict=True))
        ]
    )
    of_responses, of_images = head(mixed, head.project_images(features))
    torch.testing.assert_close(loss, bimixco(of_responses, of_images, config.temperature, mixing=mixing))
    assert torch.equal(responses, untouched)


@pytest.mark.parametrize("objective", ["info_nce", "bimixco"])
def test_a_squared_error_beside_the_objective(objective: str) -> None:
    """It compares what is predicted from the images with the responses themselves, mixed or not."""
    config = tiny_config(objective=objective, mse_weight=2.5)
    features, responses = _batch()
    head = _head(config)
    assert head.regression is not None
    loss = batch_loss(head, features, responses, config, _generator())
    alone = batch_loss(head, features, responses, tiny_config(objective=objective), _generator())
    predicted = features @ head.regression.readout.weight.T + head.regression.readout.bias
    torch.testing.assert_close(loss, alone + 2.5 * ((predicted - responses) ** 2).mean())
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in head.parameters())


def test_a_pooled_batch_goes_through_its_subjects_own_layers() -> None:
    config = tiny_config(method="pooled-avg", target=POOLED_TARGET, mse_weight=0.5)
    head = build_head(config, N_FEATURES, [N_VOXELS, 17])
    assert isinstance(head, PooledHead)
    features, responses = _batch(17)
    loss = batch_loss(head, features, responses, config, _generator(), subject=1)
    of_responses = head.shared(head.response_projections[1](responses))
    of_images = head.shared(features @ head.image_projection.weight.T)
    regression = head.regressions[1]
    squared_error = ((regression(features) - responses) ** 2).mean()
    torch.testing.assert_close(loss, OBJECTIVES["info_nce"](of_responses, of_images, 0.3) + 0.5 * squared_error)
    loss.backward()
    touched = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    others = {name for name, _ in head.named_parameters()} - touched
    assert others == {"response_projections.0.weight", "regressions.0.readout.weight", "regressions.0.readout.bias"}


def test_heads_of_the_other_methods() -> None:
    features, responses = _batch()
    head = build_head(tiny_config(method="regression"), N_FEATURES, [N_VOXELS])
    assert isinstance(head, RegressionHead)
    loss = batch_loss(head, features, responses, tiny_config(method="regression"), _generator())
    torch.testing.assert_close(loss, ((head(features) - responses) ** 2).mean())
    untuned = build_head(tiny_config(method="untuned", epochs=0), N_FEATURES, [N_VOXELS])
    assert not list(untuned.parameters())
