"""Data sets written by the tests themselves, so that a reader is not tested by its own writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAPPINGS: Mapping[str, Mapping[int, str]] = {
    "prf-visualrois": {0: "Unknown", 1: "V1v", 2: "V1d", 7: "hV4"},
    "floc-bodies": {0: "Unknown", 1: "EBA", 2: "FBA-1 "},
    "floc-faces": {0: "Unknown", 1: "OFA", 4: "mTL-faces"},
    "floc-places": {0: "Unknown", 1: "OPA"},
    "floc-words": {0: "Unknown", 1: "OWFA"},
    "streams": {0: "Unknown", 1: "early", 5: "ventral"},
}
LH_PRF = [0, 1, 1, 7, 2, 0, 1, 7]
"""Labels of the left hemisphere's eight vertices; the right hemisphere has five, all V1d."""


def write_challenge(root: Path, subject: str = "subj01", ids: Sequence[int] = (13, 7, 400)) -> Path:
    """A subject in the challenge's layout, whose response at (row, vertex) is ``100 * row + vertex``."""
    home = root / subject
    write_images(home / "training_split/training_images", "train", ids)
    write_images(home / "test_split/test_images", "test", [5000, 5001])
    _write_arrays(home / "training_split/training_fmri", home / "roi_masks", "", len(ids))
    return root


def write_flattened(root: Path, number: int = 1, ids: Sequence[int] = (13, 7, 400)) -> Path:
    """The same subject in the authors' flattened layout."""
    write_images(root / f"training_images/Subj{number}", "train", ids)
    write_images(root / f"test_images/Subj{number}", "test", [5000, 5001])
    fmri, masks = root / f"training_fmri/Subj{number}", root / f"roi_masks/Subj{number}"
    _write_arrays(fmri, masks, f"subj{number}_", len(ids))
    return root


def write_images(folder: Path, split: str, ids: Sequence[int]) -> None:
    """Images (20, 30) of one colour, which follows from the id."""
    folder.mkdir(parents=True)
    for row, stimulus in enumerate(ids, start=1):
        colour = (stimulus % 256, stimulus // 256 % 256, 99)
        Image.new("RGB", (30, 20), colour).save(folder / f"{split}-{row:04d}_nsd-{stimulus:05d}.png")


def _write_arrays(fmri: Path, masks: Path, prefix: str, n_stimuli: int) -> None:
    fmri.mkdir(parents=True)
    masks.mkdir(parents=True)
    for hemisphere, n_vertices in (("lh", 8), ("rh", 5)):
        responses = 100 * np.arange(n_stimuli)[:, None] + np.arange(n_vertices)
        np.save(fmri / f"{prefix}{hemisphere}_training_fmri.npy", responses.astype(np.float32))
        for mask in MAPPINGS:
            labels: NDArray[Any] = np.zeros(n_vertices, np.float32)
            if mask == "prf-visualrois":
                labels = np.array(LH_PRF if hemisphere == "lh" else [2] * 5, np.float32)
            if mask == "streams":
                labels[0] = 1
            np.save(masks / f"{hemisphere}.{mask}_challenge_space.npy", labels)
    for mask, mapping in MAPPINGS.items():
        np.save(masks / f"mapping_{mask}.npy", np.array(dict(mapping), dtype=object), allow_pickle=True)
