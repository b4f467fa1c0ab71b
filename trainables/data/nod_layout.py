"""Where the files of the Natural Object Dataset lie (OpenNeuro ds004496), and which picture each trial showed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from upath import UPath

from trainables.data.files import FaultyFileError, read_bytes
from trainables.errors import DataError

CIFTIFY = "derivatives/ciftify"
PARCELLATION = "parcellation"
"""Folder, beside ``derivatives``, of the one file that NOD itself does not carry."""
PARCELLATION_SUFFIXES = (".dlabel.nii", ".dscalar.nii", ".mat")

SUBJECTS = range(1, 10)
"""Those who came for four sessions; the other 21 saw a quarter of the pictures and no retinotopy."""
SESSIONS = range(1, 5)
"""The fifth session of some shows the pictures of another experiment."""
RUNS = range(1, 11)
"""Of each session."""

_SUBJECT = re.compile(r"sub-0*(\d+)")
# The makers number the runs of betas 1, 2, ... and those of events 01, 02, ...; either is read in either place.
_BETAS = re.compile(r"ses-imagenet0*(\d+)_task-imagenet_run-0*(\d+)")
_EVENTS = re.compile(r"sub-\d+_ses-imagenet0*(\d+)_task-imagenet_run-0*(\d+)_events\.tsv")

_DOWNLOAD = "download it from OpenNeuro (ds004496)"


@dataclass(frozen=True)
class NodFiles:
    """The places of one subject's files; none of them needs to exist."""

    root: UPath
    folder: str
    """``sub-01``."""

    @property
    def results(self) -> UPath:
        """Folder of everything measured on the surface."""
        return self.root / CIFTIFY / self.folder / "results"

    @property
    def prf_maps(self) -> UPath:
        """Maps of population receptive fields: angle, eccentricity, size, R²."""
        return self.results / "ses-prf_task-prf" / "ses-prf_task-prf_params.dscalar.nii"

    @property
    def stimuli(self) -> UPath:
        """Folder below which all pictures lie."""
        return self.root / "stimuli"


@dataclass(frozen=True)
class Run:
    """A hundred trials without a pause."""

    name: str
    """For people: ``ses-imagenet01 run-2``."""
    betas: UPath
    """CIFTI file with a map per trial."""
    events: UPath
    """Table with a line per trial, in the same order."""


def find_nod_subjects(root: UPath) -> dict[str, NodFiles]:
    """The subjects 1 to 9, as far as they are there, by name (``subj01`` for ``sub-01``).

    Raises:
        DataError: there is none.
    """
    found = {number: path.name for number, path in _numbered(root / CIFTIFY)}
    subjects = {f"subj{number:02d}": NodFiles(root, found[number]) for number in SUBJECTS if number in found}
    if not subjects:
        raise DataError(f"data set {root} holds none of NOD's subjects 1 to 9; expected {CIFTIFY}/sub-01/results/...")
    return subjects


def list_runs(files: NodFiles) -> list[Run]:
    """All forty runs in the order of sessions and runs, by their numbers.

    Raises:
        FaultyFileError: a run has no folder of betas or no events.
    """
    runs, missing = find_runs(files)
    if missing:
        problem = f"{len(missing)} of {len(SESSIONS) * len(RUNS)} runs are missing: {shortened(missing)}"
        raise FaultyFileError(files.results, problem, "download them from OpenNeuro (ds004496)")
    return runs


def find_runs(files: NodFiles) -> tuple[list[Run], list[str]]:
    """The runs that are there, and what is missing of the others: ``ses-imagenet01 run-2 (events)``."""
    betas, events = dict(_betas(files)), dict(_events(files))
    runs: list[Run] = []
    missing: list[str] = []
    for key in ((session, run) for session in SESSIONS for run in RUNS):
        name = f"ses-imagenet{key[0]:02d} run-{key[1]}"
        if key in betas and key in events:
            runs.append(Run(name, betas[key], events[key]))
        else:
            missing += [
                f"{name} ({what})" for what, there in (("betas", betas), ("events", events)) if key not in there
            ]
    return runs, missing


def read_events(run: Run) -> list[str]:
    """The picture of each trial, as a path below ``stimuli``.

    Raises:
        FaultyFileError: the table is missing or damaged, or names a place outside ``stimuli``.
    """
    try:
        lines = read_bytes(run.events).decode("utf-8-sig").splitlines()
        rows = list(csv.DictReader(lines, delimiter="\t", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FaultyFileError(run.events, f"not a readable table ({error})", f"{_DOWNLOAD} again") from error
    names = [(row.get("stim_file") or "").strip() for row in rows]
    if not names:
        raise FaultyFileError(run.events, "it lists no trial", f"{_DOWNLOAD} again")
    for line, name in enumerate(names, start=2):
        parts = PurePosixPath(name).parts
        if not parts or name == "n/a" or parts[0].startswith("/") or ".." in parts or not name.isprintable():
            problem = f"stim_file in line {line} is {name!r}; expected the picture's path below stimuli"
            raise FaultyFileError(run.events, problem, f"{_DOWNLOAD} again")
    return names


def find_parcellation(root: UPath) -> UPath:
    """The file that says which vertex belongs to which area.

    Raises:
        FaultyFileError: there is none, or more than one.
    """
    folder = root / PARCELLATION
    found = [path for path in folder.iterdir() if path.name.endswith(PARCELLATION_SUFFIXES)] if folder.exists() else []
    if len(found) != 1:
        problem = f"it holds {len(found)} files {', '.join(PARCELLATION_SUFFIXES)}; expected the HCP-MMP parcellation"
        raise FaultyFileError(folder, problem, "put there MMP_mpmLR32k.mat of the code that NOD's makers published")
    return found[0]


def shortened(words: list[str], n: int = 3) -> str:
    """The first ``n`` words, and how many more there are."""
    more = f" and {len(words) - n} more" if len(words) > n else ""
    return ", ".join(words[:n]) + more


def _numbered(folder: UPath) -> Iterator[tuple[int, UPath]]:
    for path in folder.iterdir():
        if match := _SUBJECT.fullmatch(path.name):
            yield int(match[1]), path


def _betas(files: NodFiles) -> Iterator[tuple[tuple[int, int], UPath]]:
    if files.results.exists():
        for folder in files.results.iterdir():
            if match := _BETAS.fullmatch(folder.name):
                yield (int(match[1]), int(match[2])), folder / f"{folder.name}_beta.dscalar.nii"


def _events(files: NodFiles) -> Iterator[tuple[tuple[int, int], UPath]]:
    for session in SESSIONS:
        folder = files.root / files.folder / f"ses-imagenet{session:02d}" / "func"
        for path in folder.iterdir() if folder.exists() else ():
            if match := _EVENTS.fullmatch(path.name):
                yield (int(match[1]), int(match[2])), path
