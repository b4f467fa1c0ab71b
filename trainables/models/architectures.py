"""The networks of torchvision as chains: modules in order of application, under their names in the state dict.

torchvision writes the order down twice, in the network's children and in its ``forward``. Here the children are the
order, and a flattening is put where ``forward`` flattens by itself; a contract test compares each chain with the
network that it came from.
"""

from __future__ import annotations

import torchvision
from torch import nn

Chain = list[tuple[str, nn.Module]]


def alexnet() -> Chain:
    """AlexNet in torchvision's variant. Source: arXiv 1404.5997."""
    return _flattened_for_classifier(torchvision.models.alexnet(weights=None))


def vgg11() -> Chain:
    """VGG-11 without batch normalisation. Source: arXiv 1409.1556."""
    # Its own initialisation would take seconds and is always overwritten.
    return _flattened_for_classifier(torchvision.models.vgg11(weights=None, init_weights=False))


def resnet18() -> Chain:
    """ResNet-18. Source: arXiv 1512.03385."""
    return _flattened_before_last(torchvision.models.resnet18(weights=None))


def resnet50() -> Chain:
    """ResNet-50, with its strides in the 3×3 convolutions, as torchvision has them. Source: arXiv 1512.03385."""
    return _flattened_before_last(torchvision.models.resnet50(weights=None))


def convnext_tiny() -> Chain:
    """ConvNeXt-T, whose classifier flattens by itself. Source: arXiv 2201.03545."""
    return _unrolled(torchvision.models.convnext_tiny(weights=None))


def _unrolled(network: nn.Module) -> Chain:
    """The children of a network; of a `Sequential`, its own children."""
    chain: Chain = []
    for name, module in network.named_children():
        if isinstance(module, nn.Sequential):
            chain.extend((f"{name}.{part}", child) for part, child in module.named_children())
        else:
            chain.append((name, module))
    return chain


def _flattened_for_classifier(network: nn.Module) -> Chain:
    """A flattening between ``features`` and ``classifier``, where torchvision pools adaptively first.

    Stimuli of 224×224 arrive in just the size that it pools to, so that module would change nothing and is left out.
    """
    return [("flatten", nn.Flatten()) if name == "avgpool" else (name, module) for name, module in _unrolled(network)]


def _flattened_before_last(network: nn.Module) -> Chain:
    *body, last = _unrolled(network)
    return [*body, ("flatten", nn.Flatten()), last]
