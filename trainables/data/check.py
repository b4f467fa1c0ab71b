"""Looks at every file of a data set and lists what is wrong, before a sweep spends hours on it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.data.algonauts import AlgonautsDataset
from trainables.data.check_algonauts import check_algonauts
from trainables.data.check_generic import check_generic
from trainables.data.check_nod import check_nod
from trainables.data.dataset import Dataset
from trainables.data.decoding import Progress
from trainables.data.faults import ERROR, Fault, FaultList, SubjectEntry
from trainables.data.files import FaultyFileError
from trainables.data.generic import GenericDataset
from trainables.data.nod import NodDataset
from trainables.data.open import open_dataset
from trainables.errors import DataError


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it."""

    subjects: dict[str, SubjectEntry] = field(default_factory=dict)
    """By name: ``{"stimuli": n, "rois": {"lh": {"V1v": n_voxels, ...}, "rh": {...}}}``, without the ROIs whose
    voxels cannot be told."""
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a sweep can use the data: no fault is an error."""
        return all(fault.severity != ERROR for fault in self.faults)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``data check --json`` prints them."""
        return {"subjects": self.subjects, "faults": [asdict(fault) for fault in self.faults]}


def check_dataset(root: str | os.PathLike[str], progress: Progress | None = None) -> CheckReport:
    """Reads every file of a data set in any layout; bad data ends up in the report and raises nothing.

    Args:
        root: as for `trainables.data.open.open_dataset`.
        progress: called with the images looked at and the images in all.

    Raises:
        StorageError: copies of remote files cannot be written to the cache.
        DataError: a package that the layout needs is not installed.
    """
    report, faults = CheckReport(), FaultList()
    try:
        dataset = open_dataset(root)
    except FaultyFileError as fault:
        report.faults.append(Fault(ERROR, "", fault.file, fault.problem, fault.remedy))
        return report
    except DataError as error:
        report.faults.append(Fault(ERROR, "", str(root), str(error), "pass the folder of a data set"))
        return report
    report.subjects.update(_check_layout(dataset, faults, progress))
    if not any(
        size for subject in report.subjects.values() for rois in subject["rois"].values() for size in rois.values()
    ):
        remedy = "restore the files that say which voxels belong to an ROI"
        report.faults.append(Fault(ERROR, "", str(root), "no subject has a voxel in any ROI", remedy))
    report.faults.extend(sorted(faults, key=lambda fault: (fault.severity, fault.subject)))
    return report


def _check_layout(dataset: Dataset, faults: FaultList, progress: Progress | None) -> dict[str, SubjectEntry]:
    if isinstance(dataset, GenericDataset):
        return check_generic(dataset, faults, progress)
    if isinstance(dataset, NodDataset):
        return check_nod(dataset, faults, progress)
    if isinstance(dataset, AlgonautsDataset):
        return check_algonauts(dataset, faults, progress)
    raise TypeError(f"{type(dataset).__name__} has no checks")
