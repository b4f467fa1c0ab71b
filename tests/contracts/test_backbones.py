"""What every backbone must pass: torchvision's own network, watched from outside, is the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.encoding.features import extract_features
from trainables.errors import WeightsError
from trainables.models.backbone import BACKBONES, OUTPUT, Backbone, BackboneSpec, build_backbone
from trainables.models.images import normalised_batch
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import PretrainedWeights, load_weights

NAMES = [name for name in BACKBONES if name in torchvision.models.list_models()]
ROWS = np.arange(2)


@dataclass
class Watched:
    """What happens in torchvision's network during one pass."""

    activations: dict[str, Tensor] = field(default_factory=dict)
    """Of each readout layer, in its own shape."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """Of each readout layer."""
    needed: dict[str, set[str]] = field(default_factory=dict)
    """For each readout layer, names of the parameters and buffers of all modules that ran before it was done."""


@dataclass(frozen=True)
class Case:
    spec: BackboneSpec
    weights: PretrainedWeights
    stimuli: np.ndarray
    """uint8 ``[2, size, size, 3]``."""
    reference: nn.Module
    watched: Watched
    whole: Backbone
    readouts: dict[str, Tensor]
    """Of the whole backbone."""

    @property
    def layers(self) -> list[str]:
        return list(self.spec.readout_layers)

    def build(self, cutoff: str) -> Backbone:
        return build_backbone(self.spec.name, self.weights.state, cutoff).eval()

    def images(self) -> Tensor:
        return normalised_batch(self.stimuli, ROWS, self.spec, torch.device("cpu"))


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    spec = BACKBONES[request.param]
    weights = load_weights("random", spec.name)
    stimuli = np.random.default_rng(0).integers(0, 256, (2, spec.image_size, spec.image_size, 3), dtype=np.uint8)
    with torch.device("meta"):
        reference = torchvision.models.get_model(spec.name, weights=None).eval()
    reference.load_state_dict(weights.state, assign=True)
    whole = build_backbone(spec.name, weights.state, OUTPUT).eval()
    images = normalised_batch(stimuli, ROWS, spec, torch.device("cpu"))
    with torch.inference_mode():
        watched, readouts = _watch(reference, images, spec), whole.readouts(images, spec.readout_layers)
    return Case(spec, weights, stimuli, reference, watched, whole, readouts)


def _watch(network: nn.Module, images: Tensor, spec: BackboneSpec) -> Watched:
    watched, seen = Watched(), set[str]()

    def note(name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        seen.update(f"{name}.{key}" for key, _ in own)
        if name in spec.readout_layers:
            watched.inputs[name], watched.activations[name] = inputs.clone(), output.clone()
            watched.needed[name] = set(seen)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, inputs[0], output))
        for name, module in network.named_modules()
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return watched


def test_readouts_are_torchvisions_activations(case: Case) -> None:
    assert list(case.watched.activations) == case.layers, "readout layers are in the order in which they are computed"
    for layer, width in case.spec.readout_layers.items():
        expected = case.watched.activations[layer].flatten(1)
        assert case.readouts[layer].shape == expected.shape == (2, width)
        torch.testing.assert_close(case.readouts[layer], expected, rtol=1e-4, atol=1e-4)


def test_names_are_torchvisions(case: Case) -> None:
    expected = case.reference.state_dict()
    assert list(case.whole.state_dict()) == list(expected)
    assert list(case.weights.state) == list(expected)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in case.whole.state_dict().items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in expected.items()
    }
    names = [name for name, _ in case.whole.stages]
    assert len(names) == len(set(names))


def test_pixels_are_prepared_as_in_pretraining(case: Case) -> None:
    transforms = torchvision.models.get_model_weights(case.spec.name).DEFAULT.transforms()
    assert [case.spec.image_size] == transforms.crop_size
    assert list(case.spec.mean) == transforms.mean
    assert list(case.spec.std) == transforms.std


def test_each_cutoff_builds_what_it_needs_and_no_more(case: Case) -> None:
    for place, cutoff in enumerate(case.layers):
        with torch.device("meta"):
            cut = Backbone(case.spec, cutoff)
        assert set(cut.state_dict()) == case.watched.needed[cutoff]
        assert cut.readout_layers == tuple(case.layers[: place + 1])
        assert cut.n_features == case.spec.readout_layers[cutoff]
    assert case.whole.readout_layers == tuple(case.layers)


def test_a_cut_network_is_the_start_of_the_whole(case: Case) -> None:
    for cutoff in (case.layers[0], case.spec.convolutional_layer):
        with torch.inference_mode():
            torch.testing.assert_close(case.build(cutoff)(case.images()), case.readouts[cutoff])


def test_named_layers(case: Case) -> None:
    assert case.layers.index(case.spec.convolutional_layer) < case.layers.index(case.spec.penultimate_layer)
    read_by_last = case.watched.inputs[case.layers[-1]].flatten(1)
    torch.testing.assert_close(case.readouts[case.spec.penultimate_layer], read_by_last, rtol=1e-4, atol=1e-4)
    shapes = {layer: tuple(activation.shape[2:]) for layer, activation in case.watched.activations.items()}
    assert min(shapes[case.spec.convolutional_layer]) > 1
    behind = case.layers[case.layers.index(case.spec.convolutional_layer) + 1 :]
    assert all(set(shapes[layer]) <= {1} for layer in behind)


def test_batch_norm_is_told(case: Case) -> None:
    assert case.spec.has_batch_norm == any(name.endswith("running_var") for name in case.weights.state)


def test_features_are_finite_and_keep_their_scale(case: Case) -> None:
    layers = case.layers
    features = extract_features(case.whole, case.stimuli, ROWS, layers, batch_size=1)
    for layer in layers:
        torch.testing.assert_close(features[layer], case.readouts[layer], rtol=1e-4, atol=1e-4)
        # Of normalised uniform noise, which is 1.3 itself.
        assert 0.5 < float(features[layer].square().mean().sqrt()) < 10, layer


def test_a_step_tunes_every_parameter_and_survives_the_disk(case: Case, tmp_path: Path) -> None:
    cutoff = case.spec.convolutional_layer
    backbone = case.build(cutoff).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    optimiser = torch.optim.Adam(backbone.parameters(), lr=1e-3)
    torch.manual_seed(0)
    features = backbone(case.images())
    (features * torch.randn_like(features)).sum().backward()
    optimiser.step()
    after = backbone.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert [name for name, tensor in before.items() if torch.equal(tensor, after[name])] == []

    model = TunedModel(case.spec.name, cutoff, "contrastive", cutoff, after)
    model.save(tmp_path / "model")
    found = TunedModel.load(tmp_path / "model").build()
    with torch.inference_mode():
        expected = backbone.eval()(case.images())
        assert torch.equal(found(case.images()), expected)
    assert not torch.allclose(expected, case.readouts[cutoff], rtol=1e-2)


def test_a_file_may_end_early_but_not_have_a_gap(case: Case, tmp_path: Path) -> None:
    kept, following = case.layers[1], case.layers[2]
    names = [name for name in case.weights.state if name in case.watched.needed[kept]]
    begun = [name for name in case.weights.state if name in case.watched.needed[following] - set(names)][:1]
    save_file({name: case.weights.state[name] for name in names + begun}, tmp_path / "short.safetensors")
    weights = load_weights(str(tmp_path / "short.safetensors"), case.spec.name)
    assert weights.cutoffs == weights.readout_layers == (case.layers[0], kept)
    assert weights.note.startswith(f"short.safetensors ends at {kept}")
    build_backbone(case.spec.name, weights.state, kept)
    with pytest.raises(WeightsError, match=f"hold no .*; a cutoff at {following} needs it"):
        build_backbone(case.spec.name, weights.state, following)

    gone = next(name for name in names[len(names) // 2 :] if name.endswith("weight"))
    save_file({name: case.weights.state[name] for name in names if name != gone}, tmp_path / "gap.safetensors")
    with pytest.raises(WeightsError, match=f"^gap.safetensors lacks {gone}; expected .* without a gap$"):
        load_weights(str(tmp_path / "gap.safetensors"), case.spec.name)
