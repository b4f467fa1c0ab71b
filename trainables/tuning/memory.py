"""The device memory that a trial takes at its peak, from shapes alone: nothing is computed and nothing allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.encoding._solvers import FEATURE_BLOCK
from trainables.encoding.cross_validation import N_FOLDS
from trainables.encoding.encoder import DEFAULT_ALPHAS, voxels_at_a_time
from trainables.encoding.features import held_type, layers_together
from trainables.models.backbone import Backbone
from trainables.models.heads import ContrastiveHead, PooledHead
from trainables.models.shapes import LayerPass, backbone_on_meta, images_on_meta, kept_bytes, passes_recorded
from trainables.tuning.losses import build_head

CONTEXT_BYTES = 600_000_000
"""Of a process on a CUDA device before it has a tensor: context, kernels, workspaces of cuDNN and cuBLAS. Assumed, not
measured: 400 to 700 MB are usual, by device and driver; `nvidia-smi` shows it."""
_FLOAT32, _FLOAT64 = 4, 8
_READ_AT_A_TIME = 128
"""Stimuli in one pass of `trainables.encoding.features.extract_features`."""
_MATRICES = 8
"""Float32 matrices ``[n_stimuli, n_stimuli]`` that an objective keeps of a batch, at most."""
_EIGH_SQUARES = 3
"""Float64 matrices ``[n_train, n_train]`` of an eigendecomposition: the vectors, and the workspace of divide and
conquer."""


@dataclass(frozen=True)
class SubjectSize:
    """How much data one subject brings."""

    n_voxels: int
    n_stimuli: int
    """Of all parts: a device holds the pictures of the whole subject."""
    n_train: int
    n_val: int


@dataclass(frozen=True)
class TrialBytes:
    """Bytes that one trial takes of its device."""

    parameters: int
    """Of backbone and head, float32."""
    gradients: int
    """Likewise; they stay from one step to the next, and through validation scores."""
    moments: int
    """Adam's first and second, float32."""
    best: int
    """Copy of backbone and head at the best scored epoch."""
    activations: int
    """What a batch's forward pass keeps for the backward pass, and copies of weights in the backbone's type."""
    working: int
    """What the backward pass of one layer takes beside that: gradients of its output and of its input."""
    scoring: int
    """Features and products of the validation score."""
    data: int
    """Pictures as bytes, training responses as float32."""
    context: int
    """See `CONTEXT_BYTES`."""

    @property
    def tuning(self) -> int:
        """Peak of an optimiser step."""
        held = self.parameters + self.gradients + self.moments + self.best + self.data + self.context
        return held + self.activations + self.working

    @property
    def validation(self) -> int:
        """Peak of a validation score; the former best copy is still there when a better one is made."""
        held = self.parameters + self.gradients + self.moments + self.best + self.data + self.context
        return held + max(self.scoring, self.best)

    @property
    def peak(self) -> int:
        """The higher of the two."""
        return max(self.tuning, self.validation)


def trial_bytes(
    config: TrialConfig,
    subjects: Sequence[SubjectSize],
    *,
    dtype: torch.dtype = torch.bfloat16,
    n_components: int = 1000,
) -> TrialBytes:
    """Device memory of one trial on a CUDA device, by closed form.

    What PyTorch's allocator rounds up and cannot use again is not in it, nor what scores besides encoding take. Scores
    are counted as the ridge model's of the nested protocol.

    Args:
        config: method, backbone, layer cutoff and batch size are read.
        subjects: of the trial, in the order of its target's subjects.
        dtype: of the backbone's activations, see `trainables.models.hardware.choose_precision`.
        n_components: principal components of the encoding models that score.

    Raises:
        ConfigError: no such backbone or cutoff, or so few voxels that an embedding would have no dimension.
    """
    n_batch = min(config.batch_size, max(each.n_train for each in subjects))
    step = step_shapes(config, [each.n_voxels for each in subjects], n_batch, dtype)
    n_backbone, n_head = (sum(p.numel() for p in module.parameters()) for module in (step.backbone, step.head))
    weights, tuned = _FLOAT32 * (n_backbone + n_head), config.method != "untuned"
    # Autocast keeps a copy of the backbone's weights in its own type until the backward pass is over.
    casts = n_backbone * dtype.itemsize if dtype.itemsize < _FLOAT32 else 0
    largest = max(each.given.nbytes for each in step.backbone_passes)
    pixels = 3 * step.backbone.spec.image_size**2
    return TrialBytes(
        parameters=weights,
        gradients=weights * tuned,
        moments=2 * weights * tuned,
        best=weights,
        activations=tuned * (kept_bytes(step.passes) + _MATRICES * _FLOAT32 * n_batch**2 + casts),
        working=tuned * 2 * largest,
        scoring=max(
            _scoring_bytes(step.backbone, each, dtype, n_components, 2 * largest // n_batch) for each in subjects
        ),
        data=sum(pixels * each.n_stimuli + _FLOAT32 * each.n_train * each.n_voxels for each in subjects),
        context=CONTEXT_BYTES,
    )


@dataclass(frozen=True, eq=False)
class StepShapes:
    """Layers of a trial's step and what went through them, on the ``meta`` device."""

    backbone: Backbone
    head: nn.Module
    backbone_passes: list[LayerPass]
    head_passes: list[LayerPass]

    @property
    def passes(self) -> list[LayerPass]:
        """All of them."""
        return [*self.backbone_passes, *self.head_passes]


def step_shapes(config: TrialConfig, n_voxels: Sequence[int], n_batch: int, dtype: torch.dtype) -> StepShapes:
    """The forward pass of a batch of ``n_batch`` stimuli of the subject with the most voxels, up to the loss.

    Args:
        config: method, backbone and layer cutoff are read.
        n_voxels: of every subject.
        n_batch: stimuli of the batch.
        dtype: of the backbone's activations; the head's are float32.

    Raises:
        ConfigError: see `trial_bytes`.
    """
    backbone = backbone_on_meta(config.backbone, config.layer_cutoff, dtype)
    with torch.device("meta"):
        head = build_head(config, backbone.n_features, list(n_voxels)).train()
        subject = max(range(len(n_voxels)), key=n_voxels.__getitem__)
        responses = torch.empty(n_batch, n_voxels[subject])
    with passes_recorded(backbone) as of_backbone, passes_recorded(head) as of_head:
        features = backbone(images_on_meta(backbone, n_batch, dtype)).float()
        if isinstance(head, ContrastiveHead):
            head(responses, head.project_images(features))
            regressions: list[nn.Module] = [head.regression] if head.regression else []
        elif isinstance(head, PooledHead):
            head(responses, head.project_images(features), subject)
            regressions = list(head.regressions)[subject : subject + 1]
        else:
            regressions = [head]
        for regression in regressions:
            regression(features)
    return StepShapes(backbone, head, of_backbone, of_head)


def _scoring_bytes(
    network: Backbone, subject: SubjectSize, dtype: torch.dtype, n_components: int, per_image: int
) -> int:
    """Peak of `trainables.encoding.validation.score_readout_layers`: the features that are held together, and beside
    them the pass through the network that fills them, the products of the first layer, or its fit.
    """
    n_train, n_rows = subject.n_train, subject.n_train + subject.n_val
    # Without validation stimuli, folds of the training stimuli are scored: the others of them are fitted.
    n_fitted = n_train if subject.n_val else n_train * (N_FOLDS - 1) // N_FOLDS
    gram, square = _FLOAT64 * n_rows * n_train, _FLOAT64 * n_fitted**2
    n_block = min(subject.n_voxels, voxels_at_a_time(len(DEFAULT_ALPHAS)))
    kept = min(n_components, n_fitted)
    # Of a block of voxels: centred, unexplained, two residuals, and what each shared product takes from it.
    fit = _FLOAT64 * n_fitted * (2 * subject.n_voxels + 2 * kept + (4 + len(DEFAULT_ALPHAS)) * n_block)
    pixels = 3 * network.spec.image_size**2 * (1 + _FLOAT32)
    reading = min(n_rows, _READ_AT_A_TIME) * (pixels + per_image)
    itemsize = held_type(network, dtype).itemsize

    def beside(group: tuple[str, ...]) -> int:
        widths = [network.spec.readout_layers[layer] for layer in group]
        features = [itemsize * n_rows * width for width in widths]
        # Of a block of features: centred, and its products before and after they are widened.
        product = n_rows * (_FLOAT32 * min(FEATURE_BLOCK, widths[0]) + n_train * (_FLOAT32 + _FLOAT64))
        fitting = gram + max(_EIGH_SQUARES * square, square + fit)
        return max(sum(features) + max(reading, gram + product), sum(features[1:]) + fitting)

    layer_bytes = {layer: itemsize * n_rows * network.spec.readout_layers[layer] for layer in network.readout_layers}
    return max(map(beside, layers_together(network.readout_layers, layer_bytes)))
