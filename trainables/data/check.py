"""Looks at every file of a data set and lists what is wrong, before a sweep spends hours on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.algonauts import open_algonauts
from trainables.data.arrays import check_mask, check_ncsnr, check_repeats, check_responses
from trainables.data.check_images import check_images, check_names
from trainables.data.faults import ERROR, WARNING, Fault, FaultList
from trainables.data.files import FaultyFileError, read_array
from trainables.data.mapping import read_mapping
from trainables.data.rois import MASKS, canonical_roi
from trainables.data.stimuli import Progress
from trainables.data.subject import Subject
from trainables.errors import DataError
from trainables.target import HEMISPHERES

N_FSAVERAGE = 163842
"""Vertices of a hemisphere on FreeSurfer's average surface."""

BLOCK_BYTES = 64 << 20
"""Responses are looked at in blocks of rows of about this size: a file can be larger than the memory."""


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it."""

    subjects: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: ``{"stimuli": n, "rois": {"lh": {"V1v": n_voxels, ...}, "rh": {...}}}``, without the ROIs whose
    masks cannot be read."""
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a sweep can use the data: no fault is an error."""
        return all(fault.severity != ERROR for fault in self.faults)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``data check --json`` prints them."""
        return {"subjects": self.subjects, "faults": [asdict(fault) for fault in self.faults]}


def check_dataset(root: str | os.PathLike[str], progress: Progress | None = None) -> CheckReport:
    """Reads every file of a data set in either layout; bad data ends up in the report and raises nothing.

    Args:
        root: as for `trainables.data.algonauts.open_algonauts`.
        progress: called with the images looked at and the images in all.

    Raises:
        StorageError: copies of remote files cannot be written to the cache.
    """
    report, faults = CheckReport(), FaultList()
    try:
        dataset = open_algonauts(root)
    except FaultyFileError as fault:
        report.faults.append(Fault(ERROR, "", fault.file, fault.problem, fault.remedy))
        return report
    except DataError as error:
        report.faults.append(Fault(ERROR, "", str(root), str(error), "pass the folder of a data set"))
        return report
    readable = []
    for subject in dataset.subjects.values():
        n_stimuli = _count_stimuli(subject, faults)
        if n_stimuli is not None:
            readable.append(subject)
            check_names(subject, faults)
        names = _check_mappings(subject, faults)
        rois = {hemi: _check_hemisphere(subject, hemi, n_stimuli, names, faults) for hemi in HEMISPHERES}
        report.subjects[subject.name] = {"stimuli": n_stimuli or 0, "rois": rois}
    if not any(
        size for subject in report.subjects.values() for rois in subject["rois"].values() for size in rois.values()
    ):
        report.faults.append(
            Fault(ERROR, "", str(root), "no subject has a voxel in any ROI", "restore the masks in roi_masks")
        )
    check_images(readable, faults, progress)
    report.faults.extend(sorted(faults, key=lambda fault: (fault.severity, fault.subject)))
    return report


def _count_stimuli(subject: Subject, faults: FaultList) -> int | None:
    """Training images, or None if they cannot be listed."""
    n_stimuli: int | None = None
    with faults.of(subject.name):
        n_stimuli = len(subject.training_stimuli)
        path = subject.files.repeats()
        if path.exists():
            check_repeats(read_array(path), path, n_stimuli)
    return n_stimuli


def _check_mappings(subject: Subject, faults: FaultList) -> dict[str, dict[int, str]]:
    """Names of labels by mask, for the masks whose mapping can be read."""
    names: dict[str, dict[int, str]] = {}
    for mask in MASKS:
        path = subject.files.mapping(mask)
        if not subject.files.has_mask(mask):
            absent = FaultyFileError(path, f"there is no mask {mask}", "its ROIs are left out of every sweep")
            faults.add(WARNING, subject.name, absent)
            continue
        with faults.of(subject.name):
            names[mask] = read_mapping(path)
    if len(names) == len(subject.masks):
        with faults.of(subject.name):
            _ = subject.mask_of_roi  # raises where two masks use the same name
    return names


def _check_hemisphere(
    subject: Subject, hemisphere: str, n_stimuli: int | None, names: dict[str, dict[int, str]], faults: FaultList
) -> dict[str, int]:
    """Voxels of each ROI; what is wrong with the hemisphere's files goes to ``faults``."""
    n_vertices = _check_responses(subject, hemisphere, n_stimuli, faults)
    with faults.of(subject.name):
        path = subject.files.ncsnr(hemisphere)
        if path.exists() and n_vertices is not None:
            check_ncsnr(read_array(path), path, n_vertices)
    rois: dict[str, int] = {}
    for mask in subject.masks:
        with faults.of(subject.name):
            path = subject.files.mask(hemisphere, mask)
            array = read_array(path)
            labels = check_mask(array, path, array.size if n_vertices is None else n_vertices)
            if mask in names:
                rois |= _roi_sizes(labels, mask, names[mask])
                _check_labels_named(labels, names[mask], path)
    _check_fsaverage(subject, hemisphere, n_vertices, faults)
    return rois


def _check_responses(subject: Subject, hemisphere: str, n_stimuli: int | None, faults: FaultList) -> int | None:
    """Number of vertices, or None if the file does not tell."""
    path = subject.files.responses(hemisphere)
    try:
        array = read_array(path)
    except FaultyFileError as fault:
        faults.add(ERROR, subject.name, fault)
        return None
    with faults.of(subject.name):
        # Without a list of stimuli, that fault is reported and any number of rows may be right.
        check_responses(array, path, array.shape[0] if n_stimuli is None and array.ndim else n_stimuli or 0)
    if array.ndim != 2:
        return None
    if array.dtype.kind == "f":
        for problem in _value_problems(array):
            remedy = "give them the label 0 in the masks, or restore the file"
            faults.add(ERROR, subject.name, FaultyFileError(path, problem, remedy))
    return int(array.shape[1])


def _value_problems(responses: NDArray[Any]) -> Iterator[str]:
    if not len(responses):
        return
    finite, varies = _column_values(responses)
    for bad, what in ((~finite, "hold NaN or infinity"), (finite & ~varies, "are constant")):
        if bad.any():
            yield f"{bad.sum()} of {len(bad)} voxels {what}, the first is vertex {bad.argmax()}"


def _column_values(array: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each column holds finite numbers alone, and whether it varies."""
    n_columns = array.shape[1]
    lowest, highest = np.full(n_columns, np.inf), np.full(n_columns, -np.inf)
    rows = max(1, BLOCK_BYTES // max(1, n_columns * array.itemsize))
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        # NaN spreads through minimum and maximum, and infinity is an extreme: the extremes tell about all values.
        lowest, highest = np.minimum(lowest, block.min(axis=0)), np.maximum(highest, block.max(axis=0))
    return np.isfinite(lowest) & np.isfinite(highest), lowest != highest


def _roi_sizes(labels: NDArray[np.int64], mask: str, names: dict[int, str]) -> dict[str, int]:
    return {canonical_roi(mask, name): int((labels == label).sum()) for label, name in sorted(names.items())}


def _check_labels_named(labels: NDArray[np.int64], names: dict[int, str], path: object) -> None:
    unnamed = sorted(set(np.unique(labels).tolist()) - {0, *names})
    if unnamed:
        problem = f"label {unnamed[0]} has no name in the mapping, which knows {sorted(names)}"
        raise FaultyFileError(path, problem, "use the mask and the mapping of the same release")


def _check_fsaverage(subject: Subject, hemisphere: str, n_vertices: int | None, faults: FaultList) -> None:
    """Masks on the average surface are optional, and only pictures of the cortex use them: warnings."""
    for mask in (*MASKS, "all-vertices"):
        path = subject.files.fsaverage_mask(hemisphere, mask)
        if not path.exists():
            continue
        with faults.of(subject.name, WARNING):
            labels = check_mask(read_array(path), path, N_FSAVERAGE)
            if mask == "all-vertices" and n_vertices not in (None, np.count_nonzero(labels)):
                problem = f"it marks {np.count_nonzero(labels)} vertices; the responses have {n_vertices}"
                raise FaultyFileError(path, problem, "use the mask of this subject and hemisphere")
