"""Checks of a data set in the Algonauts layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.algonauts import AlgonautsDataset
from trainables.data.arrays import check_mask, check_ncsnr, check_repeats, check_responses
from trainables.data.check_images import ShownImage, check_images, check_names
from trainables.data.check_values import value_problems
from trainables.data.decoding import Progress
from trainables.data.faults import ERROR, WARNING, FaultList, SubjectEntry
from trainables.data.files import FaultyFileError, read_array
from trainables.data.mapping import read_mapping
from trainables.data.rois import MASKS, canonical_roi
from trainables.data.subject import Subject
from trainables.target import HEMISPHERES

N_FSAVERAGE = 163842
"""Vertices of a hemisphere on FreeSurfer's average surface."""


def check_algonauts(dataset: AlgonautsDataset, faults: FaultList, progress: Progress | None) -> dict[str, SubjectEntry]:
    """Every file of the data set; what is wrong goes to ``faults``, what there is comes back by subject."""
    subjects: dict[str, SubjectEntry] = {}
    shown: list[ShownImage] = []
    for subject in dataset.subjects.values():
        n_stimuli = _count_stimuli(subject, faults)
        if n_stimuli is not None:
            shown += _shown(subject, faults)
            check_names(subject, faults)
        names = _check_mappings(subject, faults)
        rois = {hemi: _check_hemisphere(subject, hemi, n_stimuli, names, faults) for hemi in HEMISPHERES}
        subjects[subject.name] = {"stimuli": n_stimuli or 0, "rois": rois}
    check_images(shown, faults, progress)
    return subjects


def _shown(subject: Subject, faults: FaultList) -> list[ShownImage]:
    stimuli = list(subject.training_stimuli)
    with faults.of(subject.name):
        stimuli += subject.test_stimuli
    return [ShownImage(subject.name, stimulus.path, stimulus.stimulus_id) for stimulus in stimuli]


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
            remedy = "its ROIs are left out of every sweep"
            if any(subject.files.fsaverage_mask(hemisphere, mask).exists() for hemisphere in HEMISPHERES):
                remedy += "; the one on the average surface does not tell its voxels, the challenge-space one does"
            absent = FaultyFileError(path, f"there is no mask {mask}", remedy)
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
        for problem in value_problems(array):
            remedy = "give them the label 0 in the masks, or restore the file"
            faults.add(ERROR, subject.name, FaultyFileError(path, problem, remedy))
    return int(array.shape[1])


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
