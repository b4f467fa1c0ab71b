"""A network as Python source that needs torch alone, for models that leave this project."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models.convnext import CNBlock, LayerNorm2d
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.errors import ConfigError
from trainables.models import standalone, standalone_blocks
from trainables.models.backbone import Backbone

BEGIN = "# --- The network, layer by layer, under the names that its weights have.\n"
END = "# --- End of the network.\n"
_INDENT = " " * 4


def standalone_source(backbone: Backbone) -> str:
    """The text of ``predict.py`` for a network that ends at its readout layer.

    It is `trainables.models.standalone` with this network's layers in the place of AlexNet's first.

    Raises:
        ConfigError: a part that is not of the kinds that are written here.
    """
    head, _, rest = Path(standalone.__file__).read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    rows = "\n".join(
        f"{2 * _INDENT}({name!r}, {_written(module)}),".replace("'", '"') for name, module in backbone.stages
    )
    docstring = f'"""The network {backbone.spec.name} up to {backbone.cutoff}, where it is read."""'
    function = (
        f"def layers() -> list[tuple[str, nn.Module]]:\n{_INDENT}{docstring}\n{_INDENT}return [\n{rows}\n{_INDENT}]\n"
    )
    return "".join([head, BEGIN, *(f"\n\n{part}" for part in (*_blocks(backbone), function)), "\n\n", END, tail])


def _blocks(backbone: Backbone) -> list[str]:
    """Source of the blocks that the network has."""
    kinds = {type(part) for _, module in backbone.stages for part in module.modules()}
    needed: list[type[nn.Module]] = []
    if kinds & {BasicBlock, Bottleneck}:
        needed.append(standalone_blocks.Residual)
    if LayerNorm2d in kinds:
        needed.append(standalone_blocks.ChannelNorm)
    if CNBlock in kinds:
        needed += [standalone_blocks.Permuted, standalone_blocks.ConvNeXtBlock]
    return [inspect.getsource(block) for block in needed]


def _written(module: nn.Module) -> str:
    if type(module) not in _KINDS:
        if isinstance(module, nn.Sequential):
            return _call("nn.Sequential", *map(_written, module))
        raise ConfigError(
            f"the network has a {type(module).__name__}, which no exported model can hold; expected one of "
            f"{', '.join(kind.__name__ for kind in _KINDS)}, so add it to {Path(__file__).name}"
        )
    return _KINDS[type(module)](module)


def _call(name: str, *arguments: object, **named: object) -> str:
    return f"{name}({', '.join([*map(str, arguments), *(f'{key}={value}' for key, value in named.items())])})"


def _changed(module: nn.Module, **defaults: object) -> dict[str, object]:
    """Settings that are not torch's defaults."""
    return {name: value for name in defaults if (value := getattr(module, name)) != defaults[name]}


def _convolution(module: Any) -> str:
    if module.padding_mode != "zeros":
        raise ConfigError(f"a convolution pads with {module.padding_mode!r}; expected 'zeros' in an exported model")
    named = _changed(module, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    bias = {} if module.bias is not None else {"bias": False}
    return _call("nn.Conv2d", module.in_channels, module.out_channels, module.kernel_size, **named, **bias)


def _linear(module: Any) -> str:
    bias = {} if module.bias is not None else {"bias": False}
    return _call("nn.Linear", module.in_features, module.out_features, **bias)


def _pooling(module: Any) -> str:
    named = _changed(module, padding=0, dilation=1, ceil_mode=False)
    return _call("nn.MaxPool2d", module.kernel_size, stride=module.stride, **named)


def _residual(module: Any) -> str:
    # The one activation of the block is written into its class.
    parts = {name: _written(part) for name, part in module.named_children() if name != "relu"}
    return _call("Residual", **parts)


def _convnext(module: Any) -> str:
    return _call("ConvNeXtBlock", module.layer_scale.shape[0])


_KINDS: dict[type[nn.Module], Callable[[Any], str]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.MaxPool2d: _pooling,
    nn.ReLU: lambda _: "nn.ReLU()",
    nn.GELU: lambda module: _call("nn.GELU", **({"approximate": "'tanh'"} if module.approximate == "tanh" else {})),
    nn.Flatten: lambda _: "nn.Flatten()",
    nn.Dropout: lambda _: "nn.Identity()",  # off when responses are predicted
    nn.AdaptiveAvgPool2d: lambda module: _call("nn.AdaptiveAvgPool2d", module.output_size),
    nn.BatchNorm2d: lambda module: _call("nn.BatchNorm2d", module.num_features, eps=module.eps),
    LayerNorm2d: lambda module: _call("ChannelNorm", module.normalized_shape[0], eps=module.eps),
    BasicBlock: _residual,
    Bottleneck: _residual,
    CNBlock: _convnext,
}
"""How each kind of module is written; a `Sequential` of any name is written part by part."""
