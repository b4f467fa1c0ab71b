"""What a step of the tuning loop has to compute and to move, by closed form. Not run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.models.heads import ContrastiveHead, own_widths
from trainables.models.shapes import LayerPass
from trainables.tuning.memory import step_shapes

FLOAT32 = 4
STATE_PASSES = 10
"""Over all parameters, float32: forward and backward read them; gradients are written and read; Adam reads and writes
parameters and both moments."""
ACTIVATION_PASSES = 5
"""Over all that layers give out, in the type that they compute in: written, read by the next layer, read again on the
way back; its gradient written and read. ReLU and dropout are taken to cost nothing beside the layer before."""
IMAGE_PASSES = 3
"""Over the pictures as the backbone takes them: written, read forward, read for the first layer's gradient."""


@dataclass(frozen=True)
class StepWork:
    """Least work of one step."""

    backbone_flops: int
    """Of convolutions and matrix products, forward and backward, in the backbone's type; a multiplication with an
    addition is two. Pooling, normalisation and the optimiser are not counted."""
    head_flops: int
    """Likewise of head and similarities, float32."""
    state_bytes: int
    """See `STATE_PASSES`."""
    activation_bytes: int
    """See `ACTIVATION_PASSES`."""
    image_bytes: int
    """See `IMAGE_PASSES`, and the stored pictures once, a byte a channel."""

    @property
    def flops(self) -> int:
        """All of them."""
        return self.backbone_flops + self.head_flops

    @property
    def n_bytes(self) -> int:
        """All of them."""
        return self.state_bytes + self.activation_bytes + self.image_bytes


def step_work(config: TrialConfig, n_voxels: int, dtype: torch.dtype) -> StepWork:
    """Work of a step of ``contrastive`` or ``regression``, on a full batch.

    Args:
        config: method, backbone, layer cutoff, objective and batch size are read.
        n_voxels: of the target.
        dtype: the backbone's.
    """
    step = step_shapes(config, [n_voxels], config.batch_size, dtype)
    first = next(each for each in step.backbone_passes if _products(each))
    of_backbone = sum(_flops(each, has_gradient=each is not first) for each in step.backbone_passes)
    # Responses, unlike features, have no gradient.
    responses = step.head.response_projection if isinstance(step.head, ContrastiveHead) else None
    of_head = sum(_flops(each, has_gradient=each.layer is not responses) for each in step.head_passes)
    if isinstance(step.head, ContrastiveHead):
        # Similarities of all pairs, and the gradients of both embeddings.
        of_head += 3 * 2 * config.batch_size**2 * own_widths(n_voxels).embedding
    parameters = sum(p.numel() for module in (step.backbone, step.head) for p in module.parameters())
    pixels = config.batch_size * 3 * step.backbone.spec.image_size**2
    return StepWork(
        of_backbone,
        of_head,
        STATE_PASSES * FLOAT32 * parameters,
        ACTIVATION_PASSES * _given_bytes(step.passes),
        pixels * (1 + IMAGE_PASSES * dtype.itemsize),
    )


def _given_bytes(passes: Sequence[LayerPass]) -> int:
    costless = (nn.ReLU, nn.Dropout, nn.Flatten)
    return sum(each.given.nbytes for each in passes if not isinstance(each.layer, costless))


def _flops(each: LayerPass, has_gradient: bool) -> int:
    """Forward, the gradient of the weights and, if the layer's input has one, its gradient: the same products each."""
    return (3 if has_gradient else 2) * _products(each)


def _products(each: LayerPass) -> int:
    layer = each.layer
    if isinstance(layer, nn.Conv2d):
        kernel = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        return 2 * each.given.numel() * kernel
    return 2 * each.given.numel() * layer.in_features if isinstance(layer, nn.Linear) else 0
