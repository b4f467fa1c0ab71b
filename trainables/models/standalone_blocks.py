"""Blocks of ResNet and ConvNeXt in plain torch: their source goes into exported models that need them.

Parts are named as in torchvision, whose names the weights have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A block of ResNet: conv1, bn1, conv2, bn2, … and what the input goes through on its way around them."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.depth = sum(name.startswith("conv") for name in parts)

    def forward(self, images: Tensor) -> Tensor:
        """The sum of both ways, rectified."""
        found = images
        for step in range(1, self.depth + 1):
            found = self.get_submodule(f"bn{step}")(self.get_submodule(f"conv{step}")(found))
            found = torch.relu(found) if step < self.depth else found
        around = self.get_submodule("downsample") if hasattr(self, "downsample") else nn.Identity()
        return torch.relu(found + around(images))


class ChannelNorm(nn.LayerNorm):
    """Normalises the channels of every place in the image."""

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - as in torch
        return super().forward(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permuted(nn.Module):
    """Axes in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - as in torch
        return images.permute(self.order)


class ConvNeXtBlock(nn.Module):
    """A block of ConvNeXt: what it finds, scaled by channel, is added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.empty(channels, 1, 1))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permuted(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permuted(0, 3, 1, 2),
        )

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - as in torch
        found: Tensor = self.layer_scale * self.block(images)
        return images + found
