"""Checks of stimuli: their names, whether they decode, and whether an id means one picture."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from upath import UPath

from trainables.data.dataset import hashed_id
from trainables.data.decoding import Progress, decode_image
from trainables.data.faults import ERROR, WARNING, FaultList
from trainables.data.files import FaultyFileError, read_bytes, reading_threads
from trainables.data.layout import unnamed_files
from trainables.data.subject import Subject


@dataclass(frozen=True)
class ShownImage:
    """An image that a subject saw."""

    subject: str
    path: UPath
    stimulus_id: int | None
    """Dataset-wide id; None: it follows from the file's content."""


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
    check_repeated(counts, subject.name, folder, faults)
    with faults.of(subject.name):
        if both := sorted(set(counts) & set(subject.test_stimulus_ids.tolist())):
            problem = f"{len(both)} ids are also among the training images, the first is {both[0]}"
            fault = FaultyFileError(subject.files.test_images, problem, "remove them from one of the two")
            faults.add(WARNING, subject.name, fault)


def check_repeated(counts: Mapping[int, int], subject: str, place: UPath, faults: FaultList) -> None:
    """Warns of ids that occur more than once."""
    if repeated := sorted(stimulus_id for stimulus_id, count in counts.items() if count > 1):
        problem = f"duplicate ids: {len(repeated)} occur more than once, the first is {repeated[0]}"
        remedy = "nothing, if the picture was shown as two stimuli: the split keeps an id in one part"
        faults.add(WARNING, subject, FaultyFileError(place, problem, remedy))


def check_images(shown: list[ShownImage], faults: FaultList, progress: Progress | None) -> None:
    """Decodes every image, in parallel, and compares the pictures behind the ids."""
    seen = _SeenPictures()
    with reading_threads() as threads:
        looks = threads.map(_look_at, shown)
        for done, (image, look) in enumerate(zip(shown, looks, strict=True), start=1):
            if isinstance(look, FaultyFileError):
                faults.add(ERROR, image.subject, look)
            else:
                seen.add(image, *look)
            if progress:
                progress(done, len(shown))
    for severity, name, fault in seen.conflicts():
        faults.add(severity, name, fault)


def _look_at(image: ShownImage) -> tuple[int, bytes] | FaultyFileError:
    """Id and SHA-256 of the pixels, whatever the file's compression, or what is wrong with the file."""
    try:
        content = read_bytes(image.path)
        picture = decode_image(content, image.path)
    except FaultyFileError as fault:
        return fault
    stimulus_id = hashed_id(content) if image.stimulus_id is None else image.stimulus_id
    return stimulus_id, hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


class _SeenPictures:
    """Whether ids and pictures belong to each other one to one; one example and a count for each way they do not.

    A count, because a laboratory that numbers its stimuli anew for each subject would otherwise get thousands.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[ShownImage, bytes]] = {}
        self._by_picture: dict[bytes, tuple[ShownImage, int]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], tuple[ShownImage, ShownImage]] = {}

    def add(self, image: ShownImage, stimulus_id: int, digest: bytes) -> None:
        first, picture = self._by_id.setdefault(stimulus_id, (image, digest))
        if picture != digest:
            self._note("id" if first.subject == image.subject else "shared id", image, first)
        twin, twin_id = self._by_picture.setdefault(digest, (image, stimulus_id))
        if twin_id != stimulus_id:
            self._note("picture", image, twin)

    def conflicts(self) -> Iterator[tuple[str, str, FaultyFileError]]:
        """(severity, subject, fault) of each kind of conflict."""
        for (subject, kind), (image, other) in self._examples.items():
            severity, problem, remedy = _CONFLICTS[kind]
            count = f" ({self._counts[subject, kind]} such images)"
            fault = FaultyFileError(image.path, problem.format(other=other.path) + count, remedy)
            yield severity, subject, fault

    def _note(self, kind: str, image: ShownImage, other: ShownImage) -> None:
        self._counts[image.subject, kind] += 1
        self._examples.setdefault((image.subject, kind), (image, other))


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
