"""How fast a slot of this machine tunes and reads out: measured on pictures of noise, which cost what others do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainables.config import TrialConfig
from trainables.data.responses import Partition, TargetData
from trainables.encoding.features import extract_features
from trainables.models.weights import PretrainedWeights
from trainables.target import Target
from trainables.tuning.loop import TrialRun

N_VOXELS = 100
SECONDS = 5.0
"""Measured for so long at least, after a first round that is not counted."""


@dataclass(frozen=True)
class Speed:
    """Pictures per second of one worker."""

    tuning: float
    """Through forward and backward pass and optimiser step, at the deepest layer cutoff."""
    reading: float
    """Through the forward pass alone, as every score needs it of each training and validation picture."""


def measure_speed(weights: PretrainedWeights, layer_cutoff: str, batch_size: int, *, device: str = "auto") -> Speed:
    """Tune and read out on noise for some seconds.

    Args:
        weights: of the backbone.
        layer_cutoff: the network is cut there.
        batch_size: stimuli in a step.
        device: where to compute; threads are those of the process.
    """
    data = noise_of(max(2, batch_size))
    config = TrialConfig(
        data.target, "contrastive", weights.backbone, layer_cutoff, batch_size=batch_size, epochs=10**6
    )
    run = TrialRun(config, data, weights, device=device)
    tuning = _rate(lambda: next(run), len(data.train.rows))
    network, train = run.backbone.eval(), data.train
    reading = _rate(
        lambda: extract_features(network, train.stimuli, train.rows, network.readout_layers), len(train.rows)
    )
    return Speed(tuning, reading)


def _rate(action: Callable[[], object], pictures: int) -> float:
    action()
    started, rounds = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS or not rounds:
        action()
        rounds += 1
    return pictures * rounds / seconds


def noise_of(n_stimuli: int) -> TargetData:
    """Pictures and responses of `N_VOXELS` voxels that are noise; both parts are all of them."""
    rng = np.random.default_rng(0)
    rows = np.arange(n_stimuli)
    part = Partition(
        rng.integers(0, 256, (n_stimuli, 224, 224, 3), dtype=np.uint8),
        rows,
        rng.standard_normal((n_stimuli, N_VOXELS), dtype=np.float32),
        rows,
    )
    return TargetData(Target("noise", ("subj01",), "lh", "V1v"), part, part, "")
