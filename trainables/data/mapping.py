"""Names of ROI labels: the ``mapping_*.npy`` files, which are pickles and therefore not to be trusted."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
from numpy.lib import format as npy
from upath import UPath

from trainables.data.files import NPY_DAMAGE, FaultyFileError, read_bytes

MAX_BYTES = 1 << 20
"""A mapping holds a handful of names; anything larger is something else."""

# What the standard library says a damaged pickle can raise, with what the stand-ins below raise.
_DAMAGE = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError,
    OverflowError, TypeError, *NPY_DAMAGE,
)  # fmt: skip
_SCALAR = re.compile(r"[iu][1248]|U\d{1,6}")
_REMEDY = "replace it by the original file, or write it with numpy.save(path, {0: 'Unknown', 1: 'V1v', ...})"


def read_mapping(path: UPath) -> dict[int, str]:
    """ROI names by label, without label 0 (``Unknown``) and without the blanks that trail some names.

    Raises:
        FaultyFileError: the file is missing or damaged, its pickle asks for anything but a dict of integers
            to strings (nothing of it is then executed), or two labels share a name.
    """
    content = read_bytes(path)
    if len(content) > MAX_BYTES:
        raise FaultyFileError(path, f"{len(content)} bytes, far more than a mapping of ROI names needs", _REMEDY)
    try:
        mapping = _unpickle(io.BytesIO(content))
    except _DAMAGE as error:
        raise FaultyFileError(path, f"not a readable mapping of ROI labels ({error})", _REMEDY) from error
    names = {label: name.strip() for label, name in _checked(mapping, path).items() if label != 0}
    if len(set(names.values())) < len(names):
        raise FaultyFileError(path, f"two labels share a name in {names}", "give every label its own name")
    return names


def _checked(mapping: Any, path: UPath) -> dict[int, str]:
    plain = isinstance(mapping, dict) and all(
        type(label) is int and label >= 0 and isinstance(name, str) for label, name in mapping.items()
    )
    if not plain:
        raise FaultyFileError(path, "the pickle does not hold a dict of label numbers to ROI names", _REMEDY)
    return dict(mapping)


def _unpickle(file: io.BytesIO) -> Any:
    """What `numpy.load` of a dict saved by `numpy.save` gives, or an exception of `_DAMAGE`."""
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"format version {version}")
    shape, _, dtype = read_header(file)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"an array of shape {shape} and type {dtype}, not one pickled dict")
    values = _MappingUnpickler(file).load().values
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError("the pickle does not hold exactly one object")
    return values[0]


class _MappingUnpickler(pickle.Unpickler):
    """Admits dict, int and str, and stand-ins for NumPy's reconstruction of arrays and scalars.

    The stand-ins only keep what they are given. NumPy's own are not safe with bytes from outside: a forged
    dtype state makes NumPy take raw bytes for object pointers. They are made anew for each file, because a
    pickle can set attributes on whatever it gets hold of.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._admitted = _stand_ins()

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._admitted[module_name, global_name]
        except KeyError:
            problem = f"it asks for {module_name}.{global_name}, which no mapping needs and which was not run"
            raise pickle.UnpicklingError(problem) from None


def _stand_ins() -> dict[tuple[str, str], Any]:
    class Dtype:
        def __init__(self, code: str, *_flags: bool) -> None:
            self.code, self.byte_order = code, "|"

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.byte_order = state[1]

    class Array:
        values: Any = None

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.values = state[4]

    def reconstruct(*_arguments: object) -> Array:
        return Array()

    def scalar(dtype: Dtype, content: bytes) -> Any:
        if not _SCALAR.fullmatch(dtype.code) or dtype.byte_order not in ("<", ">", "|"):
            raise ValueError(f"a scalar of type {dtype.code!r}")
        return np.frombuffer(content, f"{dtype.byte_order}{dtype.code}".lstrip("|"), count=1)[0].item()

    # NumPy 2 renamed the module; files of both generations are about.
    core = [f"numpy.{package}.multiarray" for package in ("core", "_core")]
    return {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
        **{(module, "_reconstruct"): reconstruct for module in core},
        **{(module, "scalar"): scalar for module in core},
    }
