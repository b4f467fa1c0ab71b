"""What every data set offers to the rest of the program, whatever its files look like."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
from botocore.exceptions import BotoCoreError
from numpy.typing import NDArray
from upath import UPath

from trainables.errors import DataError
from trainables.remote import StoreError, is_local

AnySubject = TypeVar("AnySubject")

ID_BITS = 53
"""Ids made from a hash have as many bits as a double holds exactly, so that they survive any JSON reader."""


class SubjectData(Protocol):
    """One subject: stimuli, and responses to them by hemisphere and ROI.

    Every member raises `trainables.data.files.FaultyFileError` (a `DataError`) for a missing or damaged file. Row i
    of the responses belongs to the i-th image and the i-th id.
    """

    @property
    def name(self) -> str:
        """What targets call the subject: ``subj01``."""

    @property
    def stimulus_ids(self) -> NDArray[np.int64]:
        """Dataset-wide ids (n_stimuli,); an id can occur twice, and subjects that saw one picture share its id."""

    @property
    def image_paths(self) -> Sequence[UPath]:
        """The image of each stimulus."""

    def responses_file(self, hemisphere: str) -> UPath:
        """The file, or the folder of files, that holds the responses: for messages to people."""

    def voxels(self, hemisphere: str, roi: str) -> NDArray[np.int64]:
        """Ascending numbers (n_voxels,) of an ROI's voxels; empty where the subject lacks it.

        Raises:
            DataError: a hemisphere other than ``lh`` and ``rh``, or an ROI that the subject does not name.
        """

    def roi_sizes(self, hemisphere: str) -> dict[str, int]:
        """Voxels of every ROI that the subject names, 0 for an empty one."""

    def responses(self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Responses (n_rows, n_voxels), contiguous, in the order of ``rows`` (all stimuli by default)."""

    def noise_ceiling(
        self, hemisphere: str, roi: str, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32] | None:
        """Share of each voxel's variance (n_voxels,) that the stimulus can explain, given how often the stimuli of
        ``rows`` were shown; None where the data set does not tell.
        """


class Dataset(Protocol):
    """Subjects and ROI names under one root; arrays and images are read only when a subject is asked for them."""

    @property
    def root(self) -> UPath:
        """Folder on disk or at an ``s3://`` address."""

    @property
    def name(self) -> str:
        """Part of targets and of registered models' names."""

    @property
    def subjects(self) -> Mapping[str, SubjectData]:
        """By name, in the order in which people expect them."""

    @property
    def is_demo(self) -> bool:
        """Whether the responses are simulated."""

    @property
    def rois(self) -> list[str]:
        """Names of all ROIs of any subject."""

    def rois_of(self, group_or_name: str) -> list[str]:
        """The ROIs that a word means: ``all``, a group, or an ROI.

        Raises:
            DataError: a word that is none of these.
        """

    def group_of(self, roi: str) -> str:
        """The group of an ROI: ``early`` for ``V1v``.

        Raises:
            DataError: an unknown ROI.
        """

    def subject(self, name: str) -> SubjectData:
        """A subject by name.

        Raises:
            DataError: a subject that the data set lacks.
        """


def find_subject(dataset: str, subjects: Mapping[str, AnySubject], name: str) -> AnySubject:
    """The subject called ``name``.

    Raises:
        DataError: there is none.
    """
    if name not in subjects:
        raise DataError(f"{dataset} has no subject {name!r}; expected one of {', '.join(subjects)}")
    return subjects[name]


def hashed_id(content: bytes) -> int:
    """A stimulus' id that equal contents share, where a data set gives none."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) >> (64 - ID_BITS)


def locate(root: str | os.PathLike[str]) -> UPath:
    """The root as an absolute path or address.

    Raises:
        DataError: an address of a kind that nothing here reads.
    """
    try:
        place = UPath(root)
        place.fs  # noqa: B018 - made here, so that an unknown kind of address is told before anything else
    except (ImportError, ValueError) as error:
        raise DataError(f"data set {os.fspath(root)!r} ({error}); expected a folder or an s3:// address") from error
    return UPath(place.expanduser().absolute()) if is_local(place) else place


@contextmanager
def reaching(place: UPath) -> Iterator[None]:
    """Turns what disks and networks raise while a data set is opened into one sentence.

    Raises:
        DataError: the block raised OSError or an error of the S3 client.
    """
    try:
        yield
    except StoreError as error:
        raise DataError(f"data set {place} cannot be reached ({error.reason}); {error.remedy}") from error
    except (OSError, BotoCoreError) as error:
        problem = f"data set {place} cannot be reached ({error})"
        raise DataError(f"{problem}; check the address, the network and the credentials") from error
