"""Checks of own data described by a ``dataset.toml``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainables.data.arrays import check_ncsnr, check_repeats
from trainables.data.check_images import ShownImage, check_images, check_repeated
from trainables.data.check_values import value_problems
from trainables.data.decoding import Progress
from trainables.data.faults import ERROR, FaultList, SubjectEntry
from trainables.data.files import FaultyFileError, read_array
from trainables.data.generic import GenericDataset, GenericSubject, check_generic_responses, check_labels
from trainables.data.generic_toml import WHOLE
from trainables.target import HEMISPHERES


def check_generic(dataset: GenericDataset, faults: FaultList, progress: Progress | None) -> dict[str, SubjectEntry]:
    """Every file that the description names; what is wrong goes to ``faults``, what there is comes back by subject."""
    subjects: dict[str, SubjectEntry] = {}
    shown: list[ShownImage] = []
    for subject in dataset.subjects.values():
        images = _list_images(subject, faults)
        n_stimuli = None if images is None else len(images)
        if images is not None:
            _check_ids(subject, images, faults)
            shown += images
        _check_repeats(subject, n_stimuli, faults)
        rois = {hemi: _check_hemisphere(subject, hemi, n_stimuli, faults) for hemi in HEMISPHERES}
        subjects[subject.name] = {"stimuli": n_stimuli or 0, "rois": rois}
    check_images(shown, faults, progress)
    return subjects


def _list_images(subject: GenericSubject, faults: FaultList) -> list[ShownImage] | None:
    """The images in the order of rows, or None if they cannot be listed."""
    try:
        return [ShownImage(subject.name, stimulus.path, stimulus.stimulus_id) for stimulus in subject.stimuli]
    except FaultyFileError as fault:
        faults.add(ERROR, subject.name, fault)
        return None


def _check_ids(subject: GenericSubject, images: list[ShownImage], faults: FaultList) -> None:
    place = subject.files.stimuli or subject.files.images
    given = [image.stimulus_id for image in images if image.stimulus_id is not None]
    if given:
        check_repeated(Counter(given), subject.name, place, faults)
    elif all(image.path.exists() for image in images):  # each that is missing is reported when images are read
        with faults.of(subject.name):
            check_repeated(Counter(subject.stimulus_ids.tolist()), subject.name, place, faults)


def _check_repeats(subject: GenericSubject, n_stimuli: int | None, faults: FaultList) -> None:
    path = subject.files.repeats
    if path is None:
        return
    with faults.of(subject.name):
        array = read_array(path)
        check_repeats(array, path, array.size if n_stimuli is None else n_stimuli)


def _check_hemisphere(
    subject: GenericSubject, hemisphere: str, n_stimuli: int | None, faults: FaultList
) -> dict[str, int]:
    """Voxels of each ROI; what is wrong with the hemisphere's files goes to ``faults``."""
    files = subject.files
    if hemisphere not in files.responses:
        return dict.fromkeys(subject.labels or (WHOLE,), 0)
    n_voxels = _check_responses(subject, hemisphere, n_stimuli, faults)
    if hemisphere in files.ncsnr and n_voxels is not None:
        with faults.of(subject.name):
            check_ncsnr(read_array(files.ncsnr[hemisphere]), files.ncsnr[hemisphere], n_voxels)
    if subject.labels is None:
        return {WHOLE: n_voxels or 0}
    rois: dict[str, int] = {}
    with faults.of(subject.name):
        path = files.labels[hemisphere]
        array = read_array(path)
        labels = check_labels(array, path, array.size if n_voxels is None else n_voxels)
        rois = {roi: int((labels == label).sum()) for roi, label in subject.labels.items()}
        _require_names(labels, subject.labels, path)
    return rois


def _check_responses(subject: GenericSubject, hemisphere: str, n_stimuli: int | None, faults: FaultList) -> int | None:
    """Number of voxels, or None if the file does not tell."""
    path = subject.files.responses[hemisphere]
    try:
        array = read_array(path)
    except FaultyFileError as fault:
        faults.add(ERROR, subject.name, fault)
        return None
    with faults.of(subject.name):
        # Without a list of stimuli, that fault is reported and any number of rows may be right.
        check_generic_responses(array, path, array.shape[0] if n_stimuli is None and array.ndim else n_stimuli or 0)
    if array.ndim != 2:
        return None
    if array.dtype.kind == "f":
        remedy = "give them the label 0, or restore the file" if subject.labels else "remove them, or restore the file"
        for problem in value_problems(array):
            faults.add(ERROR, subject.name, FaultyFileError(path, problem, remedy))
    return int(array.shape[1])


def _require_names(labels: NDArray[np.int64], names: Mapping[str, int], path: object) -> None:
    if unnamed := sorted(set(np.unique(labels).tolist()) - {0, *names.values()}):
        problem = f"label {unnamed[0]} has no name in dataset.toml, which names {sorted(names.values())}"
        raise FaultyFileError(path, problem, "add it to the table rois, or write 0")
