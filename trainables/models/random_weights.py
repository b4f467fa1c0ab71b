"""Random weights, for trying things out without a pretrained file and as a control for what training gave."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.models.architectures import Chain
from trainables.models.backbone import BackboneSpec


def random_state(spec: BackboneSpec, seed: int) -> Mapping[str, Tensor]:
    """He initialisation: it keeps the scale of activations, so that ridge's alphas suit every layer.

    Normalisation layers start as torchvision starts them: scale 1, shift 0, running mean 0 and variance 1. The
    branches of residual networks are scaled down, see `_scale_branches`.

    Args:
        spec: of the backbone.
        seed: of the weights; the global generator is left as it was.

    Returns:
        Every parameter and buffer of the whole network, under its name in the state dict.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        chain = spec.chain()
        for _, module in chain:
            for part in module.modules():
                if isinstance(part, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
        _scale_branches(chain)
        return {f"{name}.{key}": value for name, module in chain for key, value in module.state_dict().items()}


def _scale_branches(chain: Chain) -> None:
    """Multiply each of L residual branches by 1/sqrt(L) in the layer that scales its channels.

    With branches as large as what they are added to, the variance would double L times: 2^16 in a ResNet-50 whose
    running variances are 1. At torchvision's own start, 1e-6, the branches of ConvNeXt would do nothing instead.

    Source: Marion et al., "Scaling ResNets in the large-depth regime", arXiv 2206.06929.
    """
    blocks = [
        part for _, module in chain for part in module.modules() if isinstance(part, BasicBlock | Bottleneck | CNBlock)
    ]
    for block in blocks:
        if isinstance(block, CNBlock):
            scale = block.layer_scale
        else:
            scale = (block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight
        scale.fill_(len(blocks) ** -0.5)
