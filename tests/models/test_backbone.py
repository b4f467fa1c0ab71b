"""How a backbone is built from a spec and weights; what each network must pass is in `tests/contracts`."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import TINY
from trainables.errors import ConfigError, WeightsError
from trainables.models.backbone import BACKBONES, OUTPUT, BackboneSpec, build_backbone
from trainables.models.weights import PretrainedWeights, load_weights


@pytest.fixture(scope="module")
def alexnet() -> PretrainedWeights:
    return load_weights("random")


def _images(spec: BackboneSpec, n_stimuli: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_stimuli, 3, spec.image_size, spec.image_size, generator=generator)


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


def test_layers_of_a_spec_that_names_none() -> None:
    assert TINY.penultimate_layer == "classifier.2"
    assert TINY.convolutional_layer == "features.3"
    with pytest.raises(ConfigError, match=r"'features.9'; tiny reads features.1, features.3, classifier.2"):
        replace(TINY, penultimate_layer="features.9")
    flat = replace(TINY, readout_layers={"classifier.2": 20}, penultimate_layer="")
    with pytest.raises(ConfigError, match="tiny has no readout layer with rows and columns"):
        _ = flat.convolutional_layer


def test_batch_norm_is_found_wherever_it_is() -> None:
    assert not TINY.has_batch_norm
    chain = TINY.chain
    nested = nn.Sequential(nn.Sequential(nn.BatchNorm2d(8)))
    assert replace(TINY, chain=lambda: [*chain()[:2], ("features.norm", nested), *chain()[2:]]).has_batch_norm


def test_layers_that_the_classification_and_the_salience_of_the_published_study_read() -> None:
    spec = BACKBONES["alexnet"]
    assert (spec.penultimate_layer, spec.convolutional_layer) == ("classifier.5", "features.12")
