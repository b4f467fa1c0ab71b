"""Which images a subject saw, in the order of the responses' rows, and their dataset-wide ids."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from trainables.data.dataset import hashed_id
from trainables.data.files import NPY_DAMAGE, FaultyFileError, fingerprint, locked, read_bytes, reading_threads, writing
from trainables.data.generic_toml import GenericFiles, inside, require_inside

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""Of image files, in any case."""

_LARGEST_ID = 2**63 - 1
_IDS_RECIPE = "content ids 1"
_HEADER = "file"


@dataclass(frozen=True)
class ListedStimulus:
    """One row of the responses."""

    path: UPath
    stimulus_id: int | None
    """Dataset-wide id; None: it follows from the file's content."""


def list_stimuli(files: GenericFiles) -> list[ListedStimulus]:
    """The stimuli of a subject in the order of the responses' rows.

    Raises:
        FaultyFileError: the folder or the list is missing or damaged, or names a place outside the data set.
    """
    return _in_folder(files) if files.stimuli is None else _in_list(files, files.stimuli)


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorts ``image2`` before ``image10``: digits count as numbers, the rest by letters without regard to case."""
    # Splitting at a group alternates text and digits, so that equal positions hold equal types.
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], name


def content_ids(paths: Sequence[UPath], cache_dir: Path) -> NDArray[np.int64]:
    """Ids (n_paths,) that follow from the bytes of the files; a memo in the cache saves reading them again.

    The memo's key is made of paths, sizes and times of change: whatever is edited or replaced is read again.

    Raises:
        FaultyFileError: a file is missing or cannot be read.
        StorageError: the cache cannot be written.
    """
    memo = cache_dir / f"ids-{fingerprint(paths, _IDS_RECIPE)}.npy"
    with locked(memo):
        try:
            ids: NDArray[np.int64] = np.load(memo, allow_pickle=False)
        except NPY_DAMAGE:
            with reading_threads() as threads:
                ids = np.array(list(threads.map(lambda path: hashed_id(read_bytes(path)), paths)), np.int64)
            with writing(memo) as file:
                np.save(file, ids)
    return ids


def _in_folder(files: GenericFiles) -> list[ListedStimulus]:
    if not files.images.is_dir():
        raise FaultyFileError(files.images, "the folder of images is missing", "correct its name in dataset.toml")
    found = [
        path
        for path in files.images.iterdir()
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
    ]
    if not found:
        problem = f"it holds no image ({', '.join(SUFFIXES)})"
        raise FaultyFileError(files.images, problem, "put the images there, or correct the folder in dataset.toml")
    for path in found:
        require_inside(files.root, path)
    return [ListedStimulus(path, None) for path in sorted(found, key=lambda path: natural_order(path.name))]


def _in_list(files: GenericFiles, path: UPath) -> list[ListedStimulus]:
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FaultyFileError(path, f"not a readable list of stimuli ({error})", "save it as UTF-8 text") from error
    rows = [row for row in rows if any(row) and not row[0].startswith("#")]
    if rows and rows[0][0].lower() == _HEADER:
        rows = rows[1:]
    if not rows:
        raise FaultyFileError(path, "it lists no stimulus", "write a file name, and optionally ',' and an id, per line")
    if rows and all(len(row) == 1 and row[0].count(";") == 1 for row in rows):
        raise FaultyFileError(path, f"its columns stand apart by ';' ({rows[0][0]!r})", "write 'file,id' in each line")
    with_id = {len(row) > 1 and bool(row[1]) for row in rows}
    if len(with_id) > 1 or max(map(len, rows)) > 2:
        problem = "some lines have an id and some do not, or a line has more than two columns"
        raise FaultyFileError(path, problem, "write 'file,id' in each line, or 'file' in each line")
    return [_listed(files, path, row) for row in rows]


def _listed(files: GenericFiles, path: UPath, row: list[str]) -> ListedStimulus:
    image = inside(files.root, row[0], f"a stimulus in {path}", files.images)
    if len(row) < 2 or not row[1]:
        return ListedStimulus(image, None)
    if not re.fullmatch(r"[0-9]{1,19}", row[1]) or int(row[1]) > _LARGEST_ID:
        problem = f"the id of {row[0]} is {row[1]!r}; expected a whole number from 0 to {_LARGEST_ID}"
        raise FaultyFileError(path, problem, "number the stimuli")
    return ListedStimulus(image, int(row[1]))
