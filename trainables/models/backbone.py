"""Pretrained CNNs, cut at a layer, with named readout layers.

A new backbone is one entry of `BACKBONES`: its modules in order and the widths of its readout layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from trainables.errors import ConfigError, WeightsError

OUTPUT = "output"
"""The layer cutoff that keeps the whole network."""

Chain = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of the software knows of one CNN."""

    name: str
    chain: Callable[[], Chain]
    """Makes the modules, in the order in which they are applied, under their names in the state dict."""
    readout_layers: Mapping[str, int]
    """Name of each readout layer, in order, and the number of its features (flattened)."""
    image_size: int
    """Height and width of the stimuli, pixels."""
    mean: tuple[float, float, float]
    """Of the RGB channels of the pretraining set, in [0, 1]."""
    std: tuple[float, float, float]
    """Of the RGB channels of the pretraining set, in [0, 1]."""

    def readouts_up_to(self, cutoff: str) -> tuple[str, ...]:
        """Readout layers that a network cut at ``cutoff`` still has, in order.

        Raises:
            ConfigError: no such layer.
        """
        layers = tuple(self.readout_layers)
        if cutoff == OUTPUT:
            return layers
        if cutoff not in layers:
            raise ConfigError(f"layer is {cutoff!r}; {self.name} has {', '.join(layers)} and {OUTPUT}")
        return layers[: layers.index(cutoff) + 1]


def _alexnet_chain() -> Chain:
    network = torchvision.models.alexnet(weights=None)
    # torchvision pools adaptively to 6×6 here; stimuli of 224×224 arrive at 6×6, so that module would change
    # nothing.
    return [
        *((f"features.{name}", module) for name, module in network.features.named_children()),
        ("flatten", nn.Flatten()),
        *((f"classifier.{name}", module) for name, module in network.classifier.named_children()),
    ]


BACKBONES: dict[str, BackboneSpec] = {
    "alexnet": BackboneSpec(
        name="alexnet",
        chain=_alexnet_chain,
        readout_layers={
            "features.2": 46656,
            "features.5": 32448,
            "features.7": 64896,
            "features.9": 43264,
            "features.12": 9216,
            "classifier.2": 4096,
            "classifier.5": 4096,
            "classifier.6": 1000,
        },
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
}


def backbone_spec(name: str) -> BackboneSpec:
    """The entry of `BACKBONES`.

    Raises:
        ConfigError: no such backbone.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone is {name!r}; expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


class Backbone(nn.Module):
    """A CNN that ends at its layer cutoff; its parameters are named as in the pretrained state dict."""

    def __init__(self, spec: BackboneSpec, cutoff: str) -> None:
        super().__init__()
        self.spec = spec
        self.cutoff = cutoff
        self.readout_layers = spec.readouts_up_to(cutoff)
        self.n_features = spec.readout_layers[self.readout_layers[-1]]
        """Features at the cutoff: the input width of a head."""
        chain = spec.chain()
        end = [name for name, _ in chain].index(self.readout_layers[-1])
        self.stages = tuple(chain[: end + 1])
        for name, module in self.stages:
            _add_nested(self, name, module)

    def forward(self, images: Tensor) -> Tensor:
        """Features at the cutoff, flattened: normalised ``[n, 3, size, size]`` to ``[n, n_features]``."""
        for _, module in self.stages:
            images = module(images)
        return images.flatten(1)

    def readouts(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Flattened activations of several layers from one pass, which goes no further than the last of them.

        Args:
            images: normalised, float ``[n, 3, size, size]``.
            layers: some of `readout_layers`.

        Returns:
            ``{layer: [n, n_features of the layer]}``; the order of features is channel, row, column.

        Raises:
            ConfigError: a layer that this backbone does not have or that lies behind its cutoff.
        """
        wanted = set(self.require_readouts(layers))
        found: dict[str, Tensor] = {}
        for name, module in self.stages:
            images = module(images)
            if name in wanted:
                found[name] = images.flatten(1)
            if len(found) == len(wanted):
                break
        return found

    def require_readouts(self, layers: Iterable[str]) -> tuple[str, ...]:
        """The given layers, if the backbone has them all.

        Raises:
            ConfigError: a layer that it does not have or that lies behind its cutoff.
        """
        wanted = tuple(layers)
        for layer in wanted:
            if layer not in self.readout_layers:
                raise ConfigError(
                    f"readout layer is {layer!r}; {self.spec.name} cut at {self.cutoff} has "
                    f"{', '.join(self.readout_layers)}"
                )
        return wanted


def build_backbone(name: str, state: Mapping[str, Tensor], cutoff: str) -> Backbone:
    """A backbone with the given weights, cut at ``cutoff``: layers behind it are not built at all.

    Args:
        name: of `BACKBONES`.
        state: parameters of the whole network, or at least of the layers up to the cutoff; copied.
        cutoff: a readout layer, or ``output`` for the whole network.

    Raises:
        ConfigError: no such backbone or cutoff.
        WeightsError: a parameter up to the cutoff is missing or has the wrong shape.
    """
    # Built without memory: random initialisation that the weights overwrite would cost most of a short
    # trial's start.
    with torch.device("meta"):
        backbone = Backbone(backbone_spec(name), cutoff)
    expected = backbone.state_dict()
    for key, parameter in expected.items():
        if key not in state:
            raise WeightsError(
                f"weights hold no {key}; a cutoff at {cutoff} needs it, so choose an earlier layer cutoff"
            )
        if state[key].shape != parameter.shape:
            raise WeightsError(f"{key} has shape {tuple(state[key].shape)}; {name} expects {tuple(parameter.shape)}")
    backbone.load_state_dict({key: state[key].detach().clone() for key in expected}, assign=True)
    # Pixels come with the channels last; convolutions are a third to a half faster that way, on CPUs and
    # GPUs.
    return backbone.to(memory_format=torch.channels_last)


def _add_nested(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register ``features.3`` as child ``3`` of a child ``features``, so that parameters keep their names."""
    *parents, leaf = name.split(".")
    node = root
    for parent in parents:
        if not hasattr(node, parent):
            node.add_module(parent, nn.Module())
        node = getattr(node, parent)
    node.add_module(leaf, module)
