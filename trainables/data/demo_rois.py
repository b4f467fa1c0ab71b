"""Which vertices of the demo set lie in which ROI, and what each of them responds to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.data import demo_model as model
from trainables.target import HEMISPHERES

N_FSAVERAGE = 163842
"""Vertices of a hemisphere on FreeSurfer's average surface."""

LABELS = {
    "prf-visualrois": ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
    "floc-bodies": ["EBA", "FBA-1", "FBA-2", "mTL-bodies"],
    "floc-faces": ["OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
    "floc-places": ["OPA", "PPA", "RSC"],
    # A trailing blank, as the real mappings have it.
    "floc-words": ["OWFA", "VWFA-1", "VWFA-2", "mfs-words ", "mTL-words"],
    "streams": ["early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"],
}
"""Names of each mask's labels, from 1."""

STREAM_OF_ROI = {
    **dict.fromkeys(("V1v", "V1d", "V2v", "V2d", "V3v", "V3d"), "early"),
    "hV4": "midventral",
    **dict.fromkeys(("OFA", "OWFA"), "midlateral"),
    **dict.fromkeys(("FBA-1", "FBA-2", "FFA-1", "FFA-2", "PPA", "VWFA-1", "VWFA-2", "mfs-words "), "ventral"),
    **dict.fromkeys(("EBA", "OPA"), "lateral"),
}
"""The visual stream that an ROI's vertices also lie in."""

STREAMS_ALONE = ("midparietal", "parietal")
"""Streams whose vertices lie in no other ROI here."""

ROI_SIZE = (24, 40)
"""Fewest and most voxels of an ordinary ROI."""
TINY_ROIS = {"RSC": 9, "VWFA-2": 14}
"""Smaller than the 20 voxels of the published study's smallest targets."""
EMPTY_ROIS = ("mTL-bodies", "mTL-faces", "aTL-faces", "mTL-words")
N_UNLABELLED = 60
"""Vertices of a hemisphere outside every ROI, which hold noise alone."""

EARLY_CEILING = (0.35, 0.85)
LATER_CEILING = (0.25, 0.70)
"""Range of the noise ceilings."""


@dataclass(frozen=True, eq=False)
class Hemisphere:
    """One simulated hemisphere."""

    labels: dict[str, NDArray[np.float32]]
    """Label of each vertex (n_vertices,) by mask; 0 outside its ROIs."""
    signal: NDArray[np.float64]
    """Noise-free responses (n_stimuli, n_vertices), standardised; 0 outside all ROIs."""
    ceiling: NDArray[np.float64]
    """Noise ceilings (n_vertices,)."""
    rf_x: NDArray[np.float64]
    """Centres of receptive fields (n_vertices,), from the picture's left edge, 0, to its right edge, 1;
    NaN beyond the early areas."""
    rf_y: NDArray[np.float64]
    """From the upper edge, 0, to the lower edge, 1."""
    rf_size: NDArray[np.float64]
    """Standard deviations, as a share of the picture's side."""


def simulate(maps: NDArray[np.float32], hemisphere: str, subject: int, seed: int) -> Hemisphere:
    """A subject's hemisphere, given channel maps (n_stimuli, n_channels, 32, 32) of what it saw."""
    rng = np.random.default_rng([seed, 2, subject, HEMISPHERES.index(hemisphere)])
    rois = list(_rois(rng))
    n_vertices = sum(size for _, _, size in rois) + N_UNLABELLED
    # Vertices of an ROI are scattered, so that reading a wrong column shows.
    order = rng.permutation(n_vertices)
    empty = np.full(n_vertices, np.nan)
    hemi = Hemisphere(
        labels={mask: np.zeros(n_vertices, np.float32) for mask in LABELS},
        signal=np.zeros((len(maps), n_vertices)),
        ceiling=np.zeros(n_vertices),
        rf_x=empty,
        rf_y=empty.copy(),
        rf_size=empty.copy(),
    )
    features = model.pooled_features(maps, hemisphere)
    start = 0
    for mask, name, size in rois:
        vertices = order[start : start + size]
        start += size
        hemi.labels[mask][vertices] = LABELS[mask].index(name) + 1
        if stream := STREAM_OF_ROI.get(name):
            hemi.labels["streams"][vertices] = LABELS["streams"].index(stream) + 1
        if mask == "prf-visualrois":
            _simulate_early(hemi, vertices, name, maps, hemisphere, rng)
        else:
            _simulate_later(hemi, vertices, _direction(mask, name, seed), features, rng)
    return hemi


def _rois(rng: np.random.Generator) -> Iterator[tuple[str, str, int]]:
    """(mask, name, voxels) of every ROI that has vertices of its own."""
    for mask, names in LABELS.items():
        for name in names if mask != "streams" else STREAMS_ALONE:
            if name not in EMPTY_ROIS:
                yield mask, name, TINY_ROIS.get(name) or int(rng.integers(ROI_SIZE[0], ROI_SIZE[1] + 1))


def _simulate_early(
    hemi: Hemisphere,
    vertices: NDArray[np.int64],
    area: str,
    maps: NDArray[np.float32],
    hemisphere: str,
    rng: np.random.Generator,
) -> None:
    voxels = model.early_voxels(area, hemisphere, len(vertices), rng)
    hemi.signal[:, vertices] = model.early_signal(maps, voxels)
    hemi.ceiling[vertices] = rng.uniform(*EARLY_CEILING, size=len(vertices))
    hemi.rf_x[vertices], hemi.rf_y[vertices] = voxels.rf_x, voxels.rf_y
    hemi.rf_size[vertices] = voxels.rf_size


def _simulate_later(
    hemi: Hemisphere,
    vertices: NDArray[np.int64],
    direction: NDArray[np.float64],
    features: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    hemi.signal[:, vertices] = model.later_signal(features, len(vertices), direction, rng)
    hemi.ceiling[vertices] = rng.uniform(*LATER_CEILING, size=len(vertices))


def _direction(mask: str, name: str, seed: int) -> NDArray[np.float64]:
    """What an ROI responds to (n_features,): mostly what its group does, alike in all subjects."""
    masks = list(LABELS)
    group = np.random.default_rng([seed, 3, masks.index(mask)]).standard_normal(model.N_FEATURES)
    own = np.random.default_rng([seed, 4, masks.index(mask), LABELS[mask].index(name)])
    return np.asarray(group + 0.5 * own.standard_normal(model.N_FEATURES))
