"""The vertices of V1 to V4 that respond most reliably to where a stimulus is.

Areas: Glasser et al. 2016 (doi 10.1038/nature18933), numbered 1 to 180 in one hemisphere and 181 to 360 in the other.
Files differ about which has the low numbers: code published with NOD takes them for the left hemisphere, while its own
``MMP_mpmLR32k.mat`` numbers the right one so, and the left 181 to 360, as the Human Connectome Project does. So the
hemisphere of a vertex is never taken from its number, only from the surface that it lies on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.files import FaultyFileError
from trainables.data.nod_cifti import SurfaceMaps, read_matlab_labels, read_surface_maps
from trainables.target import HEMISPHERES

AREAS = {"V1": 1, "V2": 4, "V3": 5, "V4": 6}
"""Numbers of the areas that the published study uses, in one hemisphere; 180 more in the other."""
N_AREAS = 180

N_VERTICES = 50
"""Vertices taken of each area and hemisphere: those with the highest R² (arXiv 2410.06067)."""

R2_MAP = 3
"""The row, from 0, of R² among the maps of population receptive fields."""

Selection = dict[tuple[str, str], NDArray[np.int64]]
"""Ascending vertex numbers (n_voxels,) on the 32k fs_LR surface by (hemisphere, area)."""


def select_vertices(prf_maps: UPath, parcellation: UPath) -> Selection:
    """The `N_VERTICES` vertices of highest R² of every area; all of them where an area has fewer.

    Raises:
        FaultyFileError: a file is missing or damaged, or the two do not fit each other.
    """
    maps = read_surface_maps(prf_maps)
    if len(maps.names) <= R2_MAP:
        problem = f"it holds {len(maps.names)} maps; expected angle, eccentricity, size and R²"
        raise FaultyFileError(prf_maps, problem, "download it again from OpenNeuro (ds004496)")
    selection: Selection = {}
    for (hemisphere, area), vertices in _area_vertices(parcellation, maps).items():
        r2 = maps.values[hemisphere][R2_MAP, maps.columns(hemisphere, vertices)]
        # No fit, no reliability. Stable, so that equal values are taken in the order of vertices.
        best = np.argsort(-np.nan_to_num(r2, nan=0.0), kind="stable")[:N_VERTICES]
        selection[hemisphere, area] = np.sort(vertices[best])
    return selection


def _area_vertices(parcellation: UPath, maps: SurfaceMaps) -> Selection:
    """All vertices of every area."""
    if parcellation.name.endswith(".mat"):
        labels, vertices = _matlab_labels(parcellation, maps), maps.vertices
        numbers = {area: [number, number + N_AREAS] for area, number in AREAS.items()}
    else:
        file = read_surface_maps(parcellation)
        labels, vertices = {h: values[0].astype(np.int64) for h, values in file.values.items()}, file.vertices
        numbers = {area: _numbers_of(area, file) for area in AREAS}
    return {
        (hemisphere, area): np.sort(vertices[hemisphere][np.isin(labels[hemisphere], numbers[area])])
        for hemisphere in HEMISPHERES
        for area in AREAS
    }


def _numbers_of(area: str, file: SurfaceMaps) -> list[int]:
    """What the file writes at vertices of the area, in either hemisphere."""
    if not file.label_names:
        return [AREAS[area], AREAS[area] + N_AREAS]
    known = {f"{side}_{area}_ROI" for side in "LR"} | {area}
    numbers = [number for number, name in file.label_names.items() if name.strip() in known]
    if not numbers:
        problem = f"none of its labels is called L_{area}_ROI or R_{area}_ROI"
        raise FaultyFileError(file.path, problem, "use the HCP-MMP 1.0 parcellation (Glasser et al. 2016)")
    return numbers


def _matlab_labels(path: UPath, maps: SurfaceMaps) -> dict[str, NDArray[np.int64]]:
    """Labels by hemisphere; the file lists the left cortex' vertices and then the right's, without saying so."""
    labels = read_matlab_labels(path)
    n_left, n_right = (len(maps.vertices[hemisphere]) for hemisphere in HEMISPHERES)
    if len(labels) != n_left + n_right:
        problem = f"it has {len(labels)} labels for the {n_left} + {n_right} vertices of {maps.path}"
        raise FaultyFileError(path, problem, "use files of the same surface (32k fs_LR)")
    return {"lh": labels[:n_left], "rh": labels[n_left:]}
