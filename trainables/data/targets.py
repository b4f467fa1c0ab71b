"""Which targets a sweep tunes models for, and which it leaves out and why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from trainables.data.dataset import Dataset
from trainables.data.rois import ALL
from trainables.errors import DataError
from trainables.target import Target

MIN_VOXELS = 20
"""Voxels of the smallest ROI that the published study tunes for (arXiv 2410.06067)."""

_SUBJECTS = re.compile(r"(?:subj)?(\d+)(?:\s*-\s*(?:subj)?(\d+))?", re.IGNORECASE)


@dataclass(frozen=True)
class SkippedTarget:
    """A target that was asked for and cannot be served."""

    target: Target
    n_voxels: int
    reason: str
    """For the person at the terminal."""


@dataclass(frozen=True)
class TargetPlan:
    """What was asked for, each target once, in the order of subjects, hemispheres and ROIs."""

    targets: list[Target]
    skipped: list[SkippedTarget]


def plan_targets(
    dataset: Dataset,
    subjects: Iterable[str],
    hemispheres: Iterable[str],
    rois: Iterable[str],
    min_voxels: int = MIN_VOXELS,
) -> TargetPlan:
    """Every combination of subject, hemisphere and ROI, sorted into those with enough voxels and the others.

    Args:
        dataset: where they lie.
        subjects: names such as ``subj01`` (`parse_subjects` reads what people type).
        hemispheres: ``lh``, ``rh``.
        rois: ROIs and groups, as `Dataset.rois_of` understands them.
        min_voxels: targets with fewer voxels are skipped.

    Raises:
        DataError: an unknown subject, hemisphere or ROI, or a damaged file.
    """
    members = list(dict.fromkeys(roi for word in rois for roi in dataset.rois_of(word)))
    plan = TargetPlan([], [])
    for name in dict.fromkeys(subjects):
        for hemisphere in dict.fromkeys(hemispheres):
            sizes = dataset.subject(name).roi_sizes(hemisphere)
            for roi in members:
                target, n_voxels = Target(dataset.name, (name,), hemisphere, roi), sizes.get(roi, 0)
                if n_voxels >= max(min_voxels, 1):
                    plan.targets.append(target)
                else:
                    reason = _reason(n_voxels, min_voxels, named=roi in sizes)
                    plan.skipped.append(SkippedTarget(target, n_voxels, reason))
    return plan


def _reason(n_voxels: int, min_voxels: int, *, named: bool) -> str:
    if n_voxels:
        return f"{n_voxels} voxels, fewer than {min_voxels}"
    return "no voxel" if named else "the subject's masks do not name this ROI"


def parse_subjects(text: str, dataset: Dataset) -> list[str]:
    """Subject names from what people type: ``all``, ``1-8``, ``1,3``, ``subj01``, any other name, or a mixture.

    A number means the subject called ``subj`` and this number; a name of the data set is always taken as it is.

    Raises:
        DataError: text that means nothing, or a subject that the data set lacks.
    """
    names: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        if word in dataset.subjects:
            names.append(word)
        elif word.lower() == ALL:
            names += dataset.subjects
        else:
            names += [dataset.subject(f"subj{number:02d}").name for number in _numbers(word, dataset)]
    return list(dict.fromkeys(names))


def _numbers(word: str, dataset: Dataset) -> range:
    match = _SUBJECTS.fullmatch(word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if last < first:
        raise DataError(
            f"subjects {word!r} mean nothing; expected 'all', '1-8', '1,3' or a name; the data set has "
            f"{', '.join(dataset.subjects)}"
        )
    return range(first, last + 1)
