"""Puts the responses of a subject's runs together, once; later they are memory-mapped from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import mapped
from trainables.data.decoding import NPY_HEADER_BYTES
from trainables.data.files import NPY_DAMAGE, REBUILDS, FaultyFileError, locked, missing, writing
from trainables.data.nod_cifti import SurfaceMaps, read_surface_maps
from trainables.data.nod_layout import Run, read_events
from trainables.target import HEMISPHERES

BETAS_VERSION = 1
"""Part of every cache key: raise it whenever the same files would give other responses."""


def assemble_betas(
    runs: Sequence[Run], vertices: Mapping[str, NDArray[np.int64]], cache_dir: Path
) -> NDArray[np.float32]:
    """Responses (n_trials, n_lh + n_rh) of the runs one below the other, z-scored run by run, memory-mapped.

    The cache's key is made of the files' addresses, sizes and times of change and of the vertices.

    Args:
        runs: in the order of the rows.
        vertices: by hemisphere, ``lh`` first: numbers of the vertices to keep.
        cache_dir: where the array is kept.

    Raises:
        FaultyFileError: a file is missing or damaged, or does not fit its events.
        StorageError: the cache cannot be written.
    """
    path = cache_dir / "nod" / f"{_key(runs, vertices)}.npy"
    with locked(path):
        for _ in range(REBUILDS):
            try:
                return mapped(path)
            except NPY_DAMAGE:
                responses = np.concatenate([read_run(run, vertices) for run in runs])
                with writing(path, responses.nbytes + NPY_HEADER_BYTES, cache_dir) as file:
                    np.save(file, responses)
        return mapped(path)


def read_run(run: Run, vertices: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """Responses (n_trials, n_lh + n_rh) of one run, as `standardised` makes them.

    Raises:
        FaultyFileError: a file is missing or damaged, or the two contradict each other.
    """
    maps = read_surface_maps(run.betas)
    check_trials(maps, read_events(run), run)
    return standardised(maps, vertices)


def standardised(maps: SurfaceMaps, vertices: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """Responses (n_trials, n_lh + n_rh), z-scored by one mean and deviation of all trials and cortical vertices.

    One for the whole block, as published (arXiv 2410.06067): it takes away what differs between runs, and leaves
    what differs between vertices.

    Raises:
        FaultyFileError: the block holds NaN, infinity or a single value, or lacks a vertex.
    """
    block = np.concatenate([maps.values[hemisphere] for hemisphere in HEMISPHERES], axis=1)
    finite = bool(np.isfinite(block).all())
    if not finite or block.min() == block.max():
        problem = "its values are all the same" if finite else "it holds NaN or infinity"
        raise FaultyFileError(maps.path, problem, "download it again from OpenNeuro (ds004496)")
    chosen = [maps.values[hemi][:, maps.columns(hemi, numbers)] for hemi, numbers in vertices.items()]
    return np.asarray((np.concatenate(chosen, axis=1) - block.mean()) / block.std(), np.float32)


def check_trials(maps: SurfaceMaps, events: list[str], run: Run) -> bool:
    """Whether the maps' names show that they are in the order of the events: the makers name them by picture.

    Raises:
        FaultyFileError: another number of maps than of events, or names that show another order.
    """
    if len(maps.names) != len(events):
        problem = f"it holds {len(maps.names)} trials; expected {len(events)}, as many as lines of {run.events}"
        raise FaultyFileError(run.betas, problem, "download both again from OpenNeuro (ds004496)")
    pictures = [PurePosixPath(name).name for name in events]
    if maps.names == pictures:
        return True
    if set(maps.names) & set(pictures):
        trial = next(i for i, names in enumerate(zip(maps.names, pictures, strict=True)) if names[0] != names[1])
        problem = f"trial {trial + 1} is of {maps.names[trial]}; expected {pictures[trial]}, as in {run.events}"
        raise FaultyFileError(run.betas, problem, "download both again from OpenNeuro (ds004496)")
    return False


def _key(runs: Sequence[Run], vertices: Mapping[str, NDArray[np.int64]]) -> str:
    digest = hashlib.sha256(f"betas {BETAS_VERSION}".encode())
    for run in runs:
        for path in (run.betas, run.events):
            try:
                status = path.stat()
            except FileNotFoundError as error:
                raise missing(path) from error
            digest.update(f"\n{path}:{status.st_size}:{status.st_mtime}".encode())
    for hemisphere, numbers in vertices.items():
        digest.update(f"\n{hemisphere}:{numbers.tolist()}".encode())
    return digest.hexdigest()[:32]
