"""The subjects of a trial: one, or several that are visited in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.errors import ConfigError
from trainables.models.backbone import BackboneSpec
from trainables.models.images import Stimuli, StimulusCache, normalised_batch
from trainables.tuning.distributed import share_of

if TYPE_CHECKING:
    from trainables.data.responses import TargetData


@dataclass(frozen=True, eq=False)
class SubjectInTraining:
    """One subject's data, where the trial computes."""

    index: int
    """Position among the trial's subjects."""
    data: TargetData
    stimuli: Stimuli
    """On a CUDA device as bytes, else where they were."""
    responses: Tensor
    """Of the training part, float32 ``[n_stimuli, n_voxels]`` on the device."""

    def share_of_images(self, batch: Tensor, spec: BackboneSpec) -> Tensor:
        """This worker's share of a batch's images, as the backbone wants them.

        Args:
            batch: positions within the training part, int64 ``[n_stimuli]``, on the CPU.
            spec: of the backbone.
        """
        rows = self.data.train.rows[share_of(batch).numpy()]
        return normalised_batch(self.stimuli, rows, spec, self.responses.device)


def subjects_in_training(
    data: Sequence[TargetData], caches: StimulusCache | Sequence[StimulusCache] | None, device: torch.device
) -> list[SubjectInTraining]:
    """Brings the data of every subject to where the trial computes.

    Args:
        data: of every subject.
        caches: keep stimuli on the device from trial to trial, one cache a subject since a cache keeps one; a single
            cache serves the first subject, and the others' stimuli go when the trial goes.
        device: where to compute.

    Raises:
        ValueError: not one cache for each subject.
    """
    if caches is None or isinstance(caches, StimulusCache):
        caches = [caches or StimulusCache(), *(StimulusCache() for _ in data[1:])]
    if len(caches) != len(data):
        raise ValueError(f"there are {len(caches)} stimulus caches for {len(data)} subjects; pass one for each subject")
    return [
        SubjectInTraining(
            index,
            each,
            cache.on_device(each.train.stimuli, device),
            torch.as_tensor(each.train.responses, dtype=torch.float32, device=device),
        )
        for index, (each, cache) in enumerate(zip(data, caches, strict=True))
    ]


def require_subjects(config: TrialConfig, data: Sequence[TargetData]) -> None:
    """Refuse data that are not those of the target's subjects, in its order.

    Raises:
        ConfigError: another number of subjects, another subject, ROI or split, or fewer than two training stimuli.
    """
    names = config.target.subjects
    if len(data) != len(names):
        raise ConfigError(f"{config.target.name} has {len(names)} subjects, but data of {len(data)} came; pass all")
    for each in data:
        if len(each.train.rows) < 2:
            raise ConfigError(f"{each.target.name} has {len(each.train.rows)} training stimuli; expected at least 2")
    if not config.is_pooled:
        return
    for name, each in zip(names, data, strict=True):
        found = each.target
        if (found.subjects, found.hemisphere, found.roi) != ((name,), config.target.hemisphere, config.target.roi):
            raise ConfigError(
                f"data of {found.name} came for subject {name} of {config.target.name}; pass the data of its subjects "
                "in its order"
            )
    if len({each.digest for each in data}) > 1:
        raise ConfigError(
            f"the subjects of {config.target.name} come from different splits "
            f"({', '.join(each.digest for each in data)}); load them from one data set with one seed"
        )
