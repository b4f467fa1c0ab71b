"""The Algonauts 2023 data set (Natural Scenes Dataset), and own data in its layout.

Gifford et al., "The Algonauts Project 2023 Challenge", arXiv 2301.03198; Allen et al. 2022, NSD.
"""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from typing import Any

from upath import UPath

from trainables.data.dataset import find_subject, locate, reaching
from trainables.data.files import FaultyFileError, read_bytes
from trainables.data.layout import find_subjects
from trainables.data.rois import ALL, GROUP_OF_MASK, GROUPS, canonical_roi, mask_of_group
from trainables.data.subject import Subject
from trainables.errors import DataError

DESCRIPTION_FILE = "dataset.json"
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What names of registered models, files and addresses may hold; as in own data's ``dataset.toml``."""


class AlgonautsDataset:
    """Subjects and ROI names of one root folder; responses are read only when a subject is asked for them."""

    def __init__(self, root: UPath, name: str, subjects: dict[str, Subject], *, is_demo: bool) -> None:
        self.root = root
        self.name = name
        """The name in the root's ``dataset.json``, else the root folder's."""
        self.subjects = subjects
        """By name, ``subj01``..., in the order of their numbers."""
        self.is_demo = is_demo
        """Whether the responses are simulated (`trainables.data.demo`)."""

    def __repr__(self) -> str:
        return f"AlgonautsDataset({self.name!r}, {len(self.subjects)} subjects)"

    @cached_property
    def mask_of_roi(self) -> dict[str, str]:
        """The mask of every ROI that any subject's masks name, by canonical name."""
        return {roi: mask for subject in self.subjects.values() for roi, mask in subject.mask_of_roi.items()}

    @property
    def rois(self) -> list[str]:
        """Canonical names of all ROIs, in the order of masks and labels."""
        masks = list(GROUP_OF_MASK)
        return sorted(self.mask_of_roi, key=lambda roi: masks.index(self.mask_of_roi[roi]))

    def rois_of(self, group_or_name: str) -> list[str]:
        """The ROIs that a word means.

        Args:
            group_or_name: ``all``; a group (``early``, ``bodies``, ``faces``, ``places``, ``words``,
                ``streams``) or its mask (``floc-bodies``); an ROI (``V1v``); or ``mask:label``. The group
                ``early`` is V1v..hV4; the early visual stream is ``streams:early``.

        Raises:
            DataError: a word that is none of these.
        """
        word = group_or_name.strip()
        if word == ALL:
            return self.rois
        if (mask := mask_of_group(word)) is not None:
            return [roi for roi in self.rois if self.mask_of_roi[roi] == mask]
        if ":" in word:
            mask_name, label = word.split(":", 1)
            mask = mask_of_group(mask_name)
            roi = canonical_roi(mask, label) if mask else word
            if self.mask_of_roi.get(roi) == mask and mask:
                return [roi]
        elif word in self.mask_of_roi:
            return [word]
        known = ", ".join([ALL, *GROUPS, *self.rois])
        raise DataError(f"{group_or_name!r} is no ROI and no group of ROIs in {self.name}; expected one of {known}")

    def group_of(self, roi: str) -> str:
        """The group of an ROI: ``early`` for ``V1v``.

        Raises:
            DataError: an unknown ROI.
        """
        if roi not in self.mask_of_roi:
            raise DataError(f"{roi!r} is no ROI in {self.name}; expected one of {', '.join(self.rois)}")
        return GROUP_OF_MASK[self.mask_of_roi[roi]]

    def subject(self, name: str) -> Subject:
        """A subject by name.

        Raises:
            DataError: a subject that the data set lacks.
        """
        return find_subject(self.name, self.subjects, name)


def open_algonauts(root: str | os.PathLike[str]) -> AlgonautsDataset:
    """Opens a data set in the challenge's layout or in the flattened one, on disk or at an ``s3://`` address.

    Args:
        root: the folder that holds ``subj01``, ``subj02``..., or the one that holds ``training_fmri``,
            ``training_images`` and ``roi_masks``.

    Raises:
        DataError: the folder does not exist, cannot be reached, or holds neither layout.
    """
    place = locate(root)
    with reaching(place):
        subjects = {name: Subject(files) for name, files in find_subjects(place).items()}
        description = _description(place)
    name = _dataset_name(description.get("name"), place)
    return AlgonautsDataset(place, name, subjects, is_demo=bool(description.get("demo", False)))


def _dataset_name(given: object, place: UPath) -> str:
    """The name in ``dataset.json``, else the folder's, with a dash for what a name may not hold.

    Raises:
        DataError: the name given is none.
    """
    if not given:
        folder = re.sub(r"[^A-Za-z0-9_.-]+", "-", place.name or place.parent.name).strip("-_.")
        return folder or "data"
    if isinstance(given, str) and DATASET_NAME.fullmatch(given):
        return given
    problem = f"{place / DESCRIPTION_FILE} names the data set {given!r}"
    raise DataError(f"{problem}; expected letters, digits, '.', '_' and '-', a letter or digit first")


def _description(root: UPath) -> dict[str, Any]:
    path = root / DESCRIPTION_FILE
    if not path.exists():
        return {}
    try:
        description = json.loads(read_bytes(path))
    except ValueError as error:
        raise FaultyFileError(path, f"not valid JSON ({error})", 'write {"name": "..."} or remove it') from error
    if not isinstance(description, dict):
        raise FaultyFileError(path, "not a JSON object", 'write {"name": "..."} or remove it')
    return description
