"""The tuning of one backbone to one target, epoch by epoch.

``TrialRun(config, data, weights)`` is an iterator: each ``next()`` tunes for one epoch and gives an
`EpochResult`, with a validation score at the epochs that the configuration asks for. Dropping the iterator
ends the trial. An untuned backbone gives one result, epoch 0. ``best_model()`` is the network at its best
scored epoch, ready to save.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import TrialConfig
from trainables.encoding.validation import ValidationScore, score_readout_layers
from trainables.errors import ConfigError, NonFiniteLossError
from trainables.models.backbone import Backbone, build_backbone
from trainables.models.hardware import autocast, choose_device, choose_precision
from trainables.models.heads import ContrastiveHead, RegressionHead
from trainables.models.images import StimulusCache, normalised_batch
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import PretrainedWeights
from trainables.tuning import distributed
from trainables.tuning.objectives import OBJECTIVES

if TYPE_CHECKING:
    from trainables.data.responses import TargetData


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave."""

    epoch: int
    """From 1; 0 for an untuned backbone."""
    train_loss: float
    """Mean over the epoch's training stimuli: nats for contrastive objectives, squared response units for
    regression, NaN for an untuned backbone."""
    seconds: float
    """Spent tuning, without the score."""
    images_per_second: float
    """Training stimuli of all workers over ``seconds``; 0 for an untuned backbone."""
    score: ValidationScore | None
    """At the configuration's scored epochs, else None."""
    score_seconds: float = 0.0
    """Spent on ``score``."""


class TrialRun(Iterator[EpochResult]):
    """One trial in progress.

    The published recipe (arXiv 2410.06067): Adam on all parameters of backbone and head, shuffled batches,
    dropout on, no augmentation, no schedule. A last batch of a single stimulus joins the one before it, since
    it has no negative.

    The result depends on configuration, data, weights and machine, not on what ran in the process before:
    initialisation, shuffling and dropout are seeded anew in every epoch. On a CPU it is the same to the bit;
    on CUDA, kernels that add in no fixed order leave differences of rounding. PyTorch's global generator is
    reseeded.

    Args:
        config: what to compute.
        data: training and validation part of the target.
        weights: where the backbone starts; copied.
        device: ``auto``, or where to compute.
        precision: of the backbone, see `trainables.models.hardware.choose_precision`; scores use the same.
        n_components: principal components of the encoding models that score.
        stimuli: keeps stimuli on a CUDA device from trial to trial; without it each trial sends them anew.

    Attributes:
        best: result of the scored epoch with the highest validation r so far, the earlier one on a tie; None
            before.

    Raises:
        ConfigError: a backbone, cutoff or objective that does not exist, or fewer than two training stimuli.
        WeightsError: the weights do not reach the layer cutoff.
        NonFiniteLossError: from ``next()``, when the loss or the features became NaN or infinite.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: TargetData,
        weights: PretrainedWeights,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        n_components: int = 1000,
        stimuli: StimulusCache | None = None,
    ) -> None:
        _require_trial(config, data, weights)
        self.config = config
        self.best: EpochResult | None = None
        self._best_states: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        self._data = data
        self._weights = weights
        self._device = choose_device(device)
        self._precision = precision
        self._n_components = n_components
        self._stimuli = (stimuli or StimulusCache()).on_device(data.train.stimuli, self._device)
        self._responses = torch.as_tensor(data.train.responses, dtype=torch.float32, device=self._device)
        torch.manual_seed(_seed(config.seed, 0))
        self.backbone: Backbone = build_backbone(config.backbone, weights.state, config.layer_cutoff)
        self.head = _build_head(config.method, self.backbone.n_features, data.n_voxels)
        for module in (self.backbone, self.head):
            distributed.copy_from_first_worker(module.to(self._device))
        self._parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self._results = self._run()

    def __next__(self) -> EpochResult:
        return next(self._results)

    def best_model(self) -> TunedModel:
        """The network at its best scored epoch.

        Raises:
            ValueError: no epoch has been scored yet.
        """
        if self.best is None or self.best.score is None or self._best_states is None:
            raise ValueError("no epoch of this trial has been scored yet; advance it to a scored epoch first")
        state, head = self._best_states
        return TunedModel(
            backbone=self.config.backbone,
            layer_cutoff=self.config.layer_cutoff,
            method=self.config.method,
            readout_layer=self.best.score.best_layer,
            state=state,
            head=head,
            provenance=self._provenance(self.best.epoch, self.best.score),
        )

    def _run(self) -> Iterator[EpochResult]:
        if self.config.method == "untuned":
            yield self._scored(EpochResult(0, math.nan, 0.0, 0.0, None))
            return
        optimiser = torch.optim.Adam(
            self._parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        for epoch in range(1, self.config.epochs + 1):
            started = time.perf_counter()
            loss = self._tune_epoch(epoch, optimiser)
            seconds = time.perf_counter() - started
            result = EpochResult(epoch, loss, seconds, len(self._responses) / seconds, None)
            yield self._scored(result) if epoch in self.config.scored_epochs else result

    def _tune_epoch(self, epoch: int, optimiser: torch.optim.Optimizer) -> float:
        """One pass over the training stimuli; the mean loss."""
        torch.manual_seed(_seed(self.config.seed, epoch, distributed.world()[0]))
        shuffling = torch.Generator().manual_seed(_seed(self.config.seed, epoch))
        self.backbone.train()
        self.head.train()
        # Summed on the device: reading the loss at every step would make a GPU wait for Python.
        total = torch.zeros((), device=self._device)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for batch in _shuffled_batches(len(self._responses), self.config.batch_size, shuffling):
                loss = self._batch_loss(batch)
                optimiser.zero_grad()
                loss.backward()
                distributed.average_gradients(self._parameters)
                optimiser.step()
                total += loss.detach() * len(batch)
        mean = float(total) / len(self._responses)
        if not math.isfinite(mean):
            raise NonFiniteLossError(
                f"training loss is {mean} in epoch {epoch}; lower the learning rate "
                f"({self.config.learning_rate}) or raise the temperature ({self.config.temperature})"
            )
        return mean

    def _batch_loss(self, batch: Tensor) -> Tensor:
        """Loss of the whole batch, from this worker's share of the images.

        Args:
            batch: positions within the training part, int64 ``[n_stimuli]``, on the CPU.
        """
        rows = self._data.train.rows[distributed.share_of(batch).numpy()]
        images = normalised_batch(self._stimuli, rows, self.backbone.spec, self._device)
        # Only the backbone runs in reduced precision: a small temperature would magnify the rounding of
        # embeddings.
        with autocast(self._device, choose_precision(self._precision, self._device)):
            features = self.backbone(images)
        responses = self._responses[batch.to(self._device)]
        if isinstance(self.head, ContrastiveHead):
            projected = distributed.gather_rows(self.head.project_images(features))
            response_embeddings, image_embeddings = self.head(responses, projected)
            objective = OBJECTIVES[self.config.objective]
            return objective(response_embeddings, image_embeddings, self.config.temperature)
        return functional.mse_loss(distributed.gather_rows(self.head(features)), responses)

    def _scored(self, result: EpochResult) -> EpochResult:
        """The result with its validation score; keeps the network's state if it is the best so far."""
        started = time.perf_counter()
        score = score_readout_layers(
            self.backbone,
            self._data,
            precision=self._precision,
            n_components=self._n_components,
            stimuli=self._stimuli,
        )
        scored = replace(result, score=score, score_seconds=time.perf_counter() - started)
        if self.best is None or self.best.score is None or score.r > self.best.score.r:
            self.best = scored
            self._best_states = _copied(self.backbone), _copied(self.head)
        return scored

    def _provenance(self, epoch: int, score: ValidationScore) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "epoch": epoch,
            "split_digest": self._data.digest,
            "validation_r": score.r,
            "validation_r_by_layer": dict(score.r_by_layer),
            "weights": {"source": self._weights.source, "digest": self._weights.digest},
        }


def _require_trial(config: TrialConfig, data: TargetData, weights: PretrainedWeights) -> None:
    if config.backbone != weights.backbone:
        raise ConfigError(f"backbone is {config.backbone}, but the weights are for {weights.backbone}; load its own")
    if config.method == "contrastive" and config.objective not in OBJECTIVES:
        raise ConfigError(f"objective is {config.objective!r}; expected one of {', '.join(OBJECTIVES)}")
    if len(data.train.rows) < 2:
        raise ConfigError(f"{data.target.name} has {len(data.train.rows)} training stimuli; expected at least 2")


def _build_head(method: str, n_features: int, n_voxels: int) -> nn.Module:
    if method == "contrastive":
        return ContrastiveHead(n_features, n_voxels)
    return RegressionHead(n_features, n_voxels) if method == "regression" else nn.Identity()


def _shuffled_batches(n_stimuli: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """All positions once, in random order; a last batch of one stimulus joins the batch before."""
    order = torch.randperm(n_stimuli, generator=generator)
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _seed(*entropy: int) -> int:
    """One seed from several numbers, so that trials, epochs and workers do not share random numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
