"""The Natural Object Dataset: other people, other pictures, for which models tuned elsewhere are tested.

Gong et al. 2023, "A large-scale fMRI dataset for the visual processing of naturalistic scenes", Scientific Data
(doi 10.1038/s41597-023-02471-x), OpenNeuro ds004496. Use: arXiv 2410.06067.
"""

from __future__ import annotations

import os
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.dataset import find_subject, hashed_id, locate, reaching
from trainables.data.files import default_cache_dir
from trainables.data.nod_areas import AREAS, Selection, select_vertices
from trainables.data.nod_betas import assemble_betas
from trainables.data.nod_layout import NodFiles, Run, find_nod_subjects, find_parcellation, list_runs, read_events
from trainables.data.rois import RoiVocabulary, require_hemisphere
from trainables.errors import DataError
from trainables.target import HEMISPHERES

NAME = "nod"
GROUP = "early"
"""The group of all four areas, as in the Algonauts layout."""


class NodSubject:
    """One subject; reads a file when it is asked for. Safe to send to another process.

    Every method raises `trainables.data.files.FaultyFileError` (a `DataError`) for a missing or damaged file.
    """

    def __init__(self, name: str, files: NodFiles) -> None:
        self.name, self.files = name, files

    def __reduce__(self) -> tuple[type[NodSubject], tuple[str, NodFiles]]:
        return (NodSubject, (self.name, self.files))

    def __repr__(self) -> str:
        return f"NodSubject({self.name!r})"

    @cached_property
    def runs(self) -> list[Run]:
        """All runs, by the numbers of sessions and runs."""
        return list_runs(self.files)

    @cached_property
    def pictures(self) -> list[str]:
        """The picture of each trial, as a path below ``stimuli``."""
        return [picture for run in self.runs for picture in read_events(run)]

    @cached_property
    def stimulus_ids(self) -> NDArray[np.int64]:
        """Ids (n_trials,) that follow from the pictures' names, which in NOD mean one picture each."""
        return np.array([picture_id(picture) for picture in self.pictures], np.int64)

    @property
    def image_paths(self) -> list[UPath]:
        """Files of `stimulus_ids`."""
        return [self.files.stimuli / picture for picture in self.pictures]

    def responses_file(self, hemisphere: str) -> UPath:
        """The folder of all runs' betas; each file holds both hemispheres."""
        return self.files.results

    def voxels(self, hemisphere: str, roi: str) -> NDArray[np.int64]:
        """Ascending vertex numbers (n_voxels,) on the 32k fs_LR surface: the most reliable of the area.

        Raises:
            DataError: an unknown hemisphere or area.
        """
        require_hemisphere(hemisphere)
        if roi not in AREAS:
            raise DataError(f"{self.name} has no ROI {roi!r}; NOD is read for {', '.join(AREAS)}")
        return self._selection[hemisphere, roi]

    def roi_sizes(self, hemisphere: str) -> dict[str, int]:
        """Voxels of every area: 50, or fewer in a small one."""
        return {roi: len(self.voxels(hemisphere, roi)) for roi in AREAS}

    def responses(self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Responses (n_rows, n_voxels), contiguous, z-scored over each run's block."""
        n_voxels = len(self.voxels(hemisphere, roi))
        places = [(h, area) for h in HEMISPHERES for area in AREAS]
        start = sum(len(self.voxels(*place)) for place in places[: places.index((hemisphere, roi))])
        columns = self._betas[:, start : start + n_voxels]
        return np.ascontiguousarray(columns if rows is None else columns[rows])

    def noise_ceiling(
        self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32] | None:
        """None: every picture was shown once, so noise cannot be told from signal."""
        return None

    @cached_property
    def vertices(self) -> dict[str, NDArray[np.int64]]:
        """The voxels of all areas by hemisphere, area by area."""
        return {h: np.concatenate([self.voxels(h, area) for area in AREAS]) for h in HEMISPHERES}

    @cached_property
    def _betas(self) -> NDArray[np.float32]:
        """Responses (n_trials, n_voxels), in the order of `vertices`."""
        return assemble_betas(self.runs, self.vertices, default_cache_dir())

    @cached_property
    def _selection(self) -> Selection:
        return select_vertices(self.files.prf_maps, find_parcellation(self.files.root))


def picture_id(picture: str) -> int:
    """Dataset-wide id of a picture by its path below ``stimuli``."""
    return hashed_id(picture.encode())


class NodDataset:
    """NOD's subjects 1 to 9 and their areas V1 to V4."""

    name = NAME
    is_demo = False

    def __init__(self, root: UPath, subjects: dict[str, NodSubject]) -> None:
        self.root = root
        self.subjects = subjects
        """By name: ``subj01`` for ``sub-01``."""
        self._vocabulary = RoiVocabulary(NAME, dict.fromkeys(AREAS, GROUP))

    def __repr__(self) -> str:
        return f"NodDataset({len(self.subjects)} subjects)"

    @property
    def rois(self) -> list[str]:
        """V1 to V4."""
        return list(AREAS)

    def rois_of(self, group_or_name: str) -> list[str]:
        """The areas that ``all``, ``early`` or an area's name means.

        Raises:
            DataError: a word that is none of these.
        """
        return self._vocabulary.rois_of(group_or_name)

    def group_of(self, roi: str) -> str:
        """``early``.

        Raises:
            DataError: an unknown area.
        """
        return self._vocabulary.group_of(roi)

    def subject(self, name: str) -> NodSubject:
        """A subject by name.

        Raises:
            DataError: a subject that the data set lacks.
        """
        return find_subject(self.name, self.subjects, name)


def open_nod(root: str | os.PathLike[str]) -> NodDataset:
    """Opens a copy of OpenNeuro ds004496, or the part of it that docs/data.md lists.

    Raises:
        DataError: the folder cannot be reached or holds none of the subjects 1 to 9.
    """
    place = locate(root)
    with reaching(place):
        found = find_nod_subjects(place)
    return NodDataset(place, {name: NodSubject(name, files) for name, files in found.items()})
