"""Contract of every backbone: shapes, cutoffs, names; and AlexNet against torchvision's."""

import pytest
import torch
import torchvision
from torch import Tensor

from trainables.errors import ConfigError, WeightsError
from trainables.models.backbone import BACKBONES, OUTPUT, BackboneSpec, build_backbone
from trainables.models.weights import PretrainedWeights, load_weights


@pytest.fixture(scope="module")
def alexnet() -> PretrainedWeights:
    return load_weights("random")


def _images(spec: BackboneSpec, n_stimuli: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_stimuli, 3, spec.image_size, spec.image_size, generator=generator)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_cutoff_ends_the_network(name: str) -> None:
    spec, weights = BACKBONES[name], load_weights("random", name)
    layers = list(spec.readout_layers)
    sizes = []
    for cutoff in (*layers, OUTPUT):
        backbone = build_backbone(name, weights.state, cutoff).eval()
        with torch.inference_mode():
            features = backbone(_images(spec))
            readouts = backbone.readouts(_images(spec), backbone.readout_layers)
        end = layers[-1] if cutoff == OUTPUT else cutoff
        assert backbone.readout_layers == tuple(layers[: layers.index(end) + 1])
        assert features.shape == (2, backbone.n_features) == (2, spec.readout_layers[end])
        assert {layer: found.shape[1] for layer, found in readouts.items()} == {
            layer: spec.readout_layers[layer] for layer in backbone.readout_layers
        }
        torch.testing.assert_close(readouts[end], features)
        assert set(backbone.state_dict()) <= set(weights.state)
        assert all(parameter.requires_grad for parameter in backbone.parameters())
        sizes.append(sum(parameter.numel() for parameter in backbone.parameters()))
    assert sizes[:-1] == sorted(set(sizes[:-1])), "a deeper cutoff has more parameters, an earlier one drops them"
    assert sizes[-1] == sizes[-2] == sum(tensor.numel() for tensor in weights.state.values())


def test_alexnet_is_torchvisions(alexnet: PretrainedWeights) -> None:
    network = torchvision.models.alexnet(weights=None).eval()
    network.load_state_dict(alexnet.state)
    backbone = build_backbone("alexnet", alexnet.state, OUTPUT).eval()
    images = _images(BACKBONES["alexnet"])
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), network(images), rtol=1e-4, atol=1e-4)
    assert list(backbone.state_dict()) == list(network.state_dict())


def test_dropout_is_on_in_training(alexnet: PretrainedWeights) -> None:
    backbone = build_backbone("alexnet", alexnet.state, "classifier.2").train()
    images = _images(BACKBONES["alexnet"])
    with torch.inference_mode():
        assert not torch.equal(backbone(images), backbone(images))


def test_weights_are_copied(alexnet: PretrainedWeights) -> None:
    backbone = build_backbone("alexnet", alexnet.state, "features.2")
    before = alexnet.state["features.0.weight"].clone()
    with torch.no_grad():
        backbone.get_parameter("features.0.weight").zero_()
    assert torch.equal(alexnet.state["features.0.weight"], before)


def test_weights_behind_the_cutoff_are_not_needed(alexnet: PretrainedWeights) -> None:
    convolutions = {name: tensor for name, tensor in alexnet.state.items() if name.startswith("features")}
    build_backbone("alexnet", convolutions, "features.12")
    with pytest.raises(WeightsError, match=r"classifier\.1\.weight.*earlier layer cutoff"):
        build_backbone("alexnet", convolutions, "classifier.2")


def test_parameters_of_another_shape(alexnet: PretrainedWeights) -> None:
    state = {**alexnet.state, "features.3.bias": torch.zeros(7)}
    with pytest.raises(WeightsError, match=r"features\.3\.bias has shape \(7,\).*\(192,\)"):
        build_backbone("alexnet", state, OUTPUT)


def test_unknown_names(alexnet: PretrainedWeights) -> None:
    with pytest.raises(ConfigError, match=r"'resnet1'.*alexnet"):
        build_backbone("resnet1", alexnet.state, OUTPUT)
    with pytest.raises(ConfigError, match=r"'features.3'.*features.2.*output"):
        build_backbone("alexnet", alexnet.state, "features.3")
