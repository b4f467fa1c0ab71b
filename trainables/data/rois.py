"""The ROI vocabulary of the Algonauts layout: masks, groups, and names that mean one thing only."""

from __future__ import annotations

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
