"""What a network's layers take in, give out and keep for the backward pass: from shapes alone, nothing is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import Permute, StochasticDepth

from trainables.models.backbone import Backbone, backbone_spec

_KEEPS_OUTPUT = (nn.ReLU, Permute)  # what ConvNeXt's last permutation gives is multiplied by a parameter
_KEEPS_NOTHING = (nn.Dropout, nn.Flatten, nn.Identity, StochasticDepth)


@dataclass(frozen=True, eq=False)
class LayerPass:
    """One layer's forward pass; tensors on the ``meta`` device, which share storage where the real ones do."""

    layer: nn.Module
    taken: Tensor
    """Input."""
    given: Tensor
    """Output."""


def backbone_on_meta(name: str, cutoff: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone without memory, in training mode.

    Args:
        name: of `trainables.models.backbone.BACKBONES`.
        cutoff: see `trainables.models.backbone.build_backbone`.
        dtype: of its activations.

    Raises:
        ConfigError: no such backbone or cutoff.
    """
    with torch.device("meta"):
        network = Backbone(backbone_spec(name), cutoff)
    return network.to(dtype).to(memory_format=torch.channels_last).train()


def images_on_meta(network: Backbone, n_images: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a backbone sees of a batch, ``[n_images, 3, size, size]``, channels last."""
    size = network.spec.image_size
    images = torch.empty(n_images, 3, size, size, dtype=dtype, device="meta")
    return images.contiguous(memory_format=torch.channels_last)


@contextmanager
def passes_recorded(*networks: nn.Module) -> Iterator[list[LayerPass]]:
    """A list that grows by every pass through a layer without children, in the order in which they end."""
    passes: list[LayerPass] = []

    def note(layer: nn.Module, taken: tuple[Any, ...], given: Tensor) -> None:
        passes.append(LayerPass(layer, taken[0], given))

    layers = [module for network in networks for module in network.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def kept_bytes(passes: Iterable[LayerPass]) -> int:
    """Bytes that these passes keep for the backward pass, parameters aside; storage that several keep counts once.

    Convolutions, matrix products, normalisations, GELU and pooling keep their input, ReLU its output; pooling by
    maximum keeps places of 8 bytes too, dropout a mask of a byte (on CUDA; on a CPU it has the activations' type).
    Autocast normalises layers in float32, so in half precision they keep a wider copy. Source: the derivatives that
    PyTorch defines for its operators.

    Args:
        passes: from `passes_recorded`, of networks in training mode.
    """
    kept: dict[int, int] = {}
    extra = 0
    for each in passes:
        if not isinstance(each.layer, _KEEPS_NOTHING):
            tensor = each.given if isinstance(each.layer, _KEEPS_OUTPUT) else each.taken
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        extra += _kept_beside(each)
    return sum(kept.values()) + extra


def _kept_beside(each: LayerPass) -> int:
    if isinstance(each.layer, nn.MaxPool2d):
        return 8 * each.given.numel()
    if isinstance(each.layer, nn.Dropout):
        return each.given.numel()
    if isinstance(each.layer, nn.LayerNorm) and each.taken.element_size() < 4:
        return 4 * each.taken.numel()
    return 0
