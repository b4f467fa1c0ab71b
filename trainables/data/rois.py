"""The ROI vocabulary of the Algonauts layout: masks, groups, and names that mean one thing only; and of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.errors import DataError
from trainables.target import HEMISPHERES

GROUP_OF_MASK = {
    "prf-visualrois": "early",
    "floc-bodies": "bodies",
    "floc-faces": "faces",
    "floc-places": "places",
    "floc-words": "words",
    "streams": "streams",
}
"""Each mask file holds the ROIs of one group."""

MASKS = tuple(GROUP_OF_MASK)
GROUPS = tuple(GROUP_OF_MASK.values())
ALL = "all"

_RESERVED = {ALL, *GROUPS, *MASKS}


def canonical_roi(mask: str, label: str) -> str:
    """The name of an ROI in targets and reports: its label, or ``mask:label`` where a group is called so too.

    Of the standard labels only ``early`` in the mask ``streams`` is one: ``early`` is the group V1v..hV4.
    """
    return f"{mask}:{label}" if label in _RESERVED else label


def mask_of_group(name: str) -> str | None:
    """The mask that a group's name, or the mask's own name, stands for; None for any other name."""
    for mask, group in GROUP_OF_MASK.items():
        if name in (mask, group):
            return mask
    return None


@dataclass(frozen=True)
class RoiVocabulary:
    """The ROIs and groups of a data set whose groups are not those of the Algonauts masks."""

    dataset: str
    """Name of the data set, for messages."""
    groups: Mapping[str, str]
    """The group of every ROI, in the order in which ROIs are listed."""

    def rois_of(self, word: str) -> list[str]:
        """The ROIs that ``all``, a group's name or an ROI's name means.

        Raises:
            DataError: a word that is none of these.
        """
        asked = word.strip()
        if asked == ALL:
            return list(self.groups)
        if asked in self.groups:
            return [asked]
        if members := [roi for roi, group in self.groups.items() if group == asked]:
            return members
        known = ", ".join(dict.fromkeys([ALL, *self.groups.values(), *self.groups]))
        raise DataError(f"{word!r} is no ROI and no group of ROIs in {self.dataset}; expected one of {known}")

    def group_of(self, roi: str) -> str:
        """The group of an ROI.

        Raises:
            DataError: an unknown ROI.
        """
        if roi not in self.groups:
            raise DataError(f"{roi!r} is no ROI in {self.dataset}; expected one of {', '.join(self.groups)}")
        return self.groups[roi]


def require_hemisphere(hemisphere: str) -> None:
    """Refuses anything but ``lh`` and ``rh``.

    Raises:
        DataError: another word.
    """
    if hemisphere not in HEMISPHERES:
        raise DataError(f"hemisphere is {hemisphere!r}; expected one of {', '.join(HEMISPHERES)}")
