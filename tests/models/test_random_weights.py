"""Random weights: the same from the same seed, and activations that neither vanish nor explode."""

import pytest
import torch

from trainables.models.weights import PretrainedWeights, load_weights


@pytest.fixture(scope="module")
def whole() -> PretrainedWeights:
    return load_weights("random")


@pytest.fixture(scope="module")
def residual() -> PretrainedWeights:
    return load_weights("random", "resnet18")


def test_random_weights_follow_the_seed_and_leave_the_generator_alone(whole: PretrainedWeights) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = load_weights("random")
    assert torch.equal(torch.rand(3), expected)
    assert again.digest == whole.digest
    assert load_weights("random", seed=1).digest != whole.digest


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_tiny"])
def test_random_weights_of_other_networks_follow_the_seed(backbone: str) -> None:
    one, again, other = (load_weights("random", backbone, seed).state for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    matrices = [name for name, tensor in one.items() if tensor.ndim in (2, 4)]
    assert not any(torch.equal(one[name], other[name]) for name in matrices)
    scales = [tensor for name, tensor in one.items() if name.endswith("layer_scale")]
    assert len(scales) == (18 if backbone == "convnext_tiny" else 0)
    assert all(torch.allclose(scale, torch.tensor(18**-0.5)) for scale in scales)


def test_random_weights_keep_the_scale_of_activations(whole: PretrainedWeights) -> None:
    for name, tensor in whole.state.items():
        if name.endswith("weight"):
            fan_in = tensor[0].numel()
            assert float(tensor.var()) == pytest.approx(2 / fan_in, rel=0.05)
        else:
            assert not tensor.any()


def test_random_residual_networks_start_as_published(residual: PretrainedWeights) -> None:
    for name, tensor in residual.state.items():
        if tensor.ndim == 4:
            assert float(tensor.var()) == pytest.approx(2 / tensor[0].numel(), rel=0.05)
        elif name.endswith(("running_var", "bn1.weight", "downsample.1.weight")):
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif name.endswith("bn2.weight"):  # 8 branches
            assert torch.allclose(tensor, torch.tensor(8**-0.5))
        elif name != "fc.weight":
            assert not tensor.any(), name
