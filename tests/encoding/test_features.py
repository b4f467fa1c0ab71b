"""Features against forward hooks on torchvision's own network."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.synthetic import TINY, planted_data, tiny_weights
from trainables.encoding.features import extract_features, features_by_layer, layers_together
from trainables.errors import ConfigError
from trainables.models.backbone import BACKBONES, Backbone, build_backbone
from trainables.models.weights import load_weights


@pytest.fixture
def tiny() -> Backbone:
    return build_backbone("tiny", tiny_weights().state, "output")


def test_alexnet_features_are_those_of_torchvision() -> None:
    weights = load_weights("random")
    spec = BACKBONES["alexnet"]
    stimuli = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    rows = np.array([2, 0, 1])
    features = extract_features(
        build_backbone("alexnet", weights.state, "output"), stimuli, rows, spec.readout_layers, batch_size=2
    )

    network = torchvision.models.alexnet(weights=None).eval()
    network.load_state_dict(weights.state)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> object:
        return lambda _module, _inputs, output: seen.update({name: output.flatten(1).clone()})

    for name in spec.readout_layers:
        network.get_submodule(name).register_forward_hook(keep(name))
    images = torch.from_numpy(stimuli[rows]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network(torchvision.transforms.functional.normalize(images, list(spec.mean), list(spec.std)))
    for name, width in spec.readout_layers.items():
        assert features[name].shape == (3, width)
        torch.testing.assert_close(features[name], seen[name], rtol=1e-4, atol=1e-4)


def test_batch_size_changes_nothing_and_rows_are_in_order(tiny: Backbone) -> None:
    data = planted_data()
    rows = np.array([5, 3, 3, 11, 0, 7, 2])
    whole = extract_features(tiny, data.train.stimuli, rows, TINY.readout_layers)
    parts = extract_features(tiny, torch.from_numpy(data.train.stimuli), rows, TINY.readout_layers, batch_size=3)
    for layer in TINY.readout_layers:
        torch.testing.assert_close(whole[layer], parts[layer])
        assert torch.equal(whole[layer][1], whole[layer][2])
        assert not torch.equal(whole[layer][0], whole[layer][1])


def test_dropout_is_off_and_the_mode_is_restored(tiny: Backbone) -> None:
    data = planted_data()
    tiny.train()
    once, twice = (extract_features(tiny, data.train.stimuli, data.train.rows, ["classifier.2"]) for _ in range(2))
    assert torch.equal(once["classifier.2"], twice["classifier.2"])
    assert tiny.training
    assert not once["classifier.2"].requires_grad


def test_the_pass_ends_at_the_last_layer_asked_for(tiny: Backbone) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("computed a layer behind the last readout layer")

    data = planted_data()
    chain = dict(tiny.stages)
    assert "features.2" in chain
    tiny.stages = tuple((name, Broken() if name == "features.2" else module) for name, module in tiny.stages)
    extract_features(tiny, data.train.stimuli, data.train.rows, ["features.1"])
    with pytest.raises(AssertionError, match="behind"):
        extract_features(tiny, data.train.stimuli, data.train.rows, ["features.3"])


def test_bfloat16_is_close_to_float32(tiny: Backbone) -> None:
    data = planted_data()
    exact, reduced = (
        extract_features(tiny, data.train.stimuli, data.train.rows, ["features.3"], precision=precision)["features.3"]
        for precision in ("float32", "bfloat16")
    )
    assert reduced.dtype == torch.float32
    assert 0 < float((exact - reduced).abs().max()) < 0.05 * float(exact.abs().max())


def test_refuses_a_layer_that_the_model_lacks() -> None:
    data = planted_data()
    model = build_backbone("tiny", tiny_weights().state, "features.1")
    with pytest.raises(ConfigError, match=r"'features.3'.*cut at features.1"):
        extract_features(model, data.train.stimuli, data.train.rows, ["features.3"])


@pytest.mark.parametrize("wrong", [np.zeros((2, 16, 16, 3), np.float32), np.zeros((2, 8, 16, 3), np.uint8)])
def test_refuses_stimuli_of_another_kind(tiny: Backbone, wrong: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="expects uint8"):
        extract_features(tiny, wrong, np.arange(2), ["features.1"])


def test_neighbouring_layers_are_held_together_as_far_as_they_fit() -> None:
    sizes = {"a": 4, "b": 3, "c": 9, "d": 1, "e": 5, "f": 4}
    assert list(layers_together(sizes, sizes, 7)) == [("a", "b"), ("c",), ("d", "e"), ("f",)]
    assert list(layers_together(sizes, sizes, 100)) == [tuple(sizes)]
    assert list(layers_together([], sizes, 7)) == list(layers_together([], {})) == []
    assert list(layers_together(sizes, sizes)) == [tuple(sizes)], "1 GB holds them all"


@pytest.mark.parametrize("at_once", [1, 4 * 7 * 100, 1 << 30])
def test_features_come_layer_by_layer_as_from_one_pass(tiny: Backbone, at_once: int) -> None:
    data, rows = planted_data(), np.array([5, 3, 3, 11, 0, 7, 2])
    whole = extract_features(tiny, data.train.stimuli, rows, TINY.readout_layers)
    by_layer = dict(features_by_layer(tiny, data.train.stimuli, rows, TINY.readout_layers, at_once=at_once))
    assert list(by_layer) == list(whole)
    for layer, features in whole.items():
        assert torch.equal(by_layer[layer], features)


def test_features_as_computed_lose_nothing_and_take_half_the_memory(tiny: Backbone) -> None:
    data = planted_data()
    widened, kept = (
        extract_features(
            tiny, data.train.stimuli, data.train.rows, ["features.3"], precision="bfloat16", as_computed=flag
        )["features.3"]
        for flag in (False, True)
    )
    assert (widened.dtype, kept.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(widened, kept.float())


def test_no_stimuli_have_no_features(tiny: Backbone) -> None:
    data = planted_data()
    found = extract_features(tiny, data.train.stimuli, np.array([], dtype=np.int64), ["features.3"])
    assert found["features.3"].shape == (0, TINY.readout_layers["features.3"])
