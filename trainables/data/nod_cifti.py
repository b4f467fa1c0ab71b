"""Reads maps on the cortical surface from CIFTI-2 files, by hemisphere and vertex."""

from __future__ import annotations

import importlib
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.files import FaultyFileError, read_bytes
from trainables.errors import DataError

STRUCTURES = {"lh": "CIFTI_STRUCTURE_CORTEX_LEFT", "rh": "CIFTI_STRUCTURE_CORTEX_RIGHT"}

# Damage lies in the header, in its XML or in the values, and each has its own way of failing.
_DAMAGE = (
    OSError, ValueError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
    NotImplementedError, UnicodeError, struct.error, zlib.error, ExpatError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SurfaceMaps:
    """The cortical part of a CIFTI file."""

    path: UPath
    names: list[str]
    """Of the maps (n_maps)."""
    label_names: dict[int, str]
    """Names of the numbers in the first map; empty in a file that is no ``dlabel``."""
    vertices: dict[str, NDArray[np.int64]]
    """By hemisphere: number of each column's vertex (n_vertices,) on the 32k fs_LR surface."""
    values: dict[str, NDArray[np.float64]]
    """By hemisphere: (n_maps, n_vertices)."""

    def columns(self, hemisphere: str, vertices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in ``values`` these vertices stand.

        Raises:
            FaultyFileError: the file lacks one of them.
        """
        own = self.vertices[hemisphere]
        order = np.argsort(own)
        places = np.searchsorted(own, vertices, sorter=order)
        found = order[np.minimum(places, len(own) - 1)] if len(own) else np.zeros(len(vertices), np.int64)
        lacking = own[found] != vertices if len(own) else np.ones(len(vertices), bool)
        if lacking.any():
            problem = f"it has no vertex {vertices[lacking][0]} in {STRUCTURES[hemisphere]}"
            raise FaultyFileError(self.path, problem, "use files of the same surface (32k fs_LR)")
        return found


def read_surface_maps(path: UPath) -> SurfaceMaps:
    """The maps of a ``.dscalar.nii`` or ``.dlabel.nii`` file.

    Raises:
        FaultyFileError: the file is missing or damaged, or holds no cortex.
        DataError: nibabel is not installed.
    """
    nibabel = import_nibabel()
    content = read_bytes(path)
    damage = (
        *_DAMAGE, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
        nibabel.cifti2.Cifti2HeaderError, nibabel.wrapstruct.WrapStructError,
    )  # fmt: skip
    try:
        image = nibabel.cifti2.Cifti2Image.from_bytes(content)
        maps, grayordinates = (image.header.get_axis(index) for index in (0, 1))
        values = np.asarray(image.dataobj, np.float64)
        columns = {hemi: np.flatnonzero(grayordinates.name == name) for hemi, name in STRUCTURES.items()}
        return SurfaceMaps(
            path=path,
            names=[str(name) for name in maps.name],
            label_names=_label_names(maps),
            vertices={hemi: grayordinates.vertex[found].astype(np.int64) for hemi, found in columns.items()},
            values={hemi: values[:, found] for hemi, found in columns.items()},
        )
    except damage as error:
        cause = " ".join(str(error).split())  # some of nibabel's messages have two lines
        problem = f"it is not a whole CIFTI file of maps on the cortex ({cause})"
        raise FaultyFileError(path, problem, "download it again") from error


def import_nibabel() -> Any:
    """The package that reads CIFTI; it is needed for NOD alone.

    Raises:
        DataError: it is not installed.
    """
    try:
        nibabel = importlib.import_module("nibabel")
        importlib.import_module("nibabel.cifti2")
    except ImportError as error:
        raise DataError(
            f"the Natural Object Dataset needs nibabel, which cannot be imported here ({error}); "
            "run pip install 'cortex-sweep[nod]'"
        ) from error
    return nibabel


def read_matlab_labels(path: UPath) -> NDArray[np.int64]:
    """The labels (n_cortical_vertices,) in the variable ``glasser_MMP`` of a MATLAB file.

    Raises:
        FaultyFileError: the file is missing or damaged, or holds no such variable.
    """
    # Not where the module begins: a GPU machine may have torch and NumPy alone.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    file: Any = BytesIO(read_bytes(path))
    try:
        values = loadmat(file)["glasser_MMP"]
        return np.asarray(values, np.float64).reshape(-1).astype(np.int64)
    except (*_DAMAGE, MatReadError) as error:
        problem = f"it is not a whole MATLAB file with the variable glasser_MMP ({error})"
        raise FaultyFileError(path, problem, "take it anew from the code that NOD's makers published") from error


def _label_names(maps: Any) -> dict[int, str]:
    labels = getattr(maps, "label", None)
    return {} if labels is None else {int(number): str(name) for number, (name, _) in labels[0].items()}
