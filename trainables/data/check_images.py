"""Checks of stimuli: their names, whether they decode, and whether an id means one picture."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from trainables.data.faults import ERROR, WARNING, FaultList
from trainables.data.files import FaultyFileError, read_bytes
from trainables.data.layout import StimulusFile, unnamed_files
from trainables.data.stimuli import MIN_THREADS, Progress, decode_image
from trainables.data.subject import Subject


def check_names(subject: Subject, faults: FaultList) -> None:
    """Numbers without a gap, ids without a repeat, no file whose name tells nothing."""
    folder, stimuli = subject.files.training_images, subject.training_stimuli
    if not stimuli:
        problem = "it holds no image named like train-0001_nsd-00013.png"
        faults.add(ERROR, subject.name, FaultyFileError(folder, problem, "restore the training images"))
        return
    for stranger in unnamed_files(folder)[:1]:
        problem = "its name tells neither row nor stimulus, so it is left out"
        faults.add(WARNING, subject.name, FaultyFileError(stranger, problem, "rename it or move it away"))
    numbers = {stimulus.index for stimulus in stimuli}
    if gaps := sorted(set(range(1, max(numbers) + 1)) - numbers):
        problem = f"{len(gaps)} images are missing, the first is number {gaps[0]}"
        faults.add(WARNING, subject.name, FaultyFileError(folder, problem, "restore them, or renumber the images"))
    counts = Counter(stimulus.stimulus_id for stimulus in stimuli)
    if repeated := sorted(stimulus_id for stimulus_id, count in counts.items() if count > 1):
        problem = f"duplicate ids: {len(repeated)} occur more than once, the first is {repeated[0]}"
        remedy = "nothing, if the picture was shown as two stimuli: the split keeps an id in one part"
        faults.add(WARNING, subject.name, FaultyFileError(folder, problem, remedy))
    with faults.of(subject.name):
        if both := sorted(set(counts) & set(subject.test_stimulus_ids.tolist())):
            problem = f"{len(both)} ids are also among the training images, the first is {both[0]}"
            fault = FaultyFileError(subject.files.test_images, problem, "remove them from one of the two")
            faults.add(WARNING, subject.name, fault)


def check_images(subjects: list[Subject], faults: FaultList, progress: Progress | None) -> None:
    """Decodes every image, in parallel, and compares the pictures behind the ids."""
    stimuli: list[tuple[Subject, StimulusFile]] = []
    for subject in subjects:
        stimuli += [(subject, stimulus) for stimulus in subject.training_stimuli]
        with faults.of(subject.name):
            stimuli += [(subject, stimulus) for stimulus in subject.test_stimuli]
    seen = _SeenPictures()
    with ThreadPoolExecutor(max(os.cpu_count() or 1, MIN_THREADS)) as threads:
        digests = threads.map(_digest, (stimulus for _, stimulus in stimuli))
        for done, ((subject, stimulus), digest) in enumerate(zip(stimuli, digests, strict=True), start=1):
            if isinstance(digest, FaultyFileError):
                faults.add(ERROR, subject.name, digest)
            else:
                seen.add(subject.name, stimulus, digest)
            if progress:
                progress(done, len(stimuli))
    for severity, name, fault in seen.conflicts():
        faults.add(severity, name, fault)


def _digest(stimulus: StimulusFile) -> bytes | FaultyFileError:
    """SHA-256 of the pixels, whatever the file's compression, or what is wrong with the file."""
    try:
        image = decode_image(read_bytes(stimulus.path), stimulus.path)
    except FaultyFileError as fault:
        return fault
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


class _SeenPictures:
    """Whether ids and pictures belong to each other one to one; one example and a count for each way they do not.

    A count, because a laboratory that numbers its stimuli anew for each subject would otherwise get thousands.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[str, StimulusFile, bytes]] = {}
        self._by_picture: dict[bytes, StimulusFile] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], tuple[StimulusFile, StimulusFile]] = {}

    def add(self, subject: str, stimulus: StimulusFile, digest: bytes) -> None:
        owner, first, picture = self._by_id.setdefault(stimulus.stimulus_id, (subject, stimulus, digest))
        if picture != digest:
            self._note(subject, "id" if owner == subject else "shared id", stimulus, first)
        twin = self._by_picture.setdefault(digest, stimulus)
        if twin.stimulus_id != stimulus.stimulus_id:
            self._note(subject, "picture", stimulus, twin)

    def conflicts(self) -> Iterator[tuple[str, str, FaultyFileError]]:
        """(severity, subject, fault) of each kind of conflict."""
        for (subject, kind), (stimulus, other) in self._examples.items():
            severity, problem, remedy = _CONFLICTS[kind]
            count = f" ({self._counts[subject, kind]} such images)"
            fault = FaultyFileError(stimulus.path, problem.format(other=other.path) + count, remedy)
            yield severity, subject, fault

    def _note(self, subject: str, kind: str, stimulus: StimulusFile, other: StimulusFile) -> None:
        self._counts[subject, kind] += 1
        self._examples.setdefault((subject, kind), (stimulus, other))


_CONFLICTS = {
    "id": (
        ERROR,
        "shows another picture than {other}, which has the same id",
        "give every picture its own id",
    ),
    "shared id": (
        WARNING,
        "shows another picture than {other}, which has the same id",
        "let an id mean one picture in all subjects, or never compare their stimuli by id",
    ),
    "picture": (
        WARNING,
        "shows the same picture as {other}, which has another id, so both can end up in different parts of the split",
        "give both the same id",
    ),
}
