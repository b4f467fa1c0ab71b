"""The memory of a trial by closed form, against what autograd keeps and what PyTorch's allocator hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from tests.synthetic import POOLED_TARGET, planted_data, planted_pair, tiny_config, tiny_weights
from trainables.config import TrialConfig
from trainables.data.responses import Partition, TargetData
from trainables.encoding import features as extraction
from trainables.encoding.features import features_by_layer, held_type
from trainables.encoding.validation import score_readout_layers
from trainables.models.backbone import build_backbone
from trainables.models.hardware import autocast
from trainables.models.shapes import kept_bytes
from trainables.models.weights import load_weights
from trainables.target import Target
from trainables.tuning.loop import TrialRun
from trainables.tuning.losses import build_head
from trainables.tuning.memory import SubjectSize, step_shapes, trial_bytes

TARGET = Target("noise", ("subj01",), "lh", "V1v")
CPU = torch.device("cpu")


def config_of(backbone: str, cutoff: str, batch_size: int, **changes: Any) -> TrialConfig:
    return TrialConfig(TARGET, "contrastive", backbone, cutoff, batch_size=batch_size, **changes)


def noise(n_train: int, n_val: int, n_voxels: int) -> TargetData:
    rng = np.random.default_rng(0)
    stimuli = rng.integers(0, 256, (n_train + n_val, 224, 224, 3), dtype=np.uint8)
    responses = rng.standard_normal((n_train + n_val, n_voxels), dtype=np.float32)
    rows = np.arange(n_train + n_val)
    train, val = (Partition(stimuli, part, responses[part], part) for part in (rows[:n_train], rows[n_train:]))
    return TargetData(TARGET, train, val, "")


def kept_by_autograd(config: TrialConfig, n_voxels: int, dtype: torch.dtype) -> int:
    """Storages that one forward pass keeps, parameters aside, copies of parameters included."""
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone, load_weights("random", config.backbone).state, config.layer_cutoff)
    head = build_head(config, backbone.n_features, [n_voxels])
    own = {p.untyped_storage()._cdata for module in (backbone, head) for p in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    images = torch.randn(config.batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(CPU, dtype):
            features = backbone.train()(images)
        head(torch.randn(config.batch_size, n_voxels), head.project_images(features))  # type: ignore[operator]
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


@pytest.mark.parametrize(
    ("backbone", "cutoff", "dtype"),
    [
        ("alexnet", "features.2", torch.float32),
        ("alexnet", "features.12", torch.bfloat16),
        ("alexnet", "output", torch.float32),
        ("resnet18", "layer2.1", torch.float32),
        ("resnet18", "output", torch.bfloat16),
        ("convnext_tiny", "features.3", torch.float32),
        ("vgg11", "features.10", torch.float32),
    ],
)
def test_activations_are_what_autograd_keeps(backbone: str, cutoff: str, dtype: torch.dtype) -> None:
    config = config_of(backbone, cutoff, 2)
    step = step_shapes(config, [100], 2, dtype)
    casts = 2 * sum(p.numel() for p in step.backbone.parameters()) if dtype == torch.bfloat16 else 0
    # A flattened copy, statistics of normalisations, and masks of floats where CUDA has bytes.
    assert kept_bytes(step.passes) + casts == pytest.approx(kept_by_autograd(config, 100, dtype), rel=0.05)


def allocated(action: Callable[[], object]) -> int:
    """Most bytes that PyTorch's CPU allocator had handed out during an action, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


@pytest.mark.parametrize("cutoff", ["features.2", "output"])
def test_a_step_takes_at_its_peak_what_the_allocator_hands_out(cutoff: str) -> None:
    data, weights = noise(8, 0, 50), load_weights("random")
    found = trial_bytes(config_of("alexnet", cutoff, 4), [SubjectSize(50, 8, 8, 0)], dtype=torch.float32)

    def tune() -> None:
        run = TrialRun(config_of("alexnet", cutoff, 4), data, weights, device="cpu", precision="float32")
        assert next(tune_only(run)) > 0

    pictures = 8 * 3 * 224**2  # stay where they are on a CPU
    expected = found.tuning - found.best - found.context - pictures
    assert expected == pytest.approx(allocated(tune), rel=0.15)


def tune_only(run: TrialRun) -> Iterator[float]:
    """Losses of two steps, without a score."""
    run.backbone.train()
    generator = torch.Generator().manual_seed(0)
    yield sum(float(run.step(torch.arange(4), generator)) for _ in range(2))


@pytest.mark.parametrize(
    ("backbone", "n_val", "at_once"),
    [("alexnet", 56, 1 << 31), ("alexnet", 56, 1 << 26), ("tiny", 60, 1 << 31), ("tiny", 0, 1 << 31)],
)
def test_a_score_takes_at_its_peak_what_the_allocator_hands_out(
    backbone: str, n_val: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are most of it in AlexNet, products of stimuli in a small network. Two full passes of 128 stimuli."""
    monkeypatch.setattr(extraction, "AT_ONCE_BYTES", at_once)
    n_train = 200 if backbone == "alexnet" else 300
    weights = load_weights("random") if backbone == "alexnet" else tiny_weights()
    data = noise(n_train, n_val, 50) if backbone == "alexnet" else planted_data(n_train, n_val, 50)
    size = SubjectSize(50, n_train + n_val, n_train, n_val)
    found = trial_bytes(config_of(backbone, "output", 4), [size], dtype=torch.float32)
    network = build_backbone(backbone, weights.state, "output")
    assert found.scoring == pytest.approx(allocated(lambda: score_readout_layers(network, data)), rel=0.25)


def test_layers_that_do_not_fit_together_are_not_held_together() -> None:
    data, weights = noise(256, 0, 1), load_weights("random")
    network = build_backbone("alexnet", weights.state, "output")
    widths = network.spec.readout_layers

    def peak(at_once: int) -> int:
        def read() -> None:
            for _, features in features_by_layer(network, data.train.stimuli, data.train.rows, widths, at_once=at_once):
                del features

        return allocated(read)

    largest = max(widths.values())
    spared = 4 * 256 * (sum(widths.values()) - largest)
    # Not all of it: passes through the network, which need memory too, meet other features in each case.
    assert peak(4 * 256 * largest) < peak(1 << 40) - spared / 2


@pytest.mark.parametrize("method", ["contrastive", "regression", "pooled-avg", "untuned"])
def test_parameters_gradients_and_moments_are_those_of_the_trial(method: str) -> None:
    data = planted_pair() if method == "pooled-avg" else [planted_data()]
    target = POOLED_TARGET if method == "pooled-avg" else TARGET
    config = tiny_config(method=method, target=target, epochs=0 if method == "untuned" else 1)
    run = TrialRun(config, data, tiny_weights(), device="cpu")
    list(run)
    found = trial_bytes(config, [SubjectSize(d.n_voxels, 72, len(d.train.rows), 24) for d in data])
    parameters = [*run.backbone.parameters(), *run.head.parameters()]
    assert found.parameters == found.best == sum(p.nbytes for p in parameters)
    left = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    others = 0 if method != "pooled-avg" else run.head.response_projections[0].weight.nbytes  # type: ignore[index, union-attr]
    assert found.gradients == left + others, "the last step leaves no gradient of the subject that it did not visit"
    moments = [tensor for tensor in run.snapshot().states["optimiser"].values() if tensor.dim()]
    assert found.moments == sum(t.nbytes for t in moments)


@pytest.mark.parametrize("backbone", ["alexnet", "convnext_tiny", "resnet18"])
def test_features_are_held_in_the_type_that_memory_is_counted_in(backbone: str) -> None:
    network = build_backbone(backbone, load_weights("random", backbone).state, "output")
    data = noise(2, 0, 1)
    widest = network.readout_layers[:2]
    read = features_by_layer(network, data.train.stimuli, data.train.rows, widest, precision="bfloat16")
    assert {features.dtype for _, features in read} == {held_type(network, torch.bfloat16)}


def test_more_of_anything_takes_more() -> None:
    size = SubjectSize(1000, 9841, 7380, 984)
    base = trial_bytes(config_of("alexnet", "features.5", 256), [size])
    deeper = trial_bytes(config_of("alexnet", "output", 256), [size])
    larger = trial_bytes(config_of("alexnet", "features.5", 1024), [size])
    wider = trial_bytes(config_of("alexnet", "features.5", 256), [replace(size, n_voxels=5000)])
    assert deeper.peak > base.peak
    assert larger.tuning > base.tuning
    assert wider.parameters > base.parameters
    assert base.peak == max(base.tuning, base.validation) > base.context
