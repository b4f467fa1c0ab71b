"""A small backbone and small targets with planted truth, so that a whole trial takes milliseconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.data.responses import Partition, TargetData
from trainables.models.backbone import BACKBONES, BackboneSpec, Chain
from trainables.models.weights import PretrainedWeights, load_weights
from trainables.target import Target

IMAGE_SIZE = 16
TARGET = Target("synthetic", ("subj01",), "lh", "V1v")


def _tiny_chain() -> Chain:
    return [
        ("features.0", nn.Conv2d(3, 8, kernel_size=5, stride=2)),
        ("features.1", nn.ReLU(inplace=True)),
        ("features.2", nn.Conv2d(8, 12, kernel_size=3)),
        ("features.3", nn.ReLU(inplace=True)),
        ("flatten", nn.Flatten()),
        ("classifier.0", nn.Dropout(0.5)),
        ("classifier.1", nn.Linear(12 * 16, 20)),
        ("classifier.2", nn.ReLU(inplace=True)),
    ]


TINY = BackboneSpec(
    name="tiny",
    chain=_tiny_chain,
    readout_layers={"features.1": 8 * 36, "features.3": 12 * 16, "classifier.2": 20},
    image_size=IMAGE_SIZE,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.25),
)


def register_tiny_backbone() -> None:
    BACKBONES["tiny"] = TINY


def tiny_weights(seed: int = 0) -> PretrainedWeights:
    register_tiny_backbone()
    return load_weights("random", "tiny", seed)


def tiny_config(**changes: object) -> TrialConfig:
    values: dict[str, object] = {
        "target": TARGET,
        "method": "contrastive",
        "backbone": "tiny",
        "layer_cutoff": "features.3",
        "learning_rate": 1e-3,
        "batch_size": 16,
        "epochs": 2,
    }
    return TrialConfig(**{**values, **changes})  # type: ignore[arg-type]


def planted_data(
    n_train: int = 40,
    n_val: int = 24,
    n_voxels: int = 10,
    noise: float = 0.3,
    *,
    seed: int = 5,
    subject: str = "subj01",
) -> TargetData:
    """Responses of random linear filters and their squares, plus noise; the stimuli are coarse noise.

    Another seed gives other stimuli, filters and noise: a subject that shares nothing with the first.
    """
    generator = np.random.default_rng(seed)
    n_test = 8
    n_stimuli = n_train + n_val + n_test
    coarse = generator.uniform(0, 255, (n_stimuli, 4, 4, 3))
    blurred = np.kron(coarse, np.ones((1, 4, 4, 1)))
    stimuli = np.clip(blurred + generator.normal(0, 20, blurred.shape), 0, 255).astype(np.uint8)
    filters = generator.normal(size=(stimuli[0].size, n_voxels))
    drive = (stimuli.reshape(n_stimuli, -1) - 127.0) @ filters / 2000
    responses = drive**2 + drive
    responses = (responses - responses.mean(0)) / responses.std(0)
    responses = (responses + noise * generator.normal(size=responses.shape)).astype(np.float32)
    order = generator.permutation(n_stimuli)
    train, val = np.sort(order[:n_train]), np.sort(order[n_train : n_train + n_val])
    train_part, val_part = (Partition(stimuli, rows, responses[rows], rows + 1000) for rows in (train, val))
    return TargetData(replace(TARGET, subjects=(subject,)), train_part, val_part, digest="synthetic")


POOLED_TARGET = replace(TARGET, subjects=("subj01", "subj02"))


def planted_pair(n_train: tuple[int, int] = (40, 33), n_voxels: tuple[int, int] = (10, 17)) -> list[TargetData]:
    """Two subjects of `POOLED_TARGET` with different stimuli and numbers of stimuli and voxels."""
    return [
        planted_data(n, n_voxels=v, seed=seed, subject=subject)
        for n, v, seed, subject in zip(n_train, n_voxels, (5, 6), POOLED_TARGET.subjects, strict=True)
    ]


def unused_rows(data: TargetData) -> np.ndarray:
    """Rows of neither part: what stands for the test stimuli."""
    return np.setdiff1d(np.arange(len(data.train.stimuli)), np.concatenate([data.train.rows, data.val.rows]))


def equal_states(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
