"""The tuning of one backbone to one target, of one subject or of several, epoch by epoch.

``TrialRun(config, data, weights)`` is an iterator: each ``next()`` tunes for one epoch and gives an
`EpochResult`, with a validation score at the epochs that the configuration asks for. Dropping the iterator
ends the trial. An untuned backbone gives one result, epoch 0. ``best_model()`` is the network at its best
scored epoch, ready to save. ``snapshot()`` is the trial's place between two epochs, ``restore()`` goes on from one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.encoding.pooled import score_pooled
from trainables.encoding.validation import ValidationScore
from trainables.errors import ConfigError, NonFiniteLossError
from trainables.models.backbone import Backbone, backbone_spec, build_backbone
from trainables.models.hardware import autocast, choose_device, choose_precision
from trainables.models.images import StimulusCache
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import PretrainedWeights
from trainables.tuning import distributed
from trainables.tuning.losses import batch_loss, build_head
from trainables.tuning.objectives import OBJECTIVES
from trainables.tuning.pooled import SubjectInTraining, require_subjects, subjects_in_training
from trainables.tuning.results import EpochResult
from trainables.tuning.snapshot import Snapshot, optimiser_state, restore_optimiser

if TYPE_CHECKING:
    from trainables.data.responses import TargetData


class TrialRun(Iterator[EpochResult]):
    """One trial in progress.

    The published recipe (arXiv 2410.06067): Adam on all parameters of backbone and head, shuffled batches,
    dropout on, no augmentation, no schedule. A last batch of a single stimulus joins the one before it, since
    it has no negative. A pooled trial visits its subjects in turn, one after the other in every epoch, with one
    optimiser step a batch; a subject's own layers rest while others are visited.

    The result depends on configuration, data, weights and machine, not on what ran in the process before:
    initialisation, shuffling, dropout and what an objective draws are seeded anew in every epoch. On a CPU it is
    the same to the bit; on CUDA, kernels that add in no fixed order leave differences of rounding. PyTorch's global
    generator is reseeded.

    Args:
        config: what to compute.
        data: training and validation part of the target; of a pooled trial, those of every subject, in the order of
            ``config.target.subjects``.
        weights: where the backbone starts; copied.
        device: ``auto``, or where to compute.
        precision: of the backbone, see `trainables.models.hardware.choose_precision`; scores use the same.
        n_components: principal components of the encoding models that score.
        stimuli: keeps stimuli on a CUDA device from trial to trial, one cache for each subject; without it each trial
            sends them anew.

    Attributes:
        epoch: epochs that are done.
        best: result of the scored epoch with the highest validation r so far, the earlier one on a tie; None
            before.

    Raises:
        ConfigError: a backbone, cutoff, objective or precision that does not exist, fewer than two training stimuli,
            or data of other subjects than the target's.
        WeightsError: the weights do not reach the layer cutoff.
        NonFiniteLossError: from ``next()``, when the loss or the features became NaN or infinite.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: TargetData | Sequence[TargetData],
        weights: PretrainedWeights,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        n_components: int = 1000,
        stimuli: StimulusCache | Sequence[StimulusCache] | None = None,
    ) -> None:
        each = list(data) if isinstance(data, Sequence) else [data]
        _require_trial(config, weights)
        require_subjects(config, each)
        self.config = config
        self.best: EpochResult | None = None
        self._best_states: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        self._weights = weights
        self._device = choose_device(device)
        self._precision = precision
        self._dtype = choose_precision(precision, self._device)
        self._n_components = n_components
        self._subjects = subjects_in_training(each, stimuli, self._device)
        self._n_stimuli = sum(len(subject.responses) for subject in self._subjects)
        torch.manual_seed(_seed(config.seed, 0))
        self.backbone: Backbone = build_backbone(config.backbone, weights.state, config.layer_cutoff)
        self.head = build_head(config, self.backbone.n_features, [one.n_voxels for one in each])
        for module in (self.backbone, self.head):
            distributed.copy_from_first_worker(module.to(self._device))
        self._parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self._optimiser = torch.optim.Adam(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.epoch = 0
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

    def snapshot(self, notes: Mapping[str, Any] | None = None) -> Snapshot:
        """The trial between two epochs, with ``notes`` for whoever restores it; shares its tensors with the trial."""
        best_backbone, best_head = self._best_states or ({}, {})
        states = {
            "backbone": self.backbone.state_dict(),
            "head": self.head.state_dict(),
            "optimiser": optimiser_state(self._optimiser),
            "best_backbone": best_backbone,
            "best_head": best_head,
        }
        return Snapshot(self.epoch, self.identity(), states, self.best, notes or {})

    def restore(self, snapshot: Snapshot) -> bool:
        """Go on from a snapshot, before the first epoch; the rest is as if nothing had happened.

        Returns:
            False, and nothing is changed, if it is another trial's: other configuration, weights or split.
        """
        if not snapshot.is_of(self.identity()):
            return False
        states = snapshot.states
        self.backbone.load_state_dict(states["backbone"])
        self.head.load_state_dict(states["head"])
        restore_optimiser(self._optimiser, states["optimiser"])
        self.epoch, self.best = snapshot.epoch, snapshot.best
        if self.best is not None:
            self._best_states = (
                {name: tensor.to(self._device) for name, tensor in states["best_backbone"].items()},
                {name: tensor.to(self._device) for name, tensor in states.get("best_head", {}).items()},
            )
        return True

    def identity(self) -> dict[str, Any]:
        """Whose snapshot one of this trial is: configuration, and digests of weights and split."""
        data = [part.data.digest for part in self._subjects]
        return {"config": self.config.to_dict(), "weights": self._weights.digest, "split": data}

    def _run(self) -> Iterator[EpochResult]:
        if self.config.method == "untuned":
            yield self._scored(EpochResult(0, math.nan, 0.0, 0.0, None))
            return
        for epoch in range(self.epoch + 1, self.config.epochs + 1):
            started = time.perf_counter()
            loss = self._tune_epoch(epoch)
            seconds = time.perf_counter() - started
            result = EpochResult(epoch, loss, seconds, self._n_stimuli / seconds, None)
            if epoch in self.config.scored_epochs:
                result = self._scored(result)
            self.epoch = epoch
            yield result

    def _tune_epoch(self, epoch: int) -> float:
        """One pass over the training stimuli of every subject in turn; the mean loss."""
        torch.manual_seed(_seed(self.config.seed, epoch, distributed.world()[0]))
        # The same on every worker, unlike PyTorch's own: for shuffling, and for what the objective draws.
        generator = torch.Generator().manual_seed(_seed(self.config.seed, epoch))
        self.backbone.train()
        self.head.train()
        # Summed on the device: reading the loss at every step would make a GPU wait for Python.
        total = torch.zeros((), device=self._device)
        for subject in self._subjects:
            for batch in _shuffled_batches(len(subject.responses), self.config.batch_size, generator):
                total += self.step(batch, generator, subject.index) * len(batch)
        mean = float(total) / self._n_stimuli
        if not math.isfinite(mean):
            raise NonFiniteLossError(
                f"training loss is {mean} in epoch {epoch}; lower the learning rate "
                f"({self.config.learning_rate}) or raise the temperature ({self.config.temperature})"
            )
        return mean

    def step(self, batch: Tensor, generator: torch.Generator, subject: int = 0) -> Tensor:
        """One optimiser step, of modules in training mode; the batch's loss before it, detached, on the device.

        Args:
            batch: positions within the subject's training part, int64 ``[n_stimuli]``, on the CPU.
            generator: of the CPU, in the same state on every worker.
            subject: position among the trial's subjects.
        """
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            loss = self._batch_loss(batch, generator, self._subjects[subject])
            self._optimiser.zero_grad()
            loss.backward()
            distributed.average_gradients(self._parameters)
            self._optimiser.step()
        return loss.detach()

    def _batch_loss(self, batch: Tensor, generator: torch.Generator, subject: SubjectInTraining) -> Tensor:
        images = subject.share_of_images(batch, self.backbone.spec)
        responses = subject.responses[batch.to(self._device, non_blocking=True)]
        return self.loss_of(images, responses, generator, subject.index)

    def loss_of(self, images: Tensor, responses: Tensor, generator: torch.Generator, subject: int) -> Tensor:
        """Loss of a whole batch, ``responses [n_stimuli, n_voxels]``, from this worker's normalised share of images."""
        # Only the backbone runs in reduced precision: a small temperature would magnify the rounding of
        # embeddings.
        with autocast(self._device, self._dtype):
            features = self.backbone(images)
        return batch_loss(self.head, features, responses, self.config, generator, subject)

    def _scored(self, result: EpochResult) -> EpochResult:
        """The result with its validation score; keeps the network's state if it is the best so far."""
        started = time.perf_counter()
        score = score_pooled(
            self.backbone,
            [subject.data for subject in self._subjects],
            precision=self._precision,
            n_components=self._n_components,
            stimuli=[subject.stimuli for subject in self._subjects],
            encoder=self.config.encoder,
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
            "split_digest": self._subjects[0].data.digest,
            "validation_r": score.r,
            "validation_r_by_layer": dict(score.r_by_layer),
            "weights": {"source": self._weights.source, "digest": self._weights.digest},
        }


def _require_one_worker(config: TrialConfig) -> None:
    n_workers = distributed.world()[1]
    if n_workers > 1 and backbone_spec(config.backbone).has_batch_norm:
        raise ConfigError(
            f"backbone {config.backbone} has batch normalisation, which {n_workers} workers would each compute on "
            "their part of a batch; use a profile with one worker a slot, or alexnet, vgg11 or convnext_tiny"
        )


def _require_trial(config: TrialConfig, weights: PretrainedWeights) -> None:
    _require_one_worker(config)
    if config.backbone != weights.backbone:
        raise ConfigError(f"backbone is {config.backbone}, but the weights are for {weights.backbone}; load its own")
    if config.is_contrastive and config.objective not in OBJECTIVES:
        raise ConfigError(f"objective is {config.objective!r}; expected one of {', '.join(OBJECTIVES)}")


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
