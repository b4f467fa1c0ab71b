"""Networks as source without this project: what they compute is what the project's own networks compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.models import standalone
from trainables.models.backbone import BACKBONES, Backbone, build_backbone
from trainables.models.module_source import standalone_source

# As deep as every kind of block; the widest linear layers would take most of a minute.
DEPTHS = {
    "alexnet": "classifier.2",
    "vgg11": "features.20",
    "resnet18": "fc",
    "resnet50": "layer4.2",
    "convnext_tiny": "classifier.2",
}


def random_state(name: str, cutoff: str) -> dict[str, Tensor]:
    """Every parameter and every statistic matters: none is 0 or 1, and activations neither vanish nor explode."""
    with torch.device("meta"):
        shapes = Backbone(BACKBONES[name], cutoff).state_dict()
    generator = torch.Generator().manual_seed(0)

    def drawn(key: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return torch.tensor(3)
        noise = torch.randn(like.shape, generator=generator)
        if key.endswith("running_var"):
            return noise.tanh() * 0.5 + 1
        if key.endswith("layer_scale"):
            return 0.3 * noise
        if like.ndim > 1:
            return noise * float((1.5 / like[0].numel()) ** 0.5)
        return 0.2 * noise + (1 if key.endswith("weight") else 0)

    return {key: drawn(key, like) for key, like in shapes.items()}


def executed(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "predict", "__file__": "predict.py"}
    exec(compile(source, "predict.py", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", BACKBONES)
def test_the_source_computes_what_the_network_computes(name: str) -> None:
    state = random_state(name, DEPTHS[name])
    network = build_backbone(name, state, DEPTHS[name]).eval()
    source = standalone_source(network)
    rebuilt = executed(source)["_with_weights"](state)
    size = network.spec.image_size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = network(images), rebuilt(images).flatten(1)
    assert expected.shape == found.shape
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_alexnet_needs_no_block_and_resnet_one(tmp_path: Path) -> None:
    with torch.device("meta"):
        plain, residual = (Backbone(BACKBONES[name], layer) for name, layer in (("alexnet", "features.12"), _RESNET))
    assert "class Residual" not in standalone_source(plain)
    source = standalone_source(residual)
    assert "class Residual" in source
    assert "ChannelNorm" not in source
    for name in ("trainables", "torchvision", "orchestrator"):
        assert name not in source.replace(standalone.__doc__ or "", "")


_RESNET = ("resnet18", "layer1.1")


def test_the_template_is_itself_the_export_of_alexnets_first_stage() -> None:
    with torch.device("meta"):
        first = Backbone(BACKBONES["alexnet"], "features.2")
    assert standalone_source(first) == Path(standalone.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BACKBONES)
def test_the_source_keeps_the_project_s_rules(name: str) -> None:
    """It is read by people: no line is too long for one, and no name is unknown."""
    with torch.device("meta"):
        source = standalone_source(Backbone(BACKBONES[name], DEPTHS[name]))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_a_part_that_cannot_be_written_is_one_sentence() -> None:
    with torch.device("meta"):
        network = Backbone(BACKBONES["alexnet"], "features.2")
    network.stages = (*network.stages, ("strange", nn.Softplus()))
    with pytest.raises(ConfigError, match="the network has a Softplus, which no exported model can hold; expected one"):
        standalone_source(network)
