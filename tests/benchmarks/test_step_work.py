"""The arithmetic of a step by closed form, against PyTorch's own counter in a real step, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_work import step_work
from tests.synthetic import planted_data, tiny_config, tiny_weights
from trainables.config import TrialConfig
from trainables.models.weights import load_weights
from trainables.target import Target
from trainables.tuning.loop import TrialRun
from trainables.tuning.speed import N_VOXELS, noise_of


def counted(run: TrialRun, n_stimuli: int) -> int:
    run.backbone.train()
    with FlopCounterMode(display=False) as counter:
        run.step(torch.arange(n_stimuli), torch.Generator().manual_seed(0))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("changes", [{}, {"method": "regression"}, {"mse_weight": 0.5}, {"layer_cutoff": "output"}])
def test_flops_of_a_step_are_those_that_pytorch_counts(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    run = TrialRun(config, planted_data(), tiny_weights(), device="cpu", precision="float32")
    assert step_work(config, 10, torch.float32).flops == counted(run, config.batch_size)


@pytest.mark.parametrize("cutoff", ["features.2", "output"])
def test_flops_of_alexnet_are_those_that_pytorch_counts(cutoff: str) -> None:
    data = noise_of(4)
    config = TrialConfig(data.target, "contrastive", "alexnet", cutoff, batch_size=4)
    run = TrialRun(config, data, load_weights("random"), device="cpu", precision="float32")
    assert step_work(config, N_VOXELS, torch.float32).flops == counted(run, 4)


def test_work_by_hand() -> None:
    """AlexNet up to its first pooling: one convolution, whose input needs no gradient, and the head."""
    target = Target("noise", ("subj01",), "lh", "V1v")
    found = step_work(TrialConfig(target, "contrastive", "alexnet", "features.2", batch_size=2), 100, torch.float32)
    assert found.backbone_flops == 2 * 2 * (2 * 64 * 55 * 55) * (3 * 11 * 11)
    image, response = 3 * 2 * 2 * 46656 * 80, 2 * 2 * 2 * 100 * 80
    shared = 2 * 3 * 2 * 2 * (80 * 80 + 80 * 80 + 80 * 20)
    assert found.head_flops == image + response + shared + 3 * 2 * 2 * 2 * 20
    convolution, head = 64 * 3 * 11 * 11 + 64, 46656 * 80 + 100 * 80 + 2 * (80 * 80 + 80) + 4 * 80 + 80 * 20
    assert found.state_bytes == 10 * 4 * (convolution + head)
    of_head = 2 * (80 + 4 * 80 + 20)
    assert found.activation_bytes == 5 * 4 * 2 * (64 * 55 * 55 + 64 * 27 * 27 + of_head)
    assert found.image_bytes == 2 * 3 * 224 * 224 * 13
