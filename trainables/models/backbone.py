"""Pretrained CNNs, cut at a layer, with named readout layers.

A new backbone is one entry of `BACKBONES`: its modules in order (a function in `trainables.models.architectures`) and
the widths of its readout layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.errors import ConfigError, WeightsError
from trainables.models import architectures
from trainables.models.architectures import Chain as Chain  # part of the interface of a spec

OUTPUT = "output"
"""The layer cutoff that keeps the whole network."""


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
    penultimate_layer: str = ""
    """The readout layer whose features the output layer classifies, AlexNet's ``classifier.5``; empty in the
    constructor means the last readout layer."""

    def __post_init__(self) -> None:
        layers = list(self.readout_layers)
        if not self.penultimate_layer:
            object.__setattr__(self, "penultimate_layer", layers[-1])
        if self.penultimate_layer not in layers:
            raise ConfigError(f"penultimate layer is {self.penultimate_layer!r}; {self.name} reads {', '.join(layers)}")

    @property
    def convolutional_layer(self) -> str:
        """The deepest readout layer whose features still have places in the image, AlexNet's ``features.12``.

        Raises:
            ConfigError: no readout layer has rows and columns.
        """
        maps = [name for name, shape in _readout_shapes(self).items() if len(shape) == 4 and shape[-1] > 1]
        if not maps:
            raise ConfigError(f"{self.name} has no readout layer with rows and columns; add one to its readout layers")
        return maps[-1]

    @property
    def has_batch_norm(self) -> bool:
        """Whether, in training, features of a stimulus depend on the others of its batch.

        If so, workers that divide a batch among them do not compute what one worker computes.
        """
        with torch.device("meta"):
            chain = self.chain()
        return any(isinstance(part, _BatchNorm) for _, module in chain for part in module.modules())

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


def _imagenet_spec(
    name: str, chain: Callable[[], Chain], readout_layers: Mapping[str, int], penultimate_layer: str
) -> BackboneSpec:
    """A network whose torchvision weights were trained on ImageNet-1k and take 224×224 pixels."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return BackboneSpec(name, chain, readout_layers, 224, mean, std, penultimate_layer)


# Readout layers: the end of each stage, what the output layer reads, the output. The first stages of VGG-11 and
# ResNet-50 are left out, 802,816 features wide: 10,000 stimuli would take 32 GB in such a layer. As they are, all
# readouts of a stimulus take 0.8 MB in AlexNet, 2.3 in ResNet-18 and ConvNeXt-T, 2.9 in VGG-11, 3.6 in ResNet-50.
BACKBONES: dict[str, BackboneSpec] = {
    "alexnet": _imagenet_spec(
        "alexnet",
        architectures.alexnet,
        {
            "features.2": 46656,
            "features.5": 32448,
            "features.7": 64896,
            "features.9": 43264,
            "features.12": 9216,
            "classifier.2": 4096,
            "classifier.5": 4096,
            "classifier.6": 1000,
        },
        "classifier.5",
    ),
    "vgg11": _imagenet_spec(
        "vgg11",
        architectures.vgg11,
        {
            "features.5": 401408,  # pools 2 to 5
            "features.10": 200704,
            "features.15": 100352,
            "features.20": 25088,
            "classifier.1": 4096,
            "classifier.4": 4096,
            "classifier.6": 1000,
        },
        "classifier.4",
    ),
    "resnet18": _imagenet_spec(
        "resnet18",
        architectures.resnet18,
        {
            "maxpool": 200704,
            "layer1.1": 200704,
            "layer2.1": 100352,
            "layer3.1": 50176,
            "layer4.1": 25088,
            "avgpool": 512,
            "fc": 1000,
        },
        "avgpool",
    ),
    "resnet50": _imagenet_spec(
        "resnet50",
        architectures.resnet50,
        {
            "maxpool": 200704,
            "layer2.3": 401408,
            "layer3.5": 200704,
            "layer4.2": 100352,
            "avgpool": 2048,
            "fc": 1000,
        },
        "avgpool",
    ),
    "convnext_tiny": _imagenet_spec(
        "convnext_tiny",
        architectures.convnext_tiny,
        {
            "features.1": 301056,
            "features.3": 150528,
            "features.5": 75264,
            "features.7": 37632,
            "classifier.0": 768,  # pooled and normalised
            "classifier.2": 1000,
        },
        "classifier.0",
    ),
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


def _readout_shapes(spec: BackboneSpec) -> dict[str, torch.Size]:
    """Shape of each readout layer's activation to one image, before it is flattened; computes nothing."""
    shapes: dict[str, torch.Size] = {}
    with torch.device("meta"), torch.inference_mode():
        images = torch.empty(1, 3, spec.image_size, spec.image_size)
        for name, module in spec.chain():
            images = module.eval()(images)
            if name in spec.readout_layers:
                shapes[name] = images.shape
    return shapes


def _add_nested(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register ``features.3`` as child ``3`` of a child ``features``, so that parameters keep their names."""
    *parents, leaf = name.split(".")
    node = root
    for parent in parents:
        if not hasattr(node, parent):
            node.add_module(parent, nn.Module())
        node = getattr(node, parent)
    node.add_module(leaf, module)
