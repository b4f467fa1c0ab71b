"""The bench that a worker's trials share, and the trial in hand.

It keeps the data set, the decoded stimuli, the pretrained weights and the device context from trial to trial; a new
trial drops the one in hand.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from upath import UPath

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.files import default_cache_dir
from trainables.data.labelled import decode_labelled, open_labelled
from trainables.data.open import open_dataset
from trainables.data.responses import TargetData, load_subjects
from trainables.encoding.validation import ValidationScore
from trainables.errors import CortexSweepError, DataError, StorageError, WeightsError
from trainables.evaluations.classification import classify
from trainables.evaluations.transfer import transfer_score
from trainables.models.images import StimulusCache
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import PretrainedWeights, load_weights
from trainables.target import Target
from trainables.tuning import distributed
from trainables.tuning.loop import TrialRun
from trainables.tuning.results import EpochResult
from trainables.tuning.snapshot import SnapshotFolder

TARGETS_KEPT = 8
"""Targets whose responses stay in memory; the stimuli of a subject are one memory map whatever the number."""


@dataclass(frozen=True)
class Workspace:
    """What all trials of a slot share."""

    data: str
    """Root of the data set."""
    weights: str
    """Pretrained weights that trials start from."""
    backbone: str
    """Name of the CNN."""
    cache_dir: str | None
    """Folder on the worker's node for decoded stimuli; None for that node's default."""
    split_seed: int
    protocol: str
    """See `trainables.data.splits`."""
    scores: tuple[str, ...]
    """What is measured of a complete trial on validation stimuli besides encoding: ``transfer``, ``classification``."""
    transfer_targets: tuple[tuple[str, str, str], ...]
    """Subject, hemisphere and ROI of every target of a single subject; a trial's ``transfer`` is measured on those with
    its ROI whose subject it was not tuned for."""
    labelled: str
    """Labelled image set for ``classification``."""
    threads: int
    """CPU threads of one worker."""
    gpu_memory_fraction: float
    """Share of the device's memory that one worker may take; 0 where it has none and computes on the CPU."""


class Bench:
    """The warm state of one worker."""

    def __init__(self, workspace: Workspace, leaving: Callable[[], bool] = lambda: False) -> None:
        """``leaving`` says whether this machine is about to be taken away; every worker of a group asks it equally."""
        self.workspace = workspace
        self.leaving = leaving
        torch.set_num_threads(workspace.threads)
        # A worker without a share of a GPU may still see one: Ray hides devices only from those that ask for some.
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if workspace.gpu_memory_fraction else torch.device("cpu")
        )
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(workspace.gpu_memory_fraction)
        self._stimuli: dict[tuple[str, ...], list[StimulusCache]] = {}
        self.target_data = lru_cache(maxsize=TARGETS_KEPT)(self._load_target)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, opened once."""
        return open_dataset(self.workspace.data)

    @cached_property
    def weights(self) -> PretrainedWeights:
        """The pretrained weights, read once."""
        return load_weights(self.workspace.weights, self.workspace.backbone)

    @cached_property
    def labelled(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
        """Images and labels of the labelled set, decoded once, and its number of classes."""
        images = open_labelled(self.workspace.labelled)
        return decode_labelled(images, self.cache or default_cache_dir()), images.labels, len(images.class_names)

    @property
    def cache(self) -> Path | None:
        """Folder for decoded stimuli."""
        return Path(self.workspace.cache_dir) if self.workspace.cache_dir else None

    def _load_target(self, target: Target) -> list[TargetData]:
        work = self.workspace
        return load_subjects(self.dataset, target, work.split_seed, self.cache, protocol=work.protocol)

    def start(self, config: TrialConfig) -> TrialRun:
        """A trial that has not run its first epoch."""
        subjects = config.target.subjects
        if subjects not in self._stimuli:
            self._stimuli = {subjects: [StimulusCache() for _ in subjects]}  # the former subjects' memory is freed
        data, weights = distributed.together(lambda: (self.target_data(config.target), self.weights))
        return TrialRun(config, data, weights, device=self.device, stimuli=self._stimuli[subjects])

    def further_scores(self, model: TunedModel, config: TrialConfig) -> dict[str, float]:
        """What the workspace asks for besides encoding, of a network at its best epoch; on validation stimuli alone."""
        network = model.build().to(self.device)
        found: dict[str, float] = {}
        if "transfer" in self.workspace.scores:
            here, own = (config.target.hemisphere, config.target.roi), config.target.subjects
            others = [subject for subject, *place in self.workspace.transfer_targets if tuple(place) == here]
            names = [name for name in others if name not in own]
            data = [part for name in names for part in self.target_data(config.target.of_subject(name))]
            if data:  # a pool of all subjects leaves nobody to transfer to
                found["transfer"] = transfer_score(network, data, encoder=config.encoder)
        if "classification" in self.workspace.scores:
            images, labels, n_classes = self.labelled
            layer = network.spec.penultimate_layer
            scores = classify(network, images, labels, n_classes=n_classes, part="val", layer=layer)
            found["classification"] = scores.accuracy
        return found


class TrialInHand:
    """One trial, advanced from validation score to validation score."""

    def __init__(self, bench: Bench, command: dict[str, Any]) -> None:
        self.config = TrialConfig.from_dict(command["config"])
        self.weights_dir: str = command["weights_dir"]
        self.score_to_beat: float = command["score_to_beat"]
        self.started = time.time()
        self.bench = bench
        self.run = bench.start(self.config)
        self.snapshots = SnapshotFolder(UPath(command["snapshot_dir"]))
        self.snapshot_error: str | None = None
        self._kept_epoch = 0
        self.history: list[dict[str, Any]] = []
        self._restore()

    def _restore(self) -> None:
        """Go on from the newest snapshot that all workers of the slot can read, the same on each.

        Raises:
            StorageError: the storage cannot be listed; on every worker, or some would wait for the others.
        """
        newest, problem = None, ""
        if distributed.world()[0] == 0:
            try:
                newest = self.snapshots.newest()
            except StorageError as error:
                problem = str(error)
        epoch, problem = distributed.from_first_worker((newest.epoch if newest else 0, problem))
        if problem:
            raise StorageError(problem)
        if not epoch:
            return
        former = newest or self.snapshots.of_epoch(epoch)
        if distributed.all_agree(former is not None and former.is_of(self.run.identity())) and former is not None:
            self.run.restore(former)
            self.history, self._kept_epoch = list(former.notes["history"]), former.epoch

    def _epochs(self) -> Iterator[EpochResult]:
        """The remaining epochs. A snapshot is taken before one begins: by then the scores so far are in the ledger."""
        while True:
            due = self.bench.leaving() or self.snapshots.due()
            if due and self.run.epoch > self._kept_epoch and distributed.world()[0] == 0:
                try:
                    self.snapshots.write(self.run.snapshot({"history": self.history}))
                    self.snapshot_error, self._kept_epoch = None, self.run.epoch
                except StorageError as error:  # the trial itself lacks nothing; a restart would repeat more of it
                    self.snapshot_error = str(error)
            if (result := next(self.run, None)) is None:
                return
            yield result

    def advance(self) -> dict[str, Any]:
        """Run until the next validation score; at the last one, write the weights if they are worth keeping."""
        for result in self._epochs():
            self.history.append(
                {
                    "epoch": result.epoch,
                    "train_loss": result.train_loss if result.epoch else None,  # untuned: nothing was trained
                    "seconds": round(result.seconds, 4),
                    "score_seconds": round(result.score_seconds, 4),
                }
            )
            if result.score is None:
                continue
            last = result.epoch >= self.config.epochs
            epoch, best = self._best()
            weights = self._keep(best) if last else None
            return {
                "epoch": result.epoch,
                "score": result.score.r,
                "best_score": best.r,
                "done": last,
                # One opaque value: Tune flattens nested results, and these are for the ledger alone.
                "details": json.dumps(
                    self._details(epoch, best, result.images_per_second, weights) | self._scores(last)
                ),
            }
        raise RuntimeError("the tuning loop ended without a validation score")

    def _best(self) -> tuple[int, ValidationScore]:
        best = self.run.best
        if best is None or best.score is None:
            raise RuntimeError("a scored epoch left the trial without a best one")
        return best.epoch, best.score

    def _details(self, epoch: int, score: ValidationScore, speed: float, weights: str | None) -> dict[str, Any]:
        return {
            "best_epoch": epoch,
            "readout_layer": score.best_layer,
            "r_by_layer": dict(score.r_by_layer),
            "images_per_second": round(speed, 1),
            "history": self.history,
            "weights": weights,
            "worker_started": self.started,
            "worker_ended": time.time(),
            "worker_pid": os.getpid(),
        } | ({"snapshot_error": self.snapshot_error} if self.snapshot_error else {})

    def _scores(self, last: bool) -> dict[str, Any]:
        """Scores besides encoding, of a trial that has come to its end; by subject, for a pooled one."""
        found: dict[str, Any] = {}
        if last and self.bench.workspace.scores != ("encoding",):
            found["scores"] = self.bench.further_scores(self.run.best_model(), self.config)
        if last and self.config.is_pooled:
            _, best = self._best()
            sizes = [part.n_voxels for part in self.bench.target_data(self.config.target)]
            parts = np.split(best.r_per_voxel, np.cumsum(sizes)[:-1])
            found["r_by_subject"] = {
                name: float(part.mean()) for name, part in zip(self.config.target.subjects, parts, strict=True)
            }
        return found

    def _keep(self, best: ValidationScore) -> str | None:
        """Write the weights, if they are good enough: the first worker, what it says holds for all."""
        kept: str | None = None
        problem = ""
        if distributed.world()[0] == 0 and best.r >= self.score_to_beat:
            try:
                self.run.best_model().save(UPath(self.weights_dir))
                kept = self.weights_dir
            except StorageError as error:
                problem = str(error)
        kept, problem = distributed.from_first_worker((kept, problem))
        if problem:
            raise StorageError(problem)
        return None if kept is None else str(kept)


def as_answer(error: Exception) -> dict[str, Any]:
    """What the slot is told of a trial that ended in an error.

    Raises:
        Exception: ``error`` itself, if it is one that other workers of the group need not share: they may be waiting
            for this one in the midst of a batch, so the group has to end.
    """
    if distributed.world()[1] > 1 and not isinstance(error, CortexSweepError):
        raise error
    if isinstance(error, (DataError, StorageError, WeightsError)):  # not this trial's fault: mend it, then resume
        return {"halt": str(error)}
    if isinstance(error, torch.OutOfMemoryError):
        return {"failed": f"out of memory: {error}", "out_of_memory": True}
    answer = {"failed": f"{type(error).__name__}: {error}"}
    if not isinstance(error, CortexSweepError):  # nobody expected it: the ledger and MLflow show where it came from
        answer["details"] = json.dumps({"traceback": "".join(traceback.format_exception(error))})
    return answer
