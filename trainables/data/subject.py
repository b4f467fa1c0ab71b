"""One subject of a data set in the Algonauts layout: stimuli, ROI masks, responses and noise ceilings."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.arrays import check_mask, check_ncsnr, check_repeats, check_responses
from trainables.data.files import FaultyFileError, read_array
from trainables.data.layout import StimulusFile, SubjectFiles, list_stimuli
from trainables.data.mapping import read_mapping
from trainables.data.rois import MASKS, canonical_roi, require_hemisphere
from trainables.encoding.scores import noise_ceiling
from trainables.errors import DataError

DEFAULT_REPEATS = 3
"""Presentations of each stimulus where ``repeats.npy`` is absent: NSD shows every image three times."""


class Subject:
    """Reads a file when it is asked for and keeps only what is small; safe to send to another process.

    Every method raises `trainables.data.files.FaultyFileError` (a `DataError`) for a missing or damaged file.
    """

    def __init__(self, files: SubjectFiles) -> None:
        self.files = files
        self.name = files.name
        self._labels: dict[tuple[str, str], NDArray[np.int64]] = {}

    def __reduce__(self) -> tuple[type[Subject], tuple[SubjectFiles]]:
        return (Subject, (self.files,))

    def __repr__(self) -> str:
        return f"Subject({self.name!r})"

    @cached_property
    def training_stimuli(self) -> list[StimulusFile]:
        """Images with responses, in the order of the responses' rows."""
        return list_stimuli(self.files.training_images)

    @cached_property
    def test_stimuli(self) -> list[StimulusFile]:
        """Images of the challenge's test split, whose responses were never released; empty where absent."""
        folder = self.files.test_images
        return list_stimuli(folder) if folder.exists() else []

    @property
    def stimulus_ids(self) -> NDArray[np.int64]:
        """Dataset-wide ids (n_stimuli,), in the order of the responses' rows; an id can occur twice."""
        return _ids(self.training_stimuli)

    @property
    def image_paths(self) -> list[UPath]:
        """Files of `stimulus_ids`."""
        return [stimulus.path for stimulus in self.training_stimuli]

    @property
    def test_stimulus_ids(self) -> NDArray[np.int64]:
        """Dataset-wide ids (n_test_stimuli,) of the challenge's test split."""
        return _ids(self.test_stimuli)

    @property
    def test_image_paths(self) -> list[UPath]:
        """Files of `test_stimulus_ids`."""
        return [stimulus.path for stimulus in self.test_stimuli]

    @cached_property
    def masks(self) -> tuple[str, ...]:
        """Masks that this subject has; one whose three files are all absent was left out."""
        return tuple(mask for mask in MASKS if self.files.has_mask(mask))

    @cached_property
    def _label_of_roi(self) -> dict[str, tuple[str, int]]:
        """(mask, label) of every ROI by canonical name."""
        labels: dict[str, tuple[str, int]] = {}
        for mask in self.masks:
            for label, name in sorted(read_mapping(self.files.mapping(mask)).items()):
                roi = canonical_roi(mask, name)
                if roi in labels:
                    problem = f"the ROI {name!r} is also in the mask {labels[roi][0]}"
                    raise FaultyFileError(self.files.mapping(mask), problem, "give every ROI its own name")
                labels[roi] = (mask, label)
        return labels

    @property
    def mask_of_roi(self) -> dict[str, str]:
        """The mask that holds each ROI, by canonical name, in the order of masks and labels."""
        return {roi: mask for roi, (mask, _) in self._label_of_roi.items()}

    def responses_file(self, hemisphere: str) -> UPath:
        """The array of the hemisphere's responses, for messages."""
        return self.files.responses(hemisphere)

    def n_vertices(self, hemisphere: str) -> int:
        """Columns of the hemisphere's responses; 0 for a hemisphere that was not recorded."""
        return int(self._response_array(hemisphere).shape[1])

    def voxels(self, hemisphere: str, roi: str) -> NDArray[np.int64]:
        """Ascending vertex indices (n_voxels,) of an ROI; empty where the subject lacks it.

        Raises:
            DataError: an ROI that the subject's masks do not name.
        """
        require_hemisphere(hemisphere)
        if roi not in self._label_of_roi:
            raise DataError(f"{self.name} has no ROI {roi!r}; its masks name {', '.join(self._label_of_roi)}")
        mask, label = self._label_of_roi[roi]
        return np.flatnonzero(self._mask_labels(hemisphere, mask) == label)

    def roi_sizes(self, hemisphere: str) -> dict[str, int]:
        """Voxels of every ROI, 0 for an empty one."""
        return {roi: len(self.voxels(hemisphere, roi)) for roi in self._label_of_roi}

    def responses(self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Responses (n_stimuli, n_voxels), contiguous, z-scored per session by the data's makers.

        Args:
            hemisphere: ``lh`` or ``rh``.
            roi: canonical name.
            rows: rows to read; the others stay on disk. All training stimuli by default.
        """
        array, voxels = self._response_array(hemisphere), self.voxels(hemisphere, roi)
        taken = array[:, voxels] if rows is None else array[np.ix_(rows, voxels)]
        return np.ascontiguousarray(taken)

    def ncsnr(self, hemisphere: str, roi: str) -> NDArray[np.float32] | None:
        """Noise-ceiling signal-to-noise ratio (n_voxels,), None where the data set has none."""
        path = self.files.ncsnr(hemisphere)
        if not path.exists():
            return None
        values = check_ncsnr(read_array(path), path, self.n_vertices(hemisphere))
        return values[self.voxels(hemisphere, roi)]

    @cached_property
    def repeats(self) -> NDArray[np.int64]:
        """Presentations (n_stimuli,) behind each row of responses; 3 each where ``repeats.npy`` is absent."""
        path, n_stimuli = self.files.repeats(), len(self.training_stimuli)
        if not path.exists():
            return np.full(n_stimuli, DEFAULT_REPEATS, np.int64)
        return check_repeats(read_array(path), path, n_stimuli)

    def noise_ceiling(
        self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32] | None:
        """Share of each voxel's variance (n_voxels,) that the stimulus can explain; None without ncsnr.

        Args:
            hemisphere: ``lh`` or ``rh``.
            roi: canonical name.
            rows: rows of the stimuli that are scored, whose repeats count; all training stimuli by default.
        """
        ncsnr = self.ncsnr(hemisphere, roi)
        if ncsnr is None:
            return None
        repeats = self.repeats if rows is None else self.repeats[rows]
        return noise_ceiling(ncsnr, repeats)

    def _response_array(self, hemisphere: str) -> NDArray[np.float32]:
        path = self.responses_file(hemisphere)
        return check_responses(read_array(path), path, len(self.training_stimuli))

    def _mask_labels(self, hemisphere: str, mask: str) -> NDArray[np.int64]:
        if (hemisphere, mask) not in self._labels:
            path = self.files.mask(hemisphere, mask)
            labels = check_mask(read_array(path), path, self.n_vertices(hemisphere))
            self._labels[hemisphere, mask] = labels
        return self._labels[hemisphere, mask]


def _ids(stimuli: list[StimulusFile]) -> NDArray[np.int64]:
    return np.array([stimulus.stimulus_id for stimulus in stimuli], np.int64)
