"""The data of one target: stimuli, and responses of the part of the split that one may see."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.dataset import Dataset, SubjectData
from trainables.data.decoding import Progress
from trainables.data.files import FaultyFileError, default_cache_dir
from trainables.data.splits import (
    NESTED,
    PUBLISHED,
    PUBLISHED_A,
    Split,
    nested_digest,
    nested_split,
    published_a_split,
)
from trainables.data.stimuli import decode_stimuli
from trainables.errors import ConfigError, DataError
from trainables.target import HEMISPHERES, Target

SAMPLED_ROWS = 32
"""Stimuli whose responses enter the digest of a subject."""


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


def split_digest(dataset: Dataset, seed: int = 0, protocol: str = NESTED) -> str:
    """Digest of the split over the whole data set, as every result carries it."""
    if protocol in PUBLISHED:
        members = {name: member.stimulus_ids.tolist() for name, member in dataset.subjects.items()}
        rows = {name: published_a_split(len(ids)).digest for name, ids in members.items()}
        return hashlib.sha256(json.dumps([PUBLISHED_A, members, rows], sort_keys=True).encode()).hexdigest()[:16]
    all_ids = np.concatenate([member.stimulus_ids for member in dataset.subjects.values()])
    return nested_digest(all_ids.tolist(), seed)


def require_split(dataset: Dataset, seed: int, digest: str, protocol: str = NESTED) -> None:
    """Refuse a data set whose stimuli are not those that ``digest`` was made of.

    Raises:
        DataError: stimuli were added or removed since.
    """
    found = split_digest(dataset, seed, protocol)
    if found != digest:
        raise DataError(
            f"the stimuli in {dataset.root} have the split digest {found}, the sweep was made with {digest}; bring the "
            "data set back to what it was, or start a new sweep"
        )


def subject_digest(subject: SubjectData) -> str:
    """Hash of what scores of a subject rest on: all ids, each ROI's voxels and noise ceiling, and some responses.

    Responses of `SAMPLED_ROWS` stimuli spread over all stand for the rest: a set that was preprocessed anew differs in
    every row, and reading all would cost each evaluation what keeping its scores saves. A change to single rows, or to
    a picture whose id is not made of its content, is not seen.
    """
    ids = subject.stimulus_ids
    rows = np.unique(np.linspace(0, len(ids) - 1, SAMPLED_ROWS).astype(np.int64))
    digest = hashlib.sha256(ids.tobytes())
    for hemisphere in HEMISPHERES:
        for roi, n_voxels in subject.roi_sizes(hemisphere).items():
            if n_voxels:
                ceiling = subject.noise_ceiling(hemisphere, roi)
                digest.update(f"{hemisphere}/{roi}".encode())
                digest.update(subject.voxels(hemisphere, roi).tobytes())
                digest.update(subject.responses(hemisphere, roi, rows).tobytes())
                digest.update(b"" if ceiling is None else ceiling.tobytes())
    return digest.hexdigest()[:16]


def require_subject(dataset: Dataset, name: str, digest: str) -> None:
    """Refuse a subject that changed since ``digest`` was made of it.

    Raises:
        DataError: it did.
    """
    found = subject_digest(dataset.subject(name))
    if found != digest:
        raise DataError(
            f"{name} in {dataset.root} has the digest {found}, the evaluation began with {digest}; see that all "
            "machines read the same data set and that nothing writes to it, then evaluate again"
        )


def load_target(
    dataset: Dataset,
    target: Target,
    split_seed: int = 0,
    cache_dir: Path | None = None,
    *,
    protocol: str = NESTED,
    progress: Progress | None = None,
) -> TargetData:
    """The training and validation parts of a single subject's target; the latter is empty by a published protocol.

    Args:
        dataset: where the target's subject lies.
        target: of a single subject.
        split_seed: seed of the split.
        cache_dir: where decoded stimuli are kept; the user's cache folder by default.
        protocol: see `trainables.data.splits`.
        progress: called while stimuli are decoded.

    Raises:
        ConfigError: a target of several subjects.
        DataError: the target has no voxel, a file is damaged, or the responses hold NaN or a constant voxel.
        StorageError: the cache cannot be written.
    """
    subject = _single_subject(dataset, target)
    split = split_of(subject, protocol, split_seed)
    return _target_data(dataset, subject, target, split, split.train, cache_dir, progress)


def load_subjects(
    dataset: Dataset,
    target: Target,
    split_seed: int = 0,
    cache_dir: Path | None = None,
    *,
    protocol: str = NESTED,
) -> list[TargetData]:
    """What `load_target` gives, for each subject of a target that may have several.

    A split by row knows nothing of stimuli that subjects share. So stimuli that any subject of the data set holds out
    leave the training part of a pooled target: no pooled network is ever scored on a picture that it was tuned on.

    Arguments and errors are those of `load_target`.
    """
    singles = [replace(target, subjects=(name,)) for name in target.subjects]
    if len(singles) == 1 or protocol == NESTED:
        return [load_target(dataset, single, split_seed, cache_dir, protocol=protocol) for single in singles]
    held_out = np.concatenate(
        [member.stimulus_ids[split_of(member, protocol, split_seed).test] for member in dataset.subjects.values()]
    )
    loaded = []
    for single in singles:
        subject = _single_subject(dataset, single)
        split = split_of(subject, protocol, split_seed)
        safe = split.train[~np.isin(subject.stimulus_ids[split.train], held_out)]
        loaded.append(_target_data(dataset, subject, single, split, safe, cache_dir, None))
    return loaded


def load_test(
    dataset: Dataset,
    target: Target,
    split_seed: int = 0,
    cache_dir: Path | None = None,
    *,
    protocol: str = NESTED,
) -> Partition:
    """The test part: for the evaluation of models that are already chosen, and for nothing else.

    Arguments and errors are those of `load_target`.
    """
    subject = _single_subject(dataset, target)
    stimuli = decode_stimuli(subject.image_paths, cache_dir or default_cache_dir())
    return _partition(subject, target, stimuli, split_of(subject, protocol, split_seed).test)


def split_of(subject: SubjectData, protocol: str, seed: int) -> Split:
    """The split of one subject's stimuli."""
    if protocol in PUBLISHED:
        return published_a_split(len(subject.stimulus_ids))
    return nested_split(subject.stimulus_ids, seed)


def _target_data(
    dataset: Dataset,
    subject: SubjectData,
    target: Target,
    split: Split,
    train_rows: NDArray[np.int64],
    cache_dir: Path | None,
    progress: Progress | None,
) -> TargetData:
    stimuli = decode_stimuli(subject.image_paths, cache_dir or default_cache_dir(), progress=progress)
    train = _partition(subject, target, stimuli, train_rows)
    _refuse(np.ptp(train.responses, axis=0) == 0, "the same for all training stimuli", subject, target)
    digest = split_digest(dataset, split.seed, split.protocol)
    return TargetData(target, train, _partition(subject, target, stimuli, split.val), digest)


def _single_subject(dataset: Dataset, target: Target) -> SubjectData:
    if len(target.subjects) > 1:
        raise ConfigError(f"target {target.name} has {len(target.subjects)} subjects; expected a single one")
    return dataset.subject(target.subjects[0])


def _partition(subject: SubjectData, target: Target, stimuli: NDArray[np.uint8], rows: NDArray[np.int64]) -> Partition:
    responses = subject.responses(target.hemisphere, target.roi, rows)
    if responses.shape[1] == 0:
        raise DataError(f"target {target.name} has no voxel; choose another ROI (data check lists their sizes)")
    broken = np.asarray(~np.isfinite(responses).all(axis=0))
    _refuse(broken, "NaN or infinite for some stimuli", subject, target)
    ceiling = subject.noise_ceiling(target.hemisphere, target.roi, rows) if len(rows) else None
    return Partition(stimuli, rows, responses, subject.stimulus_ids[rows], ceiling)


def _refuse(voxels: NDArray[np.bool_], problem: str, subject: SubjectData, target: Target) -> None:
    """Raises FaultyFileError if any of the target's voxels is marked."""
    if voxels.any():
        vertex = subject.voxels(target.hemisphere, target.roi)[voxels][0]
        count = f"{voxels.sum()} of {len(voxels)} voxels of {target.roi}"
        raise FaultyFileError(
            subject.responses_file(target.hemisphere),
            f"the responses of {count} are {problem}, the first at vertex {vertex}",
            "take such voxels out of the ROI",
        )
