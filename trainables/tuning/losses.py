"""The loss of one batch, from the features of this worker's share of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import TrialConfig
from trainables.models.heads import ContrastiveHead, PooledHead, RegressionHead, pooled_widths
from trainables.tuning.distributed import gather_rows
from trainables.tuning.objectives import MIXED_OBJECTIVES, OBJECTIVES, draw_mixing

ContrastiveHeads = ContrastiveHead | PooledHead


def build_head(config: TrialConfig, n_features: int, n_voxels: list[int]) -> nn.Module:
    """What a trial hangs on its backbone.

    Args:
        config: of the trial.
        n_features: width of the backbone at its cutoff.
        n_voxels: of every subject.

    Raises:
        ConfigError: so few voxels that an embedding would have no dimension.
    """
    if config.is_pooled:
        widths = pooled_widths(config.method, n_voxels)
        return PooledHead(n_features, n_voxels, widths, with_regression=config.mse_weight > 0)
    if config.method == "contrastive":
        return ContrastiveHead(n_features, n_voxels[0], with_regression=config.mse_weight > 0)
    return RegressionHead(n_features, n_voxels[0]) if config.method == "regression" else nn.Identity()


def batch_loss(
    head: nn.Module,
    features: Tensor,
    responses: Tensor,
    config: TrialConfig,
    generator: torch.Generator,
    subject: int = 0,
) -> Tensor:
    """Loss of the whole batch; all workers compute the same.

    Args:
        head: from `build_head`.
        features: of this worker's share of the images, ``[n_stimuli of the share, n_features]``.
        responses: of the whole batch, ``[n_stimuli, n_voxels]``.
        config: objective, temperature and weight of the squared error.
        generator: of the CPU, in the same state on every worker.
        subject: whose batch it is, position among a pooled trial's subjects.
    """
    if not isinstance(head, ContrastiveHeads):
        return functional.mse_loss(gather_rows(head(features)), responses)
    loss = _contrastive_loss(head, features, responses, config, generator, subject)
    if config.mse_weight == 0:
        return loss
    regression = head.regressions[subject] if isinstance(head, PooledHead) else head.regression
    assert regression is not None, "the head was built for an objective without a squared error"
    return loss + config.mse_weight * functional.mse_loss(gather_rows(regression(features)), responses)


def _contrastive_loss(
    head: ContrastiveHeads,
    features: Tensor,
    responses: Tensor,
    config: TrialConfig,
    generator: torch.Generator,
    subject: int,
) -> Tensor:
    mixed = MIXED_OBJECTIVES.get(config.objective)
    mixing = draw_mixing(len(responses), generator) if mixed else None
    if mixing is not None:
        responses = mixing.apply(responses)
    projected = gather_rows(head.project_images(features))
    of_subject = (subject,) if isinstance(head, PooledHead) else ()
    of_responses, of_images = head(responses, projected, *of_subject)
    if mixed is not None:
        return mixed(of_responses, of_images, config.temperature, mixing=mixing)
    return OBJECTIVES[config.objective](of_responses, of_images, config.temperature, generator=generator)
