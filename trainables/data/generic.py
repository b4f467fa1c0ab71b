"""Own data described by a ``dataset.toml``: a folder of images and arrays of responses (docs/data.md)."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.arrays import check_ncsnr, check_repeats
from trainables.data.dataset import find_subject, locate, reaching
from trainables.data.files import FaultyFileError, default_cache_dir, read_array
from trainables.data.generic_stimuli import ListedStimulus, content_ids, list_stimuli
from trainables.data.generic_toml import DESCRIPTION_FILE, WHOLE, Description, GenericFiles, read_description
from trainables.data.rois import RoiVocabulary, require_hemisphere
from trainables.encoding.scores import noise_ceiling
from trainables.errors import DataError


class GenericSubject:
    """One subject; reads a file when it is asked for. Safe to send to another process.

    Every method raises `trainables.data.files.FaultyFileError` (a `DataError`) for a missing or damaged file.
    """

    def __init__(self, files: GenericFiles, labels: dict[str, int] | None) -> None:
        self.files, self.labels = files, labels
        self.name = files.name
        self._labels_of: dict[str, NDArray[np.int64]] = {}

    def __reduce__(self) -> tuple[type[GenericSubject], tuple[GenericFiles, dict[str, int] | None]]:
        return (GenericSubject, (self.files, self.labels))

    def __repr__(self) -> str:
        return f"GenericSubject({self.name!r})"

    @cached_property
    def stimuli(self) -> list[ListedStimulus]:
        """One for each row of the responses."""
        return list_stimuli(self.files)

    @cached_property
    def stimulus_ids(self) -> NDArray[np.int64]:
        """Ids (n_stimuli,) from the list of stimuli, else from the images' content."""
        ids = [stimulus.stimulus_id for stimulus in self.stimuli if stimulus.stimulus_id is not None]
        if len(ids) == len(self.stimuli):
            return np.array(ids, np.int64)
        return content_ids(self.image_paths, default_cache_dir())

    @property
    def image_paths(self) -> list[UPath]:
        """Files of `stimulus_ids`."""
        return [stimulus.path for stimulus in self.stimuli]

    def responses_file(self, hemisphere: str) -> UPath:
        """The array of the hemisphere's responses; the description where it names none."""
        return self.files.responses.get(hemisphere, self.files.root / DESCRIPTION_FILE)

    def voxels(self, hemisphere: str, roi: str) -> NDArray[np.int64]:
        """Ascending columns (n_voxels,) of the responses; none for a hemisphere without responses.

        Raises:
            DataError: an unknown hemisphere or ROI.
        """
        require_hemisphere(hemisphere)
        names = [WHOLE] if self.labels is None else list(self.labels)
        if roi not in names:
            raise DataError(f"{self.name} has no ROI {roi!r}; the data set names {', '.join(names)}")
        if hemisphere not in self.files.responses:
            return np.empty(0, np.int64)
        if self.labels is None:
            return np.arange(self._response_array(hemisphere).shape[1])
        return np.flatnonzero(self._label_array(hemisphere) == self.labels[roi])

    def roi_sizes(self, hemisphere: str) -> dict[str, int]:
        """Voxels of every ROI, 0 for an empty one."""
        return {roi: len(self.voxels(hemisphere, roi)) for roi in self.labels or (WHOLE,)}

    def responses(self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Responses (n_rows, n_voxels), contiguous; float16 and float64 become float32 here."""
        voxels = self.voxels(hemisphere, roi)
        if hemisphere not in self.files.responses:
            return np.empty((len(self.stimuli) if rows is None else len(rows), 0), np.float32)
        array = self._response_array(hemisphere)
        taken = array[:, voxels] if rows is None else array[np.ix_(rows, voxels)]
        # What float32 cannot hold becomes infinite and is refused with the voxel's number by whoever loads a target.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(taken, dtype=np.float32)

    @cached_property
    def repeats(self) -> NDArray[np.int64]:
        """Presentations (n_stimuli,) behind each row of responses; 1 each where the description names no file."""
        n_stimuli = len(self.stimuli)
        if self.files.repeats is None:
            return np.ones(n_stimuli, np.int64)
        return check_repeats(read_array(self.files.repeats), self.files.repeats, n_stimuli)

    def noise_ceiling(
        self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32] | None:
        """Share of each voxel's variance (n_voxels,) that the stimulus can explain; None without ncsnr."""
        voxels = self.voxels(hemisphere, roi)
        path = self.files.ncsnr.get(hemisphere)
        if path is None:
            return None
        ncsnr = check_ncsnr(read_array(path), path, self._response_array(hemisphere).shape[1])
        return noise_ceiling(ncsnr[voxels], self.repeats if rows is None else self.repeats[rows])

    def _response_array(self, hemisphere: str) -> NDArray[Any]:
        path = self.files.responses[hemisphere]
        return check_generic_responses(read_array(path), path, len(self.stimuli))

    def _label_array(self, hemisphere: str) -> NDArray[np.int64]:
        if hemisphere not in self._labels_of:
            path = self.files.labels[hemisphere]
            n_voxels = self._response_array(hemisphere).shape[1]
            self._labels_of[hemisphere] = check_labels(read_array(path), path, n_voxels)
        return self._labels_of[hemisphere]


class GenericDataset:
    """What a ``dataset.toml`` describes."""

    is_demo = False

    def __init__(self, root: UPath, description: Description) -> None:
        self.root = root
        self.name = description.name
        self.description = description
        labels = None if description.labels is None else dict(description.labels)
        self.subjects = {name: GenericSubject(files, labels) for name, files in description.subjects.items()}
        """By name, in the order of the description."""
        self._vocabulary = RoiVocabulary(self.name, description.groups)

    def __repr__(self) -> str:
        return f"GenericDataset({self.name!r}, {len(self.subjects)} subjects)"

    @property
    def rois(self) -> list[str]:
        """Names of all ROIs in the order of the description."""
        return list(self._vocabulary.groups)

    def rois_of(self, group_or_name: str) -> list[str]:
        """The ROIs that ``all``, a group or an ROI means.

        Raises:
            DataError: a word that is none of these.
        """
        return self._vocabulary.rois_of(group_or_name)

    def group_of(self, roi: str) -> str:
        """The group that lists an ROI, or ``ungrouped``.

        Raises:
            DataError: an unknown ROI.
        """
        return self._vocabulary.group_of(roi)

    def subject(self, name: str) -> GenericSubject:
        """A subject by name.

        Raises:
            DataError: a subject that the data set lacks.
        """
        return find_subject(self.name, self.subjects, name)


def open_generic(root: str | os.PathLike[str]) -> GenericDataset:
    """Opens a folder with a ``dataset.toml``, on disk or at an ``s3://`` address.

    Raises:
        DataError: the folder cannot be reached, or its description is missing or faulty.
    """
    place = locate(root)
    with reaching(place):
        return GenericDataset(place, read_description(place))


def check_generic_responses(array: NDArray[Any], path: UPath, n_stimuli: int) -> NDArray[Any]:
    """The array itself if it is float16, float32 or float64 (n_stimuli, n_voxels); its values are not looked at.

    Raises:
        FaultyFileError: another type, another number of dimensions, or not a row for each image.
    """
    if array.ndim != 2:
        remedy = "save it as (n_stimuli, n_voxels)"
        raise FaultyFileError(path, f"the shape is {array.shape}; expected two dimensions", remedy)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        problem = f"the type is {array.dtype}; expected float32 (or float16, float64)"
        raise FaultyFileError(path, problem, "convert it with array.astype(numpy.float32)")
    if len(array) != n_stimuli:
        problem = f"{len(array)} rows of responses for {n_stimuli} stimuli"
        raise FaultyFileError(path, problem, "give each row its image: in the folder, or in the list of stimuli")
    return array


def check_labels(array: NDArray[Any], path: UPath, n_voxels: int) -> NDArray[np.int64]:
    """Labels (n_voxels,) as int64.

    Raises:
        FaultyFileError: another shape, or values that are not integers of at least 0.
    """
    if array.shape != (n_voxels,):
        problem = f"the shape is {array.shape}; expected ({n_voxels},), a label per column of the responses"
        raise FaultyFileError(path, problem, "save one label for each voxel, 0 for a voxel in no ROI")
    if array.dtype.kind not in "iu" or (array < 0).any():
        problem = f"values of type {array.dtype} that are not integers of at least 0"
        raise FaultyFileError(path, problem, "save the numbers that dataset.toml gives the ROIs, as integers")
    return array.astype(np.int64)
