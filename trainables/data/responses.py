"""The data of one target: stimuli, and responses of the part of the split that one may see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.algonauts import AlgonautsDataset
from trainables.data.files import FaultyFileError, default_cache_dir
from trainables.data.splits import Split, nested_digest, nested_split
from trainables.data.stimuli import Progress, decode_stimuli
from trainables.data.subject import Subject
from trainables.errors import ConfigError, DataError
from trainables.target import Target


@dataclass(frozen=True, eq=False)
class Partition:
    """One part of a split."""

    stimuli: NDArray[np.uint8]
    """All stimuli of the subject (n_stimuli, 224, 224, 3), RGB, memory-mapped."""
    rows: NDArray[np.int64]
    """Rows of ``stimuli`` in this part (n_rows,)."""
    responses: NDArray[np.float32]
    """(n_rows, n_voxels), in the order of ``rows``."""
    stimulus_ids: NDArray[np.int64]
    """Dataset-wide ids (n_rows,), in the order of ``rows``."""
    noise_ceiling: NDArray[np.float32] | None = None
    """Share of each voxel's variance (n_voxels,) that the stimulus can explain, given how often this part's
    stimuli were shown; None where the data set has no ncsnr."""


@dataclass(frozen=True, eq=False)
class TargetData:
    """What tuning and the choice among models may see: never a response of the test part."""

    target: Target
    train: Partition
    val: Partition
    digest: str
    """Of the split over the whole data set; every result carries it."""

    @property
    def n_voxels(self) -> int:
        """Voxels of the target."""
        return int(self.train.responses.shape[1])

    @property
    def noise_ceiling(self) -> NDArray[np.float32] | None:
        """That of the validation part (n_voxels,); test scores use the test part's own."""
        return self.val.noise_ceiling


def split_digest(dataset: AlgonautsDataset, seed: int = 0) -> str:
    """Digest of the nested split over the whole data set, as every result carries it."""
    all_ids = np.concatenate([member.stimulus_ids for member in dataset.subjects.values()])
    return nested_digest(all_ids.tolist(), seed)


def require_split(dataset: AlgonautsDataset, seed: int, digest: str) -> None:
    """Refuse a data set whose stimuli are not those that ``digest`` was made of.

    Raises:
        DataError: stimuli were added or removed since.
    """
    found = split_digest(dataset, seed)
    if found != digest:
        raise DataError(
            f"the stimuli in {dataset.root} have the split digest {found}, the sweep was made with {digest}; bring the "
            "data set back to what it was, or start a new sweep"
        )


def load_target(
    dataset: AlgonautsDataset,
    target: Target,
    split_seed: int = 0,
    cache_dir: Path | None = None,
    *,
    progress: Progress | None = None,
) -> TargetData:
    """The training and validation parts of a target's nested split.

    Args:
        dataset: where the target's subject lies.
        target: of a single subject.
        split_seed: seed of the split.
        cache_dir: where decoded stimuli are kept; the user's cache folder by default.
        progress: called while stimuli are decoded.

    Raises:
        ConfigError: a target of several subjects.
        DataError: the target has no voxel, a file is damaged, or the responses hold NaN or a constant voxel.
        StorageError: the cache cannot be written.
    """
    subject = _single_subject(dataset, target)
    split = nested_split(subject.stimulus_ids, split_seed)
    stimuli = decode_stimuli(subject.image_paths, cache_dir or default_cache_dir(), progress=progress)
    train = _partition(subject, target, stimuli, split.train)
    _refuse(np.ptp(train.responses, axis=0) == 0, "the same for all training stimuli", subject, target)
    return TargetData(
        target=target,
        train=train,
        val=_partition(subject, target, stimuli, split.val),
        digest=split_digest(dataset, split_seed),
    )


def load_test(
    dataset: AlgonautsDataset, target: Target, split_seed: int = 0, cache_dir: Path | None = None
) -> Partition:
    """The test part: for the evaluation of models that are already chosen, and for nothing else.

    Arguments and errors are those of `load_target`.
    """
    subject = _single_subject(dataset, target)
    split: Split = nested_split(subject.stimulus_ids, split_seed)
    stimuli = decode_stimuli(subject.image_paths, cache_dir or default_cache_dir())
    return _partition(subject, target, stimuli, split.test)


def _single_subject(dataset: AlgonautsDataset, target: Target) -> Subject:
    if len(target.subjects) > 1:
        raise ConfigError(f"target {target.name} has {len(target.subjects)} subjects; expected a single one")
    return dataset.subject(target.subjects[0])


def _partition(subject: Subject, target: Target, stimuli: NDArray[np.uint8], rows: NDArray[np.int64]) -> Partition:
    responses = subject.responses(target.hemisphere, target.roi, rows)
    if responses.shape[1] == 0:
        raise DataError(f"target {target.name} has no voxel; choose another ROI (data check lists their sizes)")
    broken = np.asarray(~np.isfinite(responses).all(axis=0))
    _refuse(broken, "NaN or infinite for some stimuli", subject, target)
    ceiling = subject.noise_ceiling(target.hemisphere, target.roi, rows)
    return Partition(stimuli, rows, responses, subject.stimulus_ids[rows], ceiling)


def _refuse(voxels: NDArray[np.bool_], problem: str, subject: Subject, target: Target) -> None:
    """Raises FaultyFileError if any of the target's voxels is marked."""
    if voxels.any():
        vertex = subject.voxels(target.hemisphere, target.roi)[voxels][0]
        count = f"{voxels.sum()} of {len(voxels)} voxels of {target.roi}"
        raise FaultyFileError(
            subject.files.responses(target.hemisphere),
            f"the responses of {count} are {problem}, the first at vertex {vertex}",
            "give such vertices the label 0 in the ROI's mask",
        )
