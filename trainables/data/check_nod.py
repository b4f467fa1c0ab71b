"""Checks of a copy of the Natural Object Dataset."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from trainables.data.check_images import ShownImage, check_images, check_repeated
from trainables.data.check_values import value_problems
from trainables.data.decoding import Progress
from trainables.data.faults import ERROR, WARNING, FaultList, SubjectEntry
from trainables.data.files import FaultyFileError
from trainables.data.nod import NodDataset, NodSubject, picture_id
from trainables.data.nod_betas import check_trials, standardised
from trainables.data.nod_cifti import import_nibabel, read_surface_maps
from trainables.data.nod_layout import RUNS, SESSIONS, Run, find_runs, read_events, shortened
from trainables.target import HEMISPHERES


def check_nod(dataset: NodDataset, faults: FaultList, progress: Progress | None) -> dict[str, SubjectEntry]:
    """Every file that is read of NOD; what is wrong goes to ``faults``, what there is comes back by subject.

    Raises:
        DataError: nibabel is not installed.
    """
    import_nibabel()
    subjects: dict[str, SubjectEntry] = {}
    shown: list[ShownImage] = []
    for subject in dataset.subjects.values():
        rois = {hemisphere: _check_areas(subject, hemisphere, faults) for hemisphere in HEMISPHERES}
        images = _check_runs(subject, all(rois.values()), faults)
        shown += images
        subjects[subject.name] = {"stimuli": len(images), "rois": rois}
    check_images(shown, faults, progress)
    return subjects


def _check_areas(subject: NodSubject, hemisphere: str, faults: FaultList) -> dict[str, int]:
    sizes: dict[str, int] = {}
    with faults.of(subject.name):
        sizes |= subject.roi_sizes(hemisphere)
    return sizes


def _check_runs(subject: NodSubject, has_voxels: bool, faults: FaultList) -> list[ShownImage]:
    """The pictures of all trials whose events can be read."""
    results = subject.files.results
    runs, missing = find_runs(subject.files)
    if missing:
        problem = f"{len(missing)} of {len(SESSIONS) * len(RUNS)} runs are missing: {shortened(missing)}"
        fault = FaultyFileError(results, problem, "download them from OpenNeuro (ds004496)")
        faults.add(ERROR, subject.name, fault)
    pictures: list[str] = []
    responses: list[NDArray[np.float32]] = []
    unnamed: list[Run] = []
    for run in runs:
        with faults.of(subject.name):
            events = read_events(run)
            pictures += events
            maps = read_surface_maps(run.betas)
            if not check_trials(maps, events, run):
                unnamed.append(run)
            if has_voxels:
                responses.append(standardised(maps, subject.vertices))
    if unnamed:
        problem = f"the maps of {len(unnamed)} runs are not named by picture, so their order cannot be verified"
        fault = FaultyFileError(unnamed[0].betas, problem, "nothing, if they are in the order of the events")
        faults.add(WARNING, subject.name, fault)
    if responses:
        _check_values(subject, np.concatenate(responses), faults)
    shown = [ShownImage(subject.name, subject.files.stimuli / name, picture_id(name)) for name in pictures]
    check_repeated(Counter(map(picture_id, pictures)), subject.name, subject.files.stimuli, faults)
    return shown


def _check_values(subject: NodSubject, responses: NDArray[np.float32], faults: FaultList) -> None:
    start = 0
    for hemisphere, vertices in subject.vertices.items():
        columns = responses[:, start : start + len(vertices)]
        start += len(vertices)
        for problem in value_problems(columns, vertices):
            fault = FaultyFileError(subject.files.results, f"{hemisphere}: {problem}", "download the betas again")
            faults.add(ERROR, subject.name, fault)
